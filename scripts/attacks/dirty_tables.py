"""Tables of every kind of dirt, drawn anew for each blow."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attacks.commands import CONVERSIONS, READERS
from attacks.damaged_files import check_effects
from attacks.lab import Lab
from attacks.record import Record

Cells = list[list[str]]
_CELLS = (
    "", " ", "NA", "nan", "NaN", "None", "null", "-", "?", "inf", "-inf", "1e308", "-1e308", "1e309", "1e-320", "-0",
    "0x1F", "1_000", "1,5", "1.000,5", "$3", "5%", "\u0969", "\u00bd", "\uff11", "+1", "1e", "1e+5", ".5", "5.", "true",
    "FALSE", "yes", "2026-01-02", "12:30", "9" * 400, "x" * 50_000, "9223372036854775808", "-9223372036854775809",
    "16777217.5", "\u00e9", "\u202e1", "\ufeff1", "\x00", "\x1a", "\x7f", "\U0001f642", "=1+1", "'1'", '"', '""', '"1',
    "a,b", "a\nb", "a\rb", "\t1", "1 ", " 1", "#1", "nan0",
)  # fmt: skip
_NAMES = (
    "", " ", "t", "y", "a", "mu0", "mu1", "ycf", "x" * 5000, "a b", 'a"b', "a\nb", "\u00e9", "\x00", "row", "nan", "0",
    "-",
)  # fmt: skip
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32")
_ENDS = ("\n", "\n", "\n", "\r\n", "\r", "\n\n")
_COMMAS = (",", ",", ",", ",", ";", "\t", "|", " ")


def dirty_csv(lab: Lab) -> Record:
    """.csv files with dirt in cells, names, rows, quotes, delimiters, line ends and encoding."""
    return _soil(lab, "table.csv", (READERS[0], CONVERSIONS[0]), _csv)


def dirty_parquet(lab: Lab) -> Record:
    """.parquet files with columns of every type, of extremes, gaps, nested values and names."""
    return _soil(lab, "table.parquet", (READERS[1], CONVERSIONS[1]), _parquet)


def dirty_npz(lab: Lab) -> Record:
    """.npz files with arrays of other dtypes, axes, lengths and contents."""
    return _soil(lab, "table.npz", READERS[2:3], lambda path, draw: _npz(path, draw, ("x", "t", "yf")))


def dirty_curves(lab: Lab) -> Record:
    """The same for the two-input/two-output model."""
    return _soil(lab, "curves.npz", READERS[3:], lambda path, draw: _npz(path, draw, ("x1", "x2", "y1", "y2")))


def _soil(lab: Lab, name: str, commands: Sequence[Any], write: Callable[[Path, random.Random], str]) -> Record:
    record = Record()
    for _ in lab.blows(6, 3):
        command = lab.next_of(name, commands)
        with lab.new(lab.tables if command in READERS else None) as folder:
            what = f"{command.name}: {write(folder / name, lab.random)}"
            record.tried += 1
            record.judge(lab.run(command, folder), what, (0, 1, 2))
            check_effects(record, folder, what)
    return record


def _csv(path: Path, draw: random.Random) -> str:
    """Makes a table dirty, and returns how."""
    names, *rows = [line.split(",") for line in path.read_text().splitlines()]
    said = []
    for _ in range(draw.randint(1, 3)):
        way = draw.choice([_cells, _cells, _column, _column, _name, _ragged, _rows, _arms, _wide])
        said.append(way(names, rows, draw))
    encoding, end, comma = draw.choice(_ENCODINGS), draw.choice(_ENDS), draw.choice(_COMMAS)
    text = end.join(comma.join(row) for row in ([names, *rows] if draw.random() < 0.95 else rows))
    path.write_bytes((text + draw.choice(["", end])).encode(encoding, "replace"))
    return f"{', '.join(said)}, {encoding}, {end!r}, {comma!r}"


def _cells(names: list[str], rows: Cells, draw: random.Random) -> str:
    value = draw.choice(_CELLS)
    for _ in range(draw.choice([1, 1, 3, 40])):
        if rows and (row := draw.choice(rows)):
            row[draw.randrange(len(row))] = value
    return f"cells {value[:20]!r}"


def _column(names: list[str], rows: Cells, draw: random.Random) -> str:
    column, values = draw.randrange(len(names)), draw.sample(_CELLS, draw.choice([1, 1, 2, 9]))
    for row in rows:
        if column < len(row):
            row[column] = draw.choice(values)
    return f"column {names[column][:9]!r} of {[value[:20] for value in values]}"


def _name(names: list[str], rows: Cells, draw: random.Random) -> str:
    names[draw.randrange(len(names))] = name = draw.choice(_NAMES)
    return f"a name {name[:20]!r}"


def _ragged(names: list[str], rows: Cells, draw: random.Random) -> str:
    if rows:
        row = draw.choice(rows)
        row[draw.randrange(len(row) + 1) :] = draw.choices(_CELLS, k=draw.randrange(4))
    return "a ragged row"


def _rows(names: list[str], rows: Cells, draw: random.Random) -> str:
    del rows[draw.choice([0, 1, 2, 3, 5, 10]) :]
    return f"{len(rows)} rows"


def _arms(names: list[str], rows: Cells, draw: random.Random) -> str:
    arms = draw.choice([1, 2, 3, 20, 21, 60])
    for row in rows:
        if len(row) > 5:
            row[5] = draw.choice(["", "arm "]) + str(draw.randrange(arms))
    return f"{arms} arms"


def _wide(names: list[str], rows: Cells, draw: random.Random) -> str:
    more = draw.choice([1, 300])
    names += [f"more{i}" for i in range(more)]
    for row in rows:
        row += [draw.choice(["0", "1", "2.5"])] * more
    return f"{more} more columns"


def _parquet(path: Path, draw: random.Random) -> str:
    """Replaces columns of a table, and returns by what."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, said = pq.read_table(path), []
    rows = draw.choice([60, 60, 60, 3, 1, 0])
    table = table.slice(0, rows)
    for _ in range(draw.randint(1, 3)):
        kinds: dict[str, Callable[[], Any]] = {
            "null": lambda: pa.nulls(rows),
            "int8": lambda: pa.array([draw.randrange(-128, 128) for _ in range(rows)], pa.int8()),
            "uint64": lambda: pa.array([2**64 - 1 - row for row in range(rows)], pa.uint64()),
            "int64": lambda: pa.array([draw.choice([-(2**63), 2**63 - 1, 0]) for _ in range(rows)], pa.int64()),
            "float16": lambda: pa.array(np.linspace(-6e4, 6e4, rows).astype(np.float16)),
            "extremes": lambda: pa.array(
                [draw.choice([1e308, -1e308, 5e-324, 0.0]) for _ in range(rows)], pa.float64()
            ),
            "NaN": lambda: pa.array([draw.choice([np.nan, 1.0, np.inf]) for _ in range(rows)], pa.float64()),
            "gaps": lambda: pa.array([draw.choice([None, 0, 1]) for _ in range(rows)], pa.int64()),
            "bool": lambda: pa.array([draw.choice([None, True, False]) for _ in range(rows)], pa.bool_()),
            "decimal": lambda: pa.array(range(rows), pa.int64()).cast(pa.decimal128(38, 2)),
            "timestamp": lambda: pa.array(range(rows), pa.timestamp("ns", "UTC")),
            "date": lambda: pa.array(range(rows), pa.date32()),
            "time": lambda: pa.array(range(rows), pa.time64("us")),
            "duration": lambda: pa.array(range(rows), pa.duration("s")),
            "binary": lambda: pa.array([b"\xff"] * rows, pa.binary()),
            "text": lambda: pa.array([draw.choice(_CELLS) for _ in range(rows)], pa.large_string()),
            "categories": lambda: pa.array(
                [draw.choice([None, "a", "b"]) for _ in range(rows)], pa.string()
            ).dictionary_encode(),
            "numbers as categories": lambda: pa.array([row % 3 for row in range(rows)], pa.int64()).dictionary_encode(),
            "list": lambda: pa.array([[row, None] for row in range(rows)], pa.list_(pa.int64())),
            "struct": lambda: pa.array([{"p": row} for row in range(rows)], pa.struct([("p", pa.int64())])),
            "map": lambda: pa.array([[("p", row)] for row in range(rows)], pa.map_(pa.string(), pa.int64())),
        }
        kind, column = draw.choice(list(kinds)), draw.randrange(table.num_columns)
        name = draw.choice(_NAMES) if draw.random() < 0.1 else table.column_names[column]
        table = table.set_column(column, name, kinds[kind]())
        said.append(f"{name[:9]!r} of {kind}")
    pq.write_table(
        table, path, row_group_size=draw.choice([None, 7]), compression=draw.choice(["snappy", "zstd", "none"])
    )
    return f"{rows} rows, {', '.join(said)}"


