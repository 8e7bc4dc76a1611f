"""Tables of Parquet files: found, checked by their footers, measured in one pass, converted from text."""

import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
from hypothesis import given, strategies as st
from pyarrow.parquet import ParquetFile, read_table, write_table

from tests.support.parquet import COLUMNS, opened, rows_of, write
from torch_ref.data import ColumnStatistics, ParquetTable, csv_to_parquet, load_data, stream_data


def test_a_folder_a_pattern_and_a_url_are_the_same_table(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", rows_of(), 23, 31)
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe(f"/rows/{path.name}", path.read_bytes())
    sources = (str(folder), f"{folder}/part-*.parquet", "memory://rows", "memory://rows/*.parquet")
    tables = [ParquetTable(source, COLUMNS) for source in (folder, *sources)]
    for table in tables:
        assert (len(table), len(table.groups), table.width) == (203, 9, 6)
        assert [group.rows for group in table.groups] == [23, 23, 23, 23, 9, 31, 31, 31, 9]
        for name, array in table.arrays().items():
            np.testing.assert_array_equal(array, tables[0].arrays()[name])
    assert len({table.fingerprint() for table in tables}) == 1
    assert len(ParquetTable(folder / "part-0.parquet", COLUMNS)) == 101
    system.rm("/rows", recursive=True)


def test_the_arrays_are_the_columns_in_their_order(tmp_path: Path) -> None:
    made, arrays = rows_of(), opened(tmp_path, 23, 31).arrays("float32")
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "x": ((203, 3), "float32"), "t": ((203,), "int32"), "y": ((203, 1), "float32"), "w": ((203,), "float32"),
    }  # fmt: skip
    for place, name in enumerate("abc"):
        np.testing.assert_array_equal(arrays["x"][:, place], made[name].to_numpy().astype("float32"))


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, asked = opened(tmp_path, 50), []
    read = ParquetFile.read_row_group
    monkeypatch.setattr(
        ParquetFile, "read_row_group", lambda *args, **named: (asked.append(named), read(*args, **named))[1]
    )
    table.arrays()
    table.only(["x"]).arrays()
    assert [sorted(named["columns"]) for named in asked] == [["a", "b", "c", "t", "w", "y"]] * 5 + [["a", "b", "c"]] * 5


def test_the_default_window_is_at_least_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(tmp_path, 50).window == 2**24 // 6
    monkeypatch.setattr(ParquetTable, "_window_numbers", 100)
    assert ParquetTable(tmp_path, COLUMNS).window == 50


def test_stream_data_finds_the_features_that_load_data_finds(tmp_path: Path) -> None:
    made = rows_of().append_column("mu0", rows_of()["y"])
    write_table(made, tmp_path / "rows.parquet")
    chosen: dict[str, Any] = {"weight": "w", "ignore": ["unread"]}
    table, data = stream_data(tmp_path, **chosen), load_data(tmp_path / "rows.parquet", **chosen)
    assert table.columns["x"] == data.feature_names == ("a", "b", "c")
    for name, array in data.arrays().items():
        np.testing.assert_array_equal(table.arrays()[name], array)
    assert stream_data(tmp_path, features=["b"]).columns == {"x": ("b",), "t": "t", "y": "y"}
    with pytest.raises(ValueError, match=rf"^{tmp_path}: ignore: expected names of features, each once, got z$"):
        stream_data(tmp_path, ignore=["z"])
    with pytest.raises(ValueError, match=rf"^{tmp_path}: expected a column 'z', got a, b, c, t, y, w, unread, mu0$"):
        stream_data(tmp_path, outcome="z")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"columns": {}}, "columns: expected the columns of each array, such as x, t and y, got {{}}"),
    ({"columns": {"x": []}}, "columns['x']: expected at least one column, got none"),
    ({"columns": {"x": [1]}}, "columns['x']: expected names of columns, got [1]"),
    ({"columns": {"t": ["t", "c"]}}, "columns['t']: expected one column, got t, c"),
    ({"columns": {"x": "z"}}, "{0}/part-0.parquet: expected the column z once, got a, b, c, t, y, w, unread"),
    ({"window": 30}, "window: expected at least 31 rows, as the largest row group has, got 30"),
    ({"source": 3}, "source: expected the path of Parquet files, got 3"),
    (
        {"source": "nowhere://rows"},
        "nowhere://rows: expected a URL that fsspec can open, got Protocol not known: nowhere",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arguments(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, rows_of(), 23, 31)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(tmp_path))}$"):
        ParquetTable(**({"source": tmp_path, "columns": COLUMNS} | changes))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "rows.parquet", f"{tmp_path}/*.parquet", "memory://nothing"):
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(source))}: expected Parquet files, found none$"):
            ParquetTable(source, COLUMNS)


def test_another_schema_a_damaged_and_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, rows_of(), 23, 31)
    last, made = tmp_path / "part-1.parquet", rows_of()
    whole = last.read_bytes()
    write_table(made.set_column(1, "b", made["b"].cast("float64")), last)
    with pytest.raises(
        ValueError, match=rf"^{last}: column b: expected float, as in {tmp_path}/part-0.parquet, got double$"
    ):
        opened_again(tmp_path)
    write_table(made.drop_columns(["y"]), last)
    with pytest.raises(ValueError, match=rf"^{last}: expected the column y once, got a, b, c, t, w, unread$"):
        opened_again(tmp_path)
    last.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=rf"^{last}: expected a whole Parquet file, got "):
        opened_again(tmp_path)
    write_table(made.slice(0, 0), last)
    assert len(opened_again(tmp_path)) == 101
    (tmp_path / "part-0.parquet").unlink()
    with pytest.raises(ValueError, match=rf"^{tmp_path}: expected at least one row, got none$"):
        opened_again(tmp_path)
    write_table(pyarrow.table({"x": ["one", "two"]}), last)
    with pytest.raises(ValueError, match=r"column x: expected numbers or truth values, got string$"):
        ParquetTable(last, {"x": "x"})
    write_table(pyarrow.table({"t": [0.5]}), last)
    with pytest.raises(
        ValueError, match=r"row group 0: column t: expected the number of an arm in every row, got 0.5 in row 0$"
    ):
        ParquetTable(last, {"t": "t"}).arrays()


