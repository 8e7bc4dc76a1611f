"""Tables of numbers from .csv, .parquet and .npz files; what is wrong in a file is named by file, line and column."""

import csv
import math
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64

from ..checks.arguments import shown
from ..files.array_file import replacing


class Table(NamedTuple):
    """Columns of finite numbers; `names` is None where the file has no header."""

    names: tuple[str, ...] | None
    values: Float64[np.ndarray, "rows columns"]


def read_csv(path: Path) -> Table:
    """Reads comma-separated numbers; a first line of numbers only means that there is no header.

    Raises:
        ValueError: a ragged line, an empty cell, text, NaN or infinity, or a header without or with equal names.
    """
    names: tuple[str, ...] | None = None
    values, width = array("d"), 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if not width:
                    width = len(cells)
                    numbers = [cell for cell in cells if _is_number(cell)]
                    others = [cell for cell in cells if not _is_number(cell)]
                    if numbers and others:
                        got = f"{shown(numbers[0])} and {shown(others[0])}"
                        place = f"{path}, line {reader.line_num}"
                        raise ValueError(f"{place}: expected names only or finite numbers only, got {got}")
                    if others:
                        names = _header(f"{path}, line {reader.line_num}", cells)
                        continue
                if len(cells) != width:
                    raise ValueError(f"{path}, line {reader.line_num}: expected {width} values, got {len(cells)}")
                row = _numbers(cells)
                if row is None:
                    column = next(i for i, cell in enumerate(cells) if not _is_number(cell))
                    place = f"{path}, line {reader.line_num}, column {names[column] if names else column + 1}"
                    got = shown(cells[column]) if cells[column].strip() else "an empty cell"
                    raise ValueError(f"{place}: expected a finite number, got {got}")
                values.extend(row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: expected comma-separated text, got {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {_undecodable_line(path)}: expected text in UTF-8, got {error}") from error
    if not values:
        raise ValueError(f"{path}: expected at least one line of numbers, got none")
    return Table(names, np.array(values).reshape(-1, width))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    """Writes rows of numbers, numbered from 0, to a .csv file.

    Args:
        path: the file.
        header: the names of the columns, that of the numbers first.
        rows: the values of the others.
    """
    with replacing(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows((number, *row) for number, row in enumerate(rows))


def read_parquet(path: Path) -> Table:
    """Reads the columns of a parquet file, all of numbers or booleans.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: it is no parquet file, or a column holds text, nulls, NaN or infinity.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path}: .parquet needs pyarrow: pip install 'twohead[data]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = _header(str(path), file.schema_arrow.names)
            table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: expected a parquet file, got {shown(error)}") from error
    for name in names:
        if name.startswith("__index_level_"):
            raise ValueError(f"{path}: expected columns only, got the index {name}; write it with index=False")
    if not table.num_rows:
        raise ValueError(f"{path}: expected at least one row, got none")
    values = np.empty((table.num_rows, len(names)))
    for index, (name, column) in enumerate(zip(names, table.columns, strict=True)):
        kind = column.type
        if not (pyarrow.types.is_boolean(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
            raise ValueError(f"{path}, column {name}: expected numbers, got {kind}")
        values[:, index] = column.cast(pyarrow.float64(), safe=False).to_numpy()  # nulls become NaN
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, index = wrong[0]
        missing = table.column(int(index))[int(row)].as_py() is None
        got = "a missing value" if missing else values[row, index]
        raise ValueError(f"{path}, row {row + 1}, column {names[index]}: expected a finite number, got {got}")
    return Table(names, values)


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


_TRUTH = {"true": "1", "false": "0"}  # as pandas and R write them


def _numbers(cells: Sequence[str]) -> list[float] | None:
    """Returns the cells as finite numbers, or None if one of them is none."""
    try:
        numbers = [float(_TRUTH.get(cell.strip().lower(), cell)) for cell in cells]
    except ValueError:
        return None
    # Python reads 1_000, nobody else does.
    return numbers if all(map(math.isfinite, numbers)) and not any("_" in cell for cell in cells) else None


def _is_number(cell: str) -> bool:
    return _numbers([cell]) is not None


def _header(place: str, cells: Sequence[str]) -> tuple[str, ...]:
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


def _undecodable_line(path: Path) -> int:
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content = content[: error.start]
    return content.count(b"\n") + 1