def _npz(path: Path, draw: random.Random, names: Sequence[str]) -> str:
    """Replaces arrays, and returns by what."""
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    said = []
    for _ in range(draw.randint(1, 2)):
        name = draw.choice(names)
        array = np.asarray(arrays.get(name, np.zeros(3)))
        ways: dict[str, Callable[[], Any]] = {
            "missing": lambda: None,
            "object": lambda array=array: array.astype(object),
            "text": lambda array=array: array.astype(str),
            "bytes": lambda array=array: array.astype("S"),
            "complex": lambda array=array: array.astype(complex),
            "bool": lambda array=array: array.astype(bool),
            "float16": lambda array=array: array.astype(np.float16),
            "big endian": lambda array=array: array.astype(">f8"),
            "dates": lambda array=array: array.astype("M8[s]"),
            "fields": lambda array=array: np.zeros(array.shape, [("p", float), ("q", int)]),
            "nothing": lambda array=array: array[:0],
            "a row less": lambda array=array: array[1:],
            "one number": lambda: np.array(3.0),
            "more axes": lambda array=array: array[None],
            "replications": lambda array=array: np.stack([array] * 3, axis=-1),
            "no columns": lambda array=array: np.zeros((len(array) if array.ndim else 0, 0)),
            "NaN": lambda array=array: array * np.nan,
            "infinity": lambda array=array: array + np.inf,
            "huge": lambda array=array: array * 1e308,
            "constant": lambda array=array: array * 0,
            "integers": lambda array=array: np.full(array.shape, 2**63 - 1),
            "unsigned": lambda array=array: np.full(array.shape, 2**64 - 1, np.uint64),
            "Fortran": lambda array=array: np.asfortranarray(array),
        }
        way = draw.choice(list(ways))
        if array.dtype.kind not in "fiub" or not array.ndim:
            break
        with np.errstate(all="ignore"):
            arrays[name] = ways[way]()
        if arrays[name] is None:
            del arrays[name]
        said.append(f"{name}: {way}")
    np.savez(path, **arrays)
    return ", ".join(said)
