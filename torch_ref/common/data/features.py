"""What the features of a table are, and the array that they become: for training, and for new rows like it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..checks.arguments import listed, shown
from .cells import Cells, Table, as_number, open_table, read_cells, refused
from .columns import Column

_FEW_LEVELS = 20  # as many may differ in every row
_IDENTIFIER = 0.9  # levels per cell, from which on a column names rows and says nothing about them
_MOSTLY_NUMBERS = 0.9  # of a text column's cells: the rest are slips
_OFTEN_NUMBERS = 0.5  # likewise, where more numbers differ than levels of codes: the rest stands for gaps
# As people write numbers: with a unit, or with marks between the thousands.
_WRITTEN = re.compile(r"[$€£]? ?[-+]?\d[\d.,' ]*[%$€£]?")
_DECLARE = "declare it a category (categories=, --categories)"
_DATE = re.compile(r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2}))([ T].*)?")


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
    check_rows(columns)
    cells = {name: read_cells(name, column) for name, column in columns.items()}
    for name, found in cells.items():
        check_text(name, found)
    return tuple(describe_cells(name, found) for name, found in cells.items())


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
    check_rows(found)
    return np.stack([code_cells(column, read_cells(column.name, found[column.name])) for column in columns], axis=1)


def check_rows(columns: Mapping[str, Any]) -> None:
    """Raises ValueError unless all columns have as many rows, and some."""
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths or not all(lengths.values()):
        raise ValueError("table: expected at least one row, got none")
    if len(set(lengths.values())) > 1:
        got = listed(f"{length} in {name}" for name, length in lengths.items())
        raise ValueError(f"table: expected as many rows in every column, got {got}")


def check_text(name: str, cells: Cells, *, numbers: bool = False) -> None:
    """Raises ValueError for text that is none: dates, numbers with a slip among them, or numbers written as text.

    Args:
        name: of the column.
        cells: of the column.
        numbers: written as text are names, as of arms.
    """
    if cells.kind != "text":
        return
    counts = Counter(value for value in cells.values if value is not None)
    if all(_DATE.fullmatch(text) for text in counts):
        raise refused(name, "date")
    plain = {text for text in counts if np.isfinite(as_number(text))}
    alike = plain if numbers else plain | {text for text in counts if _WRITTEN.fullmatch(text)}
    share = sum(counts[text] for text in alike) / max(counts.total(), 1)
    slips = len(plain) < len(counts)
    if share < (_OFTEN_NUMBERS if len(alike) > _FEW_LEVELS else _MOSTLY_NUMBERS) or (numbers and not slips):
        return
    row = next(i for i, value in enumerate(cells.values) if value is not None and (value not in plain or not slips))
    got = f"{shown(cells.values[row])} in row {row}"
    if slips:
        advice = "mend or rename it" if numbers else f"mend it, leave it empty, or {_DECLARE}"
        raise ValueError(f"column {name}: expected numbers, as most of its values are, got {got}; {advice}")
    raise ValueError(f"column {name}: expected numbers as such, got {got}; convert the text, or {_DECLARE}")


def describe_cells(name: str, cells: Cells) -> Column:
    """Says what a column is; raises ValueError for one without any value, or whose levels name single rows."""
    gaps = bool(cells.gaps.any())
    if cells.kind == "nothing":
        raise ValueError(f"column {name}: expected values, got none in any row; leave it out (ignore=, --ignore)")
    if cells.kind == "numbers":
        return Column(name, None, gaps)
    counts = Counter(value for value in cells.values if value is not None)
    if len(counts) > max(_FEW_LEVELS, _IDENTIFIER * counts.total()):
        got = f"{len(counts)} among {counts.total()} values, as identifiers have"
        advice = "leave it out (ignore=, --ignore)"
        raise ValueError(f"column {name}: expected levels that several rows share, got {got}; {advice}")
    # Numbers and truth values compare, and so do texts; one column never has both.
    levels = [level for level in cells.order if level in counts] if cells.order else sorted(counts)
    return Column(name, tuple(levels), gaps)


def code_cells(column: Column, cells: Cells) -> Float64[np.ndarray, " rows"]:
    """Returns a column's cells as `to_numbers` does, and raises the same errors."""
    return _numbers(column, cells) if column.levels is None else _codes(column, column.levels, cells)


def _numbers(column: Column, cells: Cells) -> Float64[np.ndarray, " rows"]:
    gaps, values = cells.gaps, cells.values
    if cells.kind in ("text", "categories"):
        here = np.flatnonzero(~gaps).tolist()
        row = next((row for row in here if isinstance(values[row], str) and np.isnan(as_number(values[row]))), here[0])
        got = f"{cells.kind}: {shown(values[row])} in row {row}"
        raise ValueError(f"column {column.name}: expected numbers, as in training, got {got}")
    rows = np.flatnonzero(gaps)
    if len(rows) and not column.gaps:
        got = f"none in row{'s' * (len(rows) > 1)} {listed(rows)}"
        raise ValueError(f"column {column.name}: expected a number in every row, as in training, got {got}")
    return np.full(len(gaps), np.nan) if cells.kind == "nothing" else values


def _codes(column: Column, levels: tuple[Any, ...], cells: Cells) -> Float64[np.ndarray, " rows"]:
    gaps, values = cells.gaps.tolist(), cells.values.tolist()
    row = gaps.index(False) if False in gaps else None
    if row is not None and isinstance(values[row], str) != isinstance(levels[0], str):
        expected, got = ("text", "numbers") if isinstance(levels[0], str) else ("numbers", "text")
        got = f"{got}: {shown(values[row])} in row {row}"
        raise ValueError(f"column {column.name}: expected categories of {expected}, as in training, got {got}")
    places = {level: float(place) for place, level in enumerate(levels)}
    gap = np.nan if column.gaps else -1.0
    return np.array([gap if is_gap else places.get(value, -1.0) for value, is_gap in zip(values, gaps, strict=True)])
