"""Text becomes a Parquet file beside it, chunk by chunk; what does not fit is named by file and line."""

import os
import re
from pathlib import Path

import pyarrow
import pytest
from pyarrow.parquet import ParquetFile, read_table, write_table

from torch_ref.data import ParquetTable, csv_to_parquet


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
    assert csv_to_parquet(str(source)).stat().st_mtime_ns == made


def test_a_conversion_is_kept_as_long_as_its_text_is_the_same(tmp_path: Path) -> None:
    """Whatever the clock says: another text of another time, even an older one, is converted."""
    source = tmp_path / "rows.csv"

    def fingerprint(text: str, time: int) -> str:
        source.write_text(text)
        os.utime(source, ns=(time, time))
        return ParquetTable(csv_to_parquet(source), {"x": "age"}).fingerprint()

    first = fingerprint("age\n1\n5\n4\n9\n", 10**18)
    made = source.with_suffix(".parquet").stat().st_mtime_ns
    assert fingerprint("age\n1\n5\n4\n9\n", 10**18) == first
    assert source.with_suffix(".parquet").stat().st_mtime_ns == made
    edited = fingerprint("age\n1\n6\n4\n9\n", 10**18 - 1)  # of the same size and range, as footers tell it
    assert read_table(source.with_suffix(".parquet"))["age"].to_pylist() == [1, 6, 4, 9]
    assert edited != first == fingerprint("age\n1\n5\n4\n9\n", 10**18 + 1)


def test_a_table_that_was_not_made_of_the_text_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    write_table(pyarrow.table({"b": [1]}), target)
    source.write_text("a\n2\n")
    expected = f"expected no file, or one that was made of {source}, got another table: take that, or move it"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{target}: {expected}')}$"):
        csv_to_parquet(source)
    assert read_table(target).to_pydict() == {"b": [1]}


def test_dates_stay_dates(tmp_path: Path) -> None:
    """So that a training refuses them, as one in memory does."""
    source = tmp_path / "rows.csv"
    source.write_text("day,time\n2020-01-01,2020-01-01T10:00:00\n2020-01-02,2020-01-01T10:00:00\n")
    assert [str(kind) for kind in read_table(csv_to_parquet(source)).schema.types] == ["date32[day]", "timestamp[ns]"]


WRONG_TEXT = [
    (lines(40, "45,true,Rome\n"), "line 42: column city: expected a number, as in the first lines, got 'Rome'"),
    (lines(40, "forty,true,\n"), "line 42: column age: expected a number, as in the first lines, got 'forty'"),
    (lines(40, "40,maybe,\n"), "line 42: column treated: expected a truth value, as in the first lines, got 'maybe'"),
    (lines(40, "1,true\n"), "line 42: expected 3 values, got 2"),
    ("day\n" + "2020-01-01\n" * 40 + "soon\n",
     "line 42: column day: expected a date or a time, as in the first lines, got 'soon'"),
    ('name,age,city\n"a,1,x\nb",1,x\n',
     "column name: expected every quote to be closed, got a cell of 2 lines in row 0"),
    (lines(1, '"' + "x" * 200 + '",true,\n'), "expected every quote to be closed, got a row of more than 100 bytes"),
    ("a;b\n1;2\n", "line 1: expected commas between the names, got semicolons"),
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