def opened_again(folder: Path) -> ParquetTable:
    return ParquetTable(folder, COLUMNS)


@pytest.mark.parametrize(("missing", "source"), [("pyarrow", "rows.parquet"), ("fsspec", "memory://rows")])
def test_a_package_that_is_missing(missing: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(rows_of(), tmp_path / "rows.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"^{source}: .* {missing}: pip install 'twohead\[data\]'$"):
        ParquetTable(source, COLUMNS)


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    table = opened(tmp_path, 23, 31)
    for name, array in table.arrays().items():
        found, rows = table.statistics()[name], array.reshape(203, -1).astype(np.float64)
        assert (found.count, found.columns) == (203, {"x": ("a", "b", "c")}.get(name, (name,)))
        for of_numpy, of_table in (
            (rows.mean(0), found.mean), (rows.std(0), found.deviation), (rows.min(0), found.minimum),
            (rows.max(0), found.maximum),
        ):  # fmt: skip
            np.testing.assert_allclose(of_table, of_numpy, rtol=1e-13, atol=1e-15)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.sampled_from([0.0, 1.0, 1e9, -1e15]),
    st.integers(0, 2**32 - 1),
)
def test_statistics_of_any_parts(sizes: list[int], offset: float, seed: int) -> None:
    """Far from zero too, where a sum of squares would lose every digit."""
    rows = offset + np.random.default_rng(seed).normal(size=(sum(sizes), 2)) * [1, max(1, abs(offset) * 1e-12)]
    found = ColumnStatistics.of(("a", "b"), np.split(rows, np.cumsum(sizes)[:-1]))
    exact = rows.astype(np.longdouble)
    np.testing.assert_allclose(found.mean, exact.mean(0).astype(float), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found.deviation, exact.std(0).astype(float), rtol=1e-8, atol=1e-14)
    assert found.count == len(rows)


def test_a_constant_column_has_no_deviation() -> None:
    found = ColumnStatistics.of(("a",), [np.full((7, 1), 0.1), np.full((5, 1), 0.1)])
    assert (found.mean.tolist(), found.deviation.tolist()) == ([0.1], [0.0])


def lines(count: int, last: str) -> str:
    return "age,treated,city\n" + "30,true,\n" * count + last


def test_text_becomes_parquet_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_ref.common.stream.convert as convert

    monkeypatch.setattr(convert, "_CHUNK", 100)
    source = tmp_path / "rows.csv"
    source.write_text(lines(40, "45.5,false,7\n"))
    target = csv_to_parquet(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.parquet"]
    found = read_table(target)
    assert {field.name: str(field.type) for field in found.schema} == {
        "age": "double",
        "treated": "bool",
        "city": "double",
    }
    assert found["age"].to_pylist() == [30.0] * 40 + [45.5]
    assert found["city"].null_count == 40
    with ParquetFile(target) as file:
        assert file.num_row_groups > 3
    made = target.stat().st_mtime_ns
    assert csv_to_parquet(str(source)).stat().st_mtime_ns == made  # it is newer
    os.utime(source, ns=(made + 10**9, made + 10**9))
    assert csv_to_parquet(source).stat().st_mtime_ns != made


WRONG_TEXT = [
    (lines(40, "45,true,Rome\n"), "line 42: column city: expected a number, as in the first lines, got 'Rome'"),
    (lines(40, "forty,true,\n"), "line 42: column age: expected a number, as in the first lines, got 'forty'"),
    (lines(40, "40,maybe,\n"), "line 42: column treated: expected a truth value, as in the first lines, got 'maybe'"),
    (lines(40, "1,true\n"), "line 42: expected 3 values, got 2"),
    (lines(0, ""), "expected at least one row, got a header only"),
    ("", "expected a line of names and at least one row, got an empty file"),
    ("1,2\n3,4\n", "line 1: expected the names of the columns, got '1,2'"),
    ("a,a\n3,4\n", "expected every column once, got 'a' twice"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG_TEXT)
def test_text_that_does_not_fit(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_ref.common.stream.convert._CHUNK", 100)
    source = tmp_path / "rows.csv"
    source.write_text(text)
    with pytest.raises(ValueError, match=rf"^{source}[:,] {message}"):
        csv_to_parquet(source)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    with pytest.raises(ValueError, match=r"^path: expected a file ending in .csv, got 'rows.txt'$"):
        csv_to_parquet("rows.txt")
    with pytest.raises(FileNotFoundError, match=r"^none.csv: expected a file, found none$"):
        csv_to_parquet("none.csv")


def test_reading_part_of_a_table_ends_its_threads(tmp_path: Path) -> None:
    parts = opened(tmp_path, 4, 4).parts()
    next(parts)
    parts.close()  # pyright: ignore[reportAttributeAccessIssue] (it is a generator)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-parquet")]
