"""What the columns of a table are: alike in pandas, polars, pyarrow, arrays, .csv and .parquet."""

import datetime
import decimal
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.data import Column, describe, load_data, load_features, to_numbers

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
import pyarrow.csv  # noqa: E402
import pyarrow.parquet  # noqa: E402

CELLS: dict[str, list[Any]] = {
    "age": [31.0, None, 53.5, 20.0],
    "children": [0, 2, 1, 3],
    "city": ["Rome", "Oslo", None, "Rome"],
    "kind": ["b", "a", "b", "b"],
    "smokes": [True, False, None, True],
    "owns": [False, True, True, False],
}
COLUMNS = (
    Column("age", None, True),
    Column("children"),
    Column("city", ("Oslo", "Rome"), True),
    Column("kind", ("a", "b")),
    Column("smokes", None, True),
    Column("owns"),
)
NAN = np.nan
NUMBERS = [[31, 0, 1, 1, 1, 0], [NAN, 2, 0, 0, 0, 1], [53.5, 1, NAN, 1, NAN, 1], [20, 3, 1, 1, 1, 0]]


def arrow() -> Any:
    return pa.table(CELLS)


def of_csv(folder: Path) -> Any:
    pyarrow.csv.write_csv(arrow(), folder / "table.csv")
    return folder / "table.csv"


def of_parquet(folder: Path) -> Any:
    pyarrow.parquet.write_table(arrow(), folder / "table.parquet")
    return folder / "table.parquet"


def categorical_pandas() -> Any:
    return pd.DataFrame(CELLS).astype({"kind": "category", "city": "category", "smokes": "boolean", "age": "Float64"})


TABLES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(CELLS),
    "pandas, its own types": categorical_pandas,
    "pandas on pyarrow": lambda: pd.DataFrame(CELLS).convert_dtypes(dtype_backend="pyarrow"),
    "pandas, another index": lambda: pd.DataFrame(CELLS, index=[7, 7, 3, 1]),
    "polars": lambda: pl.DataFrame(CELLS),
    "polars, large integers": lambda: pl.DataFrame(CELLS, schema_overrides={"children": pl.Int128}),
    "pandas' and polars' series": lambda: {
        name: pd.Series(cells) if name == "city" else pl.Series(cells) for name, cells in CELLS.items()
    },
    "masked arrays": lambda: CELLS | {"age": np.ma.masked_equal([31.0, 0.0, 53.5, 20.0], 0)},
    "polars, its own types": lambda: pl.DataFrame(
        CELLS,
        schema_overrides={"kind": pl.Categorical, "city": pl.Enum(["Oslo", "Paris", "Rome"]), "children": pl.Int8},
    ),
    "pyarrow": arrow,
    "pyarrow, dictionaries": lambda: arrow().set_column(3, "kind", pa.array(CELLS["kind"]).dictionary_encode()),
    "pyarrow, decimals": lambda: arrow().set_column(
        0, "age", pa.array([None if age is None else decimal.Decimal(str(age)) for age in CELLS["age"]])
    ),
    "arrays": lambda: {name: np.array(cells, object) for name, cells in CELLS.items()},
    "lists": lambda: CELLS,
}


@pytest.mark.parametrize("of", TABLES)
def test_every_library_gives_the_same_columns_and_numbers(of: str) -> None:
    table = TABLES[of]()
    assert describe(table) == COLUMNS
    found = to_numbers(table, COLUMNS)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, NUMBERS)


