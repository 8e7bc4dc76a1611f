"""Damaged tables: each is refused in one clear line, which names the file and the place."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torch_ref.data import Column, load_data, load_features

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet  # noqa: E402

HEADER = "age,t,y,income\n"
ROWS = ["31,0,1.5,2e3\n", "42.5,1,-2,3e3\n", "27,0,0.25,1e3\n"]
TABLE = HEADER + "".join(ROWS)
DROP = "; drop such rows by missing='drop' or --drop-missing"
LEAVE = "leave the column out (ignore=, --ignore)"
MANY = "t," + ",".join(f"x{i}" for i in range(1000)) + "\n" + "0," * 1000 + "1\n"

# The text of a .csv file, and the line after its name.
CSV: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", ": expected a line of names and at least one row, got an empty file"),
    "blank lines": ("\n\n", ": expected a line of names and at least one row, got an empty file"),
    "header only": (HEADER, ": expected at least one row, got a header only"),
    "ragged line": (TABLE + "42,1,3\n", ", line 5: expected 4 values, got 3"),
    "ragged line, longer": (HEADER + ROWS[0] + "1,2,3,4,5\n" + ROWS[1], ", line 3: expected 4 values, got 5"),
    "ragged line, after a long text": (
        "age,t,y,name\n" + '1,0,2,"two\nlines"\n' + "1,0,2\n",
        ", line 3: expected 4 values, got 3",
    ),
    "duplicate header": ("a,t,y,a\n0,1,2,3\n", ": expected every column once, got 'a' twice"),
    "a column without a name": (
        ",t,y\n0,1,2\n",
        ": expected a name for every column, got none for column 1; pandas writes its index there, but for index=False",
    ),
    "no header, one text": (
        "1,5.5,abc,3,4,5,6\n",
        ", line 1: expected names only or finite numbers only, got '1' and 'abc'",
    ),
    "no header, few columns": ("1,2,3\n", ": expected a header, or columns t, y, ycf, mu0, mu1, x1, …, got 3 columns"),
    "no header, ragged": (
        "1,2,3,4,5,6\n1,2,3\n",
        ": expected numbers in columns, as in its first line, got the number of columns changed from 6 to 3 at row 2",
    ),
    "no header, a text below": (
        "1,2,3,4,5,6\n1,2,x,4,5,6\n",
        ": expected numbers in columns, as in its first line, got could not convert string 'x' to float64 at row 1, "
        "column 3.",
    ),
    "no header, NaN": ("1,2,3,4,5,6\n0,nan,3,4,5,6\n", ": y: expected finite numbers, got nan in row 1"),
    "other bytes in a column": (
        TABLE.encode() + 3000 * ROWS[0].encode() + b"\xff,1,2,3\n",
        ", line 3005: expected text in UTF-8, got other bytes",
    ),
    "other bytes in the header": (b"\xfcber,t,y\n1,2,3\n", ", line 1: expected text in UTF-8, got other bytes"),
    "UTF-16": (TABLE.encode("utf-16"), ", line 1: expected text in UTF-8, got other bytes"),
    "a picture named .csv": (b"\x89PNG\r\n\x1a\n\x00\x00", ", line 1: expected text in UTF-8, got other bytes"),
    "an archive named .csv": (b"PK\x03\x04\x00\x00,\n", ", line 1: expected comma-separated text, got a binary file"),
    "a quote never closed": (HEADER + ROWS[0] + '"42,1,2,3\n' + ROWS[2], ", line 3: expected 4 values, got 1"),
    "a quote never closed, last column": (
        'age,t,y,city\n1,0,2,Rome\n2,1,3,"Oslo\n3,1,2,Bonn\n4,0,1,Rome\n',
        ": column city: expected every quote to be closed, got a cell of 4 lines in row 1",
    ),
    "two quotes never closed": (
        'age,t,city,y\n1,0,Rome,3\n1,0,"Rome,1\n2,1,Oslo,2\n3,0,Rome",3\n4,1,Oslo,1\n',
        ": column city: expected every quote to be closed, got a cell of 3 lines in row 1",
    ),
    "a quote never closed in the header": (
        '"age,t,y\n1,2,3\n',
        ": expected comma-separated text, got unexpected end of data",
    ),
    "semicolons": ("age;t;y\n1;0;2\n", ", line 1: expected commas between the names, got semicolons"),
    "tabs": ("age\tt\ty\n1\t0\t2\n", ", line 1: expected commas between the names, got tabs"),
    "a web page": ("<html>404</html>", ": expected at least one row, got a header only"),
    "infinity": (TABLE + "1,1,2,-inf\n", ": column income: expected finite numbers, got -inf in row 3"),
    "infinite outcome": (TABLE + "1,1,inf,3\n", ": column y: expected finite numbers, got inf in row 3"),
    "dates": (
        "day,t,y\n2026-01-02,0,1\n2026-01-03,1,2\n",
        ": column day: expected numbers, truth values or categories, got dates; make them a number, such as days since "
        f"a fixed date, or {LEAVE}",
    ),
    "dates as people write them": (
        "day,t,y\n2/1/2026,0,1\n3/1/2026,1,2\n",
        ": column day: expected numbers, truth values or categories, got dates; make them a number, such as days since "
        f"a fixed date, or {LEAVE}",
    ),
    "several columns": (
        "day,x,note,t,y\n2026-01-02,1,,0,1\n2026-01-03,2,,1,2\n",
        ": column day: expected numbers, truth values or categories, got dates; make them a number, such as days since "
        f"a fixed date, or {LEAVE}; refused as well: note",
    ),
    "times": (
        "at,t,y\n12:30,0,1\n12:45,1,2\n",
        ": column at: expected numbers, truth values or categories, got times of day; make them a number, such as "
        f"hours since midnight, or {LEAVE}",
    ),
    "identifiers": (
        "id,x,t,y\n" + "".join(f"p{row},{row},{row % 2},1\n" for row in range(30)),
        ": column id: expected levels that several rows share, got 30 among 30 values, as identifiers have; leave it "
        "out (ignore=, --ignore)",
    ),
    "a slip among numbers": (
        "age,t,y\n" + "".join(f"{30 + row},{row % 2},1\n" for row in range(15)) + "4o,1,2\n",
        ": column age: expected numbers, as most of its values are, got '4o' in row 15; mend it, leave it empty, or "
        "declare it a category (categories=, --categories)",
    ),
    "a slip among treatments": (
        "age,t,y\n" + "".join(f"{row},{row % 2},1\n" for row in range(15)) + "4,o,2\n",
        ": column t: expected numbers, as most of its values are, got 'o' in row 15; mend or rename it",
    ),
    "a slip among outcomes": (HEADER + ROWS[0] + "42,1,high,3\n", ": column y: expected numbers, got 'high' in row 1"),
    "underscores": (HEADER + ROWS[0] + "31,0,1_5,2\n", ": column y: expected numbers, got '1_5' in row 1"),
    "a long cell": (
        HEADER + f"31,0,{'a' * 10**5},2\n",
        ": column y: expected numbers, got '" + "a" * 79 + "…" + " in row 0",
    ),
    "a feature without values": (
        "x,z,t,y\n1,,0,1\n2,,1,2\n",
        ": column z: expected values, got none in any row; leave it out (ignore=, --ignore)",
    ),
    "missing treatment": (
        HEADER + ROWS[0] + "1,,2,3\n" + ROWS[1] + "1,NA,2,3\n",
        f": column t: expected a value in every row, got none in rows 1, 3{DROP}",
    ),
    "missing outcome": (TABLE + "1,1,,3\n", f": column y: expected a value in every row, got none in row 3{DROP}"),
    "no outcome at all": (
        "x,t,y\n1,0,\n2,1,\n",
        f": column y: expected a value in every row, got none in rows 0, 1{DROP}",
    ),
    "one arm": ("x,t,y\n1,a,1\n2,a,2\n", ": treatment: expected at least two arms, got 'a' in every row"),
    "a dose": (
        "x,t,y\n" + "".join(f"1,{row / 7},2\n" for row in range(40)),
        ": treatment: expected at most 20 arms, and several rows in each, got 40 different values in 40 rows, such as "
        "0, 0.14285714285714285, 0.2857142857142857; cut a dose into a few arms first",
    ),
    "arms that one number would merge": (
        "x,t,y\n" + "".join(f"{row},{2**60 + row % 3},1\n" for row in range(12)),
        ": column t: expected labels of at most 2**53 where they are numbers, got 1152921504606846976 in row 0; write "
        "them as text",
    ),
    "dates as treatment": (
        "x,t,y\n1,2026-01-02,1\n2,2026-01-03,2\n",
        ": column t: expected numbers, truth values or categories, got dates; make them a number, such as days since a "
        f"fixed date, or {LEAVE}",
    ),
    "text outcome": (
        "x,t,y\n1,0,no\n2,1,yes\n",
        ": column y: expected numbers, got 'no' and 'yes'; code them as 0 and 1, and say that the outcome is binary "
        "(--binary)",
    ),
    "text outcome, many": ("x,t,y\n1,0,a\n2,1,b\n3,1,c\n", ": column y: expected numbers, got 'a' in row 0"),
    "no treatment": ("age,y\n1,2\n", ": expected a column 't', got age, y"),
    "no treatment, no outcome": ("a,b\n1,2\n", ": expected a column 't' and 'y', got a, b"),
    "many columns": (
        MANY,
        ": expected a column 'y', got t, " + ", ".join(f"x{i}" for i in range(19)) + ", … (1001 in all)",
    ),
    "no features": ("t,y,mu0\n1,2,3\n", ": expected at least one feature besides t, y, got t, y, mu0"),
    "known effects with a gap": (
        "x,t,y,mu0,mu1\n1,0,1,1,2\n2,1,2,,3\n",
        ": column mu0: expected a value in every row, got none in row 1",
    ),
    "known effects of text": (
        "x,t,y,mu0,mu1\n1,0,1,1,2\n2,1,2,a,3\n",
        ": column mu0: expected numbers, got 'a' in row 1",
    ),
}


@pytest.mark.parametrize("case", CSV)
def test_damaged_csv(tmp_path: Path, case: str) -> None:
    text, message = CSV[case]
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=r"table\.csv") as caught:
        load_data(path)
    assert str(caught.value) == f"{path}{message}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": "w"}, "column w: expected a value in every row, got none in row 1"),
        ({"weight": "g"}, "column g: expected numbers, got 'a' in row 0"),
        ({"weight": "n"}, "w: expected weights of at least 0, got -1.0 in row 1"),
        ({"groups": "w"}, "column w: expected a value in every row, got none in row 1"),
        ({"groups": "y"}, "treatment, outcome, weight, groups: expected a column of its own for each, got t, y, y"),
        ({"ignore": ["z"]}, "ignore: expected names of features, each once, got z"),
        ({"ignore": ["t"]}, "ignore: expected names of features, each once, got t"),
        ({"ignore": "w"}, "ignore: expected names of columns in a list, got 'w'"),
        ({"features": ["t"]}, "features: expected names of features, each once, got t"),
        ({"features": ["w", "w"]}, "features: expected names of features, each once, got w"),
        ({"features": ["n"], "ignore": ["n"]}, "expected at least one feature besides t, y, got t, y, w, g, n"),
        ({"features": []}, "expected at least one feature besides t, y, got t, y, w, g, n"),
        ({"features": "n"}, "features: expected names of columns in a list, got 'n'"),
        ({"categories": ["t"]}, "categories: expected names of features, each once, got t"),
        ({"categories": ["w"], "ignore": ["w"]}, "categories: expected names of features, each once, got w"),
        ({"categories": "w"}, "categories: expected names of columns in a list, got 'w'"),
        ({"control": "c"}, "control: expected one of 0, 1, got 'c'"),
        ({"replication": 2}, "replication: expected 1, as a table has no use for another, got 2"),
    ],
)
def test_arguments_that_do_not_fit_the_table(arguments: dict[str, Any], message: str) -> None:
    table = {"t": [0, 1], "y": [1, 2], "w": [1.0, np.nan], "g": ["a", "b"], "n": [1, -1]}
    with pytest.raises(ValueError, match="expected") as caught:
        load_data(table, **arguments)
    assert str(caught.value) == message


GOOD: dict[str, Any] = {"t": [0, 1], "y": [0, 1], "x": [0, 1]}
PARQUET: dict[str, tuple[Callable[[], Any], str]] = {
    "no rows": (
        lambda: pa.table({name: pa.array([], pa.float64()) for name in GOOD}),
        ": expected at least one row, got none",
    ),
    "a name twice": (
        lambda: pa.Table.from_arrays([pa.array([0, 1])] * 3, names=["t", "y", "t"]),
        ": expected every column once, got 't' twice",
    ),
    "an index": (
        lambda: pa.table(GOOD | {"__index_level_0__": [0, 1]}),
        ": expected columns only, got the index __index_level_0__; write it with index=False",
    ),
    "lists": (
        lambda: pa.table(GOOD | {"x": [[1], [2]]}),
        ": column x: expected numbers, truth values or categories, got lists; make a column of each entry, or " + LEAVE,
    ),
    "dates": (
        lambda: pa.table(GOOD | {"x": [datetime.date(2026, 1, 2), None]}),
        ": column x: expected numbers, truth values or categories, got dates; make them a number, such as days since a "
        f"fixed date, or {LEAVE}",
    ),
    "bytes": (
        lambda: pa.table(GOOD | {"x": [b"a", b"b"]}),
        f": column x: expected numbers, truth values or categories, got bytes; decode them to text, or {LEAVE}",
    ),
    "no outcome": (lambda: pa.table({"t": [0, 1], "x": [0, 1]}), ": expected a column 'y', got t, x"),
    "infinity": (
        lambda: pa.table(GOOD | {"x": [1.0, np.inf]}),
        ": column x: expected finite numbers, got inf in row 1",
    ),
}


@pytest.mark.parametrize("case", PARQUET)
def test_damaged_parquet(tmp_path: Path, case: str) -> None:
    table, message = PARQUET[case]
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(table(), path)
    with pytest.raises(ValueError, match=r"table\.parquet") as caught:
        load_data(path)
    assert str(caught.value) == f"{path}{message}"


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pa.table(GOOD), path)
    content = path.read_bytes()
    for damaged in (b"PAR1nonsense", b"", content[:-8], content[:40], content[:40] + b"\xff" * 40 + content[80:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"table\.parquet: expected a parquet file, got") as caught:
            load_data(path)
        assert "\n" not in str(caught.value)


TRAINED = (Column("age"), Column("city", ("Oslo", "Rome")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,town\n1,Rome\n", ": expected the columns that the model was trained on, but city are missing"),
        ("age,city\nold,Rome\n", ": column age: expected numbers, as in training, got text: 'old' in row 0"),
        ("age,city\n31,Rome\n4o,Rome\n", ": column age: expected numbers, as in training, got text: '4o' in row 1"),
        ("age,city\n,Rome\n31,\n", ": column age: expected a number in every row, as in training, got none in row 0"),
        ("age,city\n31,Rome\n32\n", ", line 3: expected 2 values, got 1"),
        ("age,city\ninf,Rome\n", ": column age: expected finite numbers, got inf in row 0"),
        ("age,city\n", ": expected at least one row, got a header only"),
        ("", ": expected a line of names and at least one row, got an empty file"),
        (
            "1,2\n3,4\n",
            ": expected columns by name, as some are categories, got a file without names, which holds no city",
        ),
    ],
)
def test_new_rows_unlike_the_training(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "new.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"new\.csv") as caught:
        load_features(path, TRAINED)
    assert str(caught.value) == f"{path}{message}"


def test_new_rows_of_another_dtype(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    pyarrow.parquet.write_table(pa.table({"age": [31], "city": [7]}), path)
    with pytest.raises(ValueError, match=r"expected categories of text, as in training, got numbers: 7\.0 in row 0$"):
        load_features(path, TRAINED)
