"""Tables in files: pyarrow reads .csv and .parquet, numpy reads numbers; what is wrong is named by file and line."""

import csv
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64

from ..checks.arguments import shown
from ..files.array_file import replacing
from .cells import as_number


def read_csv(path: Path, text: Collection[str] = ()) -> Any:
    """Reads comma-separated values: columns by pyarrow, which tells their types, or numbers without a header by numpy.

    Args:
        path: the file. A first line of numbers only means that there is no header.
        text: columns that are text, even where they look like numbers.

    Returns:
        A pyarrow table, with null for an empty cell, NA and the like; or numbers [rows, columns].

    Raises:
        ImportError: the columns have names, and pyarrow is not installed.
        ValueError: an empty file, another encoding than UTF-8, a ragged line, a quote that is never closed, or a header
            without or with equal names.
    """
    first = first_line(path)
    numbers = [cell for cell in first if np.isfinite(as_number(cell))]
    others = [cell for cell in first if not np.isfinite(as_number(cell))]
    if numbers and others:
        got = f"{shown(numbers[0])} and {shown(others[0])}"
        raise ValueError(f"{path}, line 1: expected names only or finite numbers only, got {got}")
    if numbers:
        return _read_numbers(path)
    names = text_names(path, first)
    arrow = import_pyarrow(path)
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    ragged = []

    def note(row: Any) -> Literal["error"]:
        ragged.append(f"line {row.number}: expected {row.expected_columns} values, got {row.actual_columns}")
        return "error"

    types = {cell: arrow.string() for cell, name in zip(first, names, strict=True) if name in text}
    try:
        table = read_csv(
            path,
            ReadOptions(use_threads=False),  # only so are lines counted
            # An empty line of a single column is a gap.
            ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1, invalid_row_handler=note),
            ConvertOptions(strings_can_be_null=True, column_types=types),
        )
    except arrow.ArrowException as error:
        if ragged:
            raise ValueError(f"{path}, {ragged[0]}") from error
        if "Empty CSV file" in str(error):
            raise ValueError(f"{path}: expected at least one row, got a header only") from error
        raise ValueError(f"{path}: expected comma-separated text, got {shown(str(error))}") from error
    if any(arrow.types.is_binary(kind) for kind in table.schema.types):
        raise ValueError(f"{path}, line {_undecodable_line(path)}: expected text in UTF-8, got other bytes")
    if not table.num_rows:
        raise ValueError(f"{path}: expected at least one row, got a header only")
    check_quotes(path, table)
    return table.rename_columns(names)


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[float]], numbers: Iterable[int] | None = None
) -> None:
    """Writes numbered rows of numbers to a .csv file.

    Args:
        path: the file.
        header: the names of the columns, that of the numbers first.
        rows: the values of the others.
        numbers: of the rows; None counts from 0.
    """
    numbered = enumerate(rows) if numbers is None else zip(numbers, rows, strict=True)
    with replacing(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows((number, *row) for number, row in numbered)


def read_parquet(path: Path) -> Any:
    """Returns a parquet file as a pyarrow table.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: it is no parquet file, has no rows, or holds an index among its columns.
    """
    arrow = import_pyarrow(path)
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            names = parquet_names(str(path), file.schema_arrow.names)
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: expected a parquet file, got {shown(error)}") from error
    if not table.num_rows:
        raise ValueError(f"{path}: expected at least one row, got none")
    return table.rename_columns(names)


# What numpy and the modules below it have been seen to raise on damaged or hostile archives.
_NO_ARCHIVE = (
    AttributeError, BadZipFile, EOFError, KeyError, MemoryError, NotImplementedError, OSError, RuntimeError, TypeError,
    ValueError, zlib.error,
)  # fmt: skip


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz archive by name.

    Raises:
        ValueError: it is no such archive, is damaged, or holds anything but plain arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _NO_ARCHIVE as error:
        raise ValueError(f"{path}: expected an .npz archive of plain arrays, got {shown(error)}") from error
    for name, found in arrays.items():
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{path}: expected an .npz archive of plain arrays, got {type(found).__name__} {name}")
    return arrays


def import_pyarrow(path: str | Path) -> Any:
    """Returns pyarrow; raises ImportError, naming the extra, where there is none."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{path}: {Path(path).suffix or 'it'} needs pyarrow: pip install 'twohead[data]'") from error
    return pyarrow


def first_line(path: Path) -> list[str]:
    """Returns the cells of the first line that is not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            cells = next((cells for cells in csv.reader(file, strict=True) if cells), None)
    except csv.Error as error:
        raise ValueError(f"{path}: expected comma-separated text, got {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {_undecodable_line(path)}: expected text in UTF-8, got other bytes") from error
    if cells is None:
        raise ValueError(f"{path}: expected a line of names and at least one row, got an empty file")
    if any("\0" in cell for cell in cells):
        raise ValueError(f"{path}, line 1: expected comma-separated text, got a binary file")
    return cells


def _read_numbers(path: Path) -> Float64[np.ndarray, "rows columns"]:
    try:
        return np.loadtxt(path, delimiter=",", comments=None, quotechar='"', encoding="utf-8-sig", ndmin=2)
    except ValueError as error:
        got = str(error).partition(";")[0]
        raise ValueError(f"{path}: expected numbers in columns, as in its first line, got {got}") from error


def check_quotes(path: Path, table: Any, before: int = 0) -> None:
    """Raises ValueError where a cell holds whole lines of the table, since a quote was closed late or never.

    Args:
        path: the file.
        table: rows of it, a pyarrow table.
        before: how many rows of the file come before them.
    """
    from pyarrow import compute

    found: Any = compute  # its functions are made as it loads
    width, rows = table.num_columns, table.num_rows
    for place, column in enumerate(table.columns):
        if str(column.type) != "string":
            continue
        for row in found.indices_nonzero(found.match_substring(column, "\n")).to_pylist():
            first, *between, last = (line.count(",") for line in column[row].as_py().split("\n"))
            swallowed = first == width - 1 - place and last == place and all(count == width - 1 for count in between)
            if (swallowed and width > 2) or (row == rows - 1 and _count_quotes(path) % 2):
                got = f"a cell of {len(between) + 2} lines in row {before + row}"
                raise ValueError(
                    f"{path}: column {table.column_names[place]}: expected every quote to be closed, got {got}"
                )


def _count_quotes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(line.count(b'"') for line in file)


def header_names(place: str, cells: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of columns; raises ValueError where one is empty or comes twice."""
    names = tuple(cell.strip() for cell in cells)
    for index, name in enumerate(names):
        if not name:
            raise ValueError(
                f"{place}: expected a name for every column, got none for column {index + 1}; pandas writes its "
                "index there, but for index=False"
            )
        if name in names[:index]:
            raise ValueError(f"{place}: expected every column once, got {shown(name)} twice")
    return names


def text_names(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a first line of text; raises ValueError as `header_names`, and where no comma parts them."""
    for mark, plural in ((";", "semicolons"), ("\t", "tabs")):
        if len(cells) == 1 and mark in cells[0]:
            raise ValueError(f"{path}, line 1: expected commas between the names, got {plural}")
    return header_names(str(path), cells)


def parquet_names(place: str, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of columns of Parquet; raises ValueError as `header_names`, and for an index of pandas."""
    names = header_names(place, names)
    for name in names:
        if name.startswith("__index_level_"):
            raise ValueError(f"{place}: expected columns only, got the index {name}; write it with index=False")
    return names


def _undecodable_line(path: Path) -> int:
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content = content[: error.start]
    return content.count(b"\n") + 1