@pytest.mark.parametrize("write", [of_csv, of_parquet])
def test_files_give_the_same_columns_and_numbers(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    data = load_data(path, treatment="kind", outcome="children")
    assert data.columns == tuple(column for column in COLUMNS if column.name not in ("kind", "children"))
    np.testing.assert_array_equal(data.x, np.array(NUMBERS)[:, [0, 2, 4, 5]])
    assert data.arms == ("a", "b")
    np.testing.assert_array_equal(load_features(path, COLUMNS), NUMBERS)


@pytest.mark.parametrize(
    ("table", "levels"),
    [
        (
            lambda: pd.DataFrame({"a": pd.Categorical(["low", "high"], ["low", "mid", "high"], ordered=True)}),
            ("low", "high"),
        ),
        (lambda: pl.DataFrame({"a": ["low", "high"]}, schema={"a": pl.Enum(["low", "mid", "high"])}), ("low", "high")),
        (lambda: pd.DataFrame({"a": pd.Categorical(["low", "high"], ["low", "mid", "high"])}), ("high", "low")),
        (lambda: pd.DataFrame({"a": pd.Categorical([10, 2, 10])}), (2, 10)),
        (lambda: pd.DataFrame({"a": pd.Categorical([True, False])}), (False, True)),
    ],
)
def test_levels_are_those_seen_in_the_order_of_their_dtype(table: Callable[[], Any], levels: tuple[Any, ...]) -> None:
    (found,) = describe(table())
    assert found.levels == levels
    assert {type(level) for level in found.levels or ()} <= {str, int, bool}


def test_columns_are_picked_by_name_and_unseen_levels_are_minus_1() -> None:
    table = pl.DataFrame({"kind": ["c", "b", None], "more": [[1], [2], [3]], "children": [1.5, 2.0, 4.0]})
    found = to_numbers(table, [Column("children"), Column("kind", ("a", "b"))])
    np.testing.assert_array_equal(found, [[1.5, -1], [2, 1], [4, -1]])
    found = to_numbers(table, [Column("kind", ("a", "b"), gaps=True)])
    np.testing.assert_array_equal(found, [[-1], [1], [NAN]])


def test_numbers_may_come_for_levels_that_are_numbers() -> None:
    """A file of text cannot say that a number is a category."""
    np.testing.assert_array_equal(to_numbers({"a": [10.0, 3.0, 2.0]}, [Column("a", (2, 10))]), [[1], [-1], [0]])


def test_text_that_looks_like_numbers_stays_text_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("zip\n01234\n99999\n")
    np.testing.assert_array_equal(load_features(tmp_path / "new.csv", [Column("zip", ("01234", "2A004"))]), [[0], [-1]])


def test_a_column_may_be_empty_at_predict_where_training_had_gaps(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("age,city\n,\n,\n")
    found = load_features(tmp_path / "new.csv", [Column("age", None, True), Column("city", ("a",), True)])
    assert np.isnan(found).all()
    assert found.shape == (2, 2)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs", "Cc"]), max_size=5)
cells = st.one_of(
    st.lists(st.one_of(st.none(), texts.map(lambda text: f"_{text}")), min_size=5, max_size=5),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=5, max_size=5),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=5, max_size=5),
).filter(lambda found: any(cell is not None for cell in found))


@given(st.lists(cells, min_size=1, max_size=3))
def test_cells_come_back(table: list[list[Any]]) -> None:
    """From arrays, pandas, polars, pyarrow and files: numbers as they were, and levels by their places."""
    columns = {f"c{place}": found for place, found in enumerate(table)}
    described = describe(columns)
    numbers = to_numbers(columns, described)
    for column, found, expected in zip(described, numbers.T.tolist(), table, strict=True):
        levels = column.levels
        back = [None if x != x else x if levels is None else levels[int(x)] for x in found]
        assert back == expected
    frame = pa.table(columns)
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    path = folder / f"twohead-{os.getpid()}.parquet"
    pyarrow.parquet.write_table(frame, path)
    for other in (frame, pl.from_arrow(frame), frame.to_pandas()):
        assert describe(other) == described
        np.testing.assert_array_equal(to_numbers(other, described), numbers)
    np.testing.assert_array_equal(load_features(path, described), numbers)
    path.unlink()
    path = path.with_suffix(".csv")
    pyarrow.csv.write_csv(frame, path)
    np.testing.assert_array_equal(load_features(path, described), numbers)
    path.unlink()


