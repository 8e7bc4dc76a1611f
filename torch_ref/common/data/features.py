"""What the features of a table are, and the array that they become: for training, and for new rows like it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..checks.arguments import listed, shown
from .cells import Cells, Table, as_number, open_table, read_cells
from .columns import Column

_FEW_LEVELS = 20  # as many may differ in every row
_IDENTIFIER = 0.9  # levels per cell, from which on a column names rows and says nothing about them
_MOSTLY_NUMBERS = 0.9  # of a text column's cells: the rest are slips


def describe(table: Table) -> tuple[Column, ...]:
    """Says what the columns of a table of features are: numbers or categories, and whether values are missing.

    Text and categorical dtypes are categories; numbers and truth values are numbers. Rows are counted from 0.

    Args:
        table: of pandas, polars or pyarrow, or arrays [rows] by name. All its columns are features.

    Returns:
        A column for each of the table's, in its order. Levels are those seen: in their dtype's order if it has one
        (polars' Enum, pandas' ordered categories), and sorted otherwise.

    Raises:
        ValueError: no table or no rows; dates, times, durations, lists, records or bytes; infinity; a column without
            any value; text that differs in nearly every row, or that is nearly always a number.

    Example:
        >>> describe({"age": np.array([31.0, np.nan]), "city": np.array(["Rome", "Oslo"])})
        (Column(name='age', levels=None, gaps=True), Column(name='city', levels=('Oslo', 'Rome'), gaps=False))
    """
    columns = open_table(table)
    _check_rows(columns)
    return tuple(_described(name, read_cells(name, column)) for name, column in columns.items())


def to_numbers(table: Table, columns: Sequence[Column]) -> Float64[np.ndarray, "rows features"]:
    """Returns the features of a table as numbers, as `columns` says that they were in training.

    A level that training did not see is -1, and so is a gap among categories that had none. Rows are counted from 0.

    Args:
        table: of pandas, polars or pyarrow, or arrays [rows] by name. Columns that `columns` does not name are not
            looked at.
        columns: what `describe` said of the training's features, in the model's order.

    Returns:
        The features [rows, features] in float64: numbers, truth values as 0 and 1, places of levels; NaN for a gap.

    Raises:
        ValueError: no table or no rows; columns are missing; a column of another kind than in training; infinity; or a
            gap in a column of numbers that had none in training.

    Example:
        >>> columns = describe({"age": np.array([31.0, 42.0]), "city": np.array(["Rome", "Oslo"])})
        >>> to_numbers({"city": np.array(["Rome", "Bonn"]), "age": np.array([50.0, 60.0])}, columns).tolist()
        [[50.0, 1.0], [60.0, -1.0]]
    """
    found = open_table(table)
    missing = [column.name for column in columns if column.name not in found]
    if missing:
        raise ValueError(f"expected the columns that the model was trained on, but {listed(missing)} are missing")
    _check_rows(found)
    return np.stack([_coded(column, read_cells(column.name, found[column.name])) for column in columns], axis=1)


def _check_rows(columns: dict[str, Any]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths or not all(lengths.values()):
        raise ValueError("table: expected at least one row, got none")
    if len(set(lengths.values())) > 1:
        got = listed(f"{length} in {name}" for name, length in lengths.items())
        raise ValueError(f"table: expected as many rows in every column, got {got}")


def _described(name: str, cells: Cells) -> Column:
    gaps = bool(cells.gaps.any())
    if cells.kind == "nothing":
        raise ValueError(f"column {name}: expected values, got none in any row; leave it out (ignore=, --ignore)")
    if cells.kind == "numbers":
        return Column(name, None, gaps)
    counts = Counter(value for value in cells.values if value is not None)
    total = counts.total()
    if cells.kind == "text":
        _check_slips(name, cells, counts)
    if len(counts) > max(_FEW_LEVELS, _IDENTIFIER * total):
        got = f"{len(counts)} among {total} values, as identifiers have"
        raise ValueError(
            f"column {name}: expected levels that several rows share, got {got}; leave it out (ignore=, --ignore)"
        )
    # Numbers and truth values compare, and so do texts; one column never has both.
    levels = [level for level in cells.order if level in counts] if cells.order else sorted(counts)
    return Column(name, tuple(levels), gaps)


def _check_slips(name: str, cells: Cells, counts: Counter[str]) -> None:
    """Raises ValueError for text that is nearly always a number: the rest are slips, or the numbers are codes."""
    numbers = {text for text in counts if np.isfinite(as_number(text))}
    if sum(counts[text] for text in numbers) < _MOSTLY_NUMBERS * counts.total():
        return
    slips = len(numbers) < len(counts)
    row = next(i for i, value in enumerate(cells.values) if value is not None and (value not in numbers or not slips))
    got = f"{shown(cells.values[row])} in row {row}"
    if slips:
        raise ValueError(f"column {name}: expected numbers, as nearly all its values are, got {got}; mend it, or "
                         "leave the column out (ignore=, --ignore)")  # fmt: skip
    raise ValueError(
        f"column {name}: expected numbers, got text such as {got}; make it numbers, or a categorical dtype"
    )


def _coded(column: Column, cells: Cells) -> Float64[np.ndarray, " rows"]:
    """Returns a column as training had it."""
    name, levels, gaps = column.name, column.levels, cells.gaps
    rows = np.flatnonzero(gaps)
    if levels is None:
        if cells.kind in ("text", "categories"):
            wrong = [row for row in np.flatnonzero(~gaps).tolist() if not np.isfinite(_number(cells.values[row]))]
            row = wrong[0] if wrong else int(np.flatnonzero(~gaps)[0])
            got = f"{shown(cells.values[row])} in row {row}"
            raise ValueError(f"column {name}: expected numbers, as in training, got {cells.kind}: {got}")
        if len(rows) and not column.gaps:
            where = f"row{'s' * (len(rows) > 1)} {listed(rows)}"
            raise ValueError(f"column {name}: expected a number in every row, as in training, got none in {where}")
        return np.full(len(gaps), np.nan) if cells.kind == "nothing" else cells.values
    for row in np.flatnonzero(~gaps)[:1].tolist():
        value = cells.values.tolist()[row]
        if isinstance(value, str) != isinstance(levels[0], str):
            expected, got = ("text", "numbers") if isinstance(levels[0], str) else ("numbers", "text")
            raise ValueError(f"column {name}: expected categories of {expected}, as in training, got {got}: "
                             f"{shown(value)} in row {row}")  # fmt: skip
    places = {level: float(place) for place, level in enumerate(levels)}
    gap = np.nan if column.gaps else -1.0
    values = zip(cells.values.tolist(), gaps, strict=True)
    return np.array([gap if is_gap else places.get(value, -1.0) for value, is_gap in values])


def _number(value: Any) -> float:
    return as_number(value) if isinstance(value, str) else float(value)
