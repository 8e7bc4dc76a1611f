"""Tables of numbers from .csv, .parquet and .npz files; what is wrong in a file is named by file, line and column."""

import csv
import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64


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
                    if not all(map(_is_number, cells)):
                        names = _header(path, cells)
                        continue
                if len(cells) != width:
                    raise ValueError(f"{path}, line {reader.line_num}: expected {width} values, got {len(cells)}")
                try:
                    row = list(map(float, cells))
                except ValueError:
                    row = [math.nan]
                if not all(map(math.isfinite, row)):
                    column = next(i for i, cell in enumerate(cells) if not _is_number(cell))
                    place = f"{path}, line {reader.line_num}, column {names[column] if names else column + 1}"
                    raise ValueError(f"{place}: expected a finite number, got {cells[column] or 'an empty cell'!r}")
                values.extend(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: expected comma-separated text, got {error}") from error
    if not values:
        raise ValueError(f"{path}: expected at least one line of numbers, got none")
    return Table(names, np.array(values).reshape(-1, width))


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
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a parquet file, got {error}") from error
    names = _header(path, table.column_names)
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


def read_npz(path: Path) -> Mapping[str, np.ndarray]:
    """Reads the arrays of an .npz archive by name.

    Raises:
        ValueError: it is no such archive, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (BadZipFile, ValueError, EOFError, AttributeError, OSError) as error:
        raise ValueError(f"{path}: expected an .npz archive of plain arrays, got {error!r}") from error


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _header(path: Path, cells: list[str]) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    for index, name in enumerate(names):
        if not name:
            raise ValueError(f"{path}: expected a name for every column, got none for column {index + 1}")
        if name in names[:index]:
            raise ValueError(f"{path}: expected every column once, got {name!r} twice")
    return names