DAY = datetime.date(2026, 1, 2)
TO_NUMBER = "make them a number, such as {}, or leave the column out (ignore=, --ignore)"
KINDS = "column a: expected numbers, truth values or categories, got"
DATES = f"{KINDS} dates; {TO_NUMBER.format('days since a fixed date')}"
LISTS = f"{KINDS} lists; make a column of each entry, or leave the column out (ignore=, --ignore)"
RECORDS = f"{KINDS} records; make a column of each field, or leave the column out (ignore=, --ignore)"
BYTES = f"{KINDS} bytes; decode them to text, or leave the column out (ignore=, --ignore)"
MEND = "mend it, leave it empty, or declare it a category (categories=, --categories)"
NAMES = [f"name {number}" for number in range(30)]
MEMORY = "table: expected a table of pandas, polars or pyarrow in memory, or arrays by name, got"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "dates in pandas": (lambda: pd.DataFrame({"a": pd.to_datetime(["2026-01-02"])}), DATES),
    "dates as objects": (lambda: pd.DataFrame({"a": [DAY, None]}), DATES),
    "dates in polars": (lambda: pl.DataFrame({"a": [DAY]}), DATES),
    "dates in pyarrow": (lambda: pa.table({"a": [DAY]}), DATES),
    "dates in numpy": (lambda: {"a": np.array(["2026-01-02"], "datetime64[D]")}, DATES),
    "dates as text": (lambda: {"a": ["2026-01-02", "2026-01-03 10:00"]}, DATES),
    "dates as people write them": (lambda: {"a": ["02.01.2026", "3.1.2026"]}, DATES),
    "periods": (lambda: pd.DataFrame({"a": pd.period_range("2026-01", periods=2, freq="M")}), DATES),
    "durations": (
        lambda: pl.DataFrame({"a": [datetime.timedelta(days=1)]}),
        f"{KINDS} durations; {TO_NUMBER.format('days')}",
    ),
    "times": (
        lambda: pl.DataFrame({"a": [datetime.time(1)]}),
        f"{KINDS} times of day; {TO_NUMBER.format('hours since midnight')}",
    ),
    "lists in polars": (lambda: pl.DataFrame({"a": [[1, 2]]}), LISTS),
    "lists in pandas": (lambda: pd.DataFrame({"a": [[1, 2]]}), LISTS),
    "records": (lambda: pa.table({"a": [{"b": 1}]}), RECORDS),
    "records in pandas": (lambda: pd.DataFrame({"a": [{"b": 1}]}), RECORDS),
    "bytes": (lambda: pa.table({"a": [b"x"]}), BYTES),
    "complex numbers": (
        lambda: {"a": np.array([1j])},
        f"{KINDS} complex128; make them numbers or text, or leave the column out (ignore=, --ignore)",
    ),
    "infinity": (
        lambda: {"a": [1.0, -np.inf, np.inf]},
        "column a: expected finite numbers, got -inf in row 1 (2 in all)",
    ),
    "more digits than float64 has": (
        lambda: {"a": [1, -(10**400)]},
        "column a: expected finite numbers, got -inf in row 1",
    ),
    "text and numbers": (
        lambda: pd.DataFrame({"a": ["x", 3, None]}),
        "column a: expected text only or numbers only, got 'x' in row 0 and 3 in row 1",
    ),
    "text and numbers, late": (
        lambda: pd.DataFrame({"a": ["x"] * 200 + [3]}),
        "column a: expected text only or numbers only, got 'x' in row 0 and 3 in row 200",
    ),
    "no values": (
        lambda: pl.DataFrame({"a": [None, None]}),
        "column a: expected values, got none in any row; leave it out (ignore=, --ignore)",
    ),
    "an identifier": (
        lambda: {"a": NAMES},
        "column a: expected levels that several rows share, got 30 among 30 values, as identifiers have; "
        "leave it out (ignore=, --ignore)",
    ),
    "a slip": (
        lambda: {"a": [*map(str, range(20)), "4o"]},
        f"column a: expected numbers, as most of its values are, got '4o' in row 20; {MEND}",
    ),
    "numbers with a mark for gaps": (
        lambda: {"a": [*map(str, range(30)), *["."] * 20]},
        f"column a: expected numbers, as most of its values are, got '.' in row 30; {MEND}",
    ),
    "numbers with marks between the thousands": (
        lambda: {"a": ["1,000", "2,000.5", "$ 30"]},
        f"column a: expected numbers, as most of its values are, got '1,000' in row 0; {MEND}",
    ),
    "numbers with a unit": (
        lambda: {"a": ["0.5", "5%", "-7 %"]},
        f"column a: expected numbers, as most of its values are, got '5%' in row 1; {MEND}",
    ),
    "numbers as text": (
        lambda: {"a": ["1", "2"]},
        "column a: expected numbers as such, got '1' in row 0; convert the text, or declare it a category "
        "(categories=, --categories)",
    ),
    "no rows": (lambda: pl.DataFrame({"a": []}), "table: expected at least one row, got none"),
    "no columns": (lambda: {}, "table: expected at least one row, got none"),
    "ragged": (lambda: {"a": [1], "b": [1, 2]}, "table: expected as many rows in every column, got 1 in a, 2 in b"),
    "text and numbers in a list": (
        lambda: {"a": ["x", 3]},
        "column a: expected text only or numbers only, got 'x' in row 0 and 3 in row 1",
    ),
    "lists in a list": (lambda: {"a": [[1, 2], [3]]}, LISTS),
    "bytes in numpy": (lambda: {"a": np.array([b"x"])}, BYTES),
    "a single number": (lambda: {"a": 3}, "column a: expected shape [rows], got []"),
    "a name twice in pyarrow": (
        lambda: pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]),
        "table: expected every column once, got 'a' twice",
    ),
    "two axes": (lambda: {"a": np.ones((2, 2))}, "column a: expected shape [rows], got [2, 2]"),
    "a name twice": (
        lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]),
        "table: expected every column once, got 'a' twice",
    ),
    "lazy": (lambda: pl.LazyFrame({"a": [1]}), f"{MEMORY} LazyFrame"),
    "a series": (lambda: pd.Series([1]), f"{MEMORY} Series"),
    "an array": (lambda: np.ones((2, 2)), f"{MEMORY} ndarray"),
    "nothing": (lambda: None, f"{MEMORY} NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_feature_is(case: str) -> None:
    table, message = REFUSED[case]
    with pytest.raises(ValueError, match="expected") as caught:
        describe(table())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (
            {"b": [1]},
            [Column("a"), Column("b")],
            "expected the columns that the model was trained on, but a are missing",
        ),
        ({"a": ["x"]}, [Column("a")], "column a: expected numbers, as in training, got text: 'x' in row 0"),
        ({"a": ["1", "2o"]}, [Column("a")], "column a: expected numbers, as in training, got text: '2o' in row 1"),
        (
            {"a": [None, 1.0]},
            [Column("a", ("x",), True)],
            "column a: expected categories of text, as in training, got numbers: 1.0 in row 1",
        ),
        (
            {"a": ["1"]},
            [Column("a", (1,))],
            "column a: expected categories of numbers, as in training, got text: '1' in row 0",
        ),
        (
            {"a": [1.0, NAN, 2.0, NAN]},
            [Column("a")],
            "column a: expected a number in every row, as in training, got none in rows 1, 3",
        ),
        ({"a": [NAN]}, [Column("a")], "column a: expected a number in every row, as in training, got none in row 0"),
        ({"a": [np.inf]}, [Column("a")], "column a: expected finite numbers, got inf in row 0"),
        ({"a": [DAY]}, [Column("a", ("x",))], DATES),
        ({"a": []}, [Column("a")], "table: expected at least one row, got none"),
    ],
)
def test_new_rows_unlike_the_training(table: Any, columns: list[Column], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        to_numbers(table, columns)
    assert str(caught.value) == message
