"""Columns that are not what they seem: numbers that mark a gap, and numbers that only tell rows apart."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import listed

Named = tuple[str, Float[np.ndarray, " rows"]]
_NINES = 10.0 ** np.arange(2, 10) - 1  # 99, 999, ...: what gaps are commonly written as
_BELOW = 3  # 997 and 998 are marks beside 999: refused, not known
_FEW, _MANY = 20, 100  # rows: below, numbers may run by chance; beyond, they may be drawn at random
_YEARS = 1500, 2100
_TIES = 10  # that chance makes at least: none at all has a probability of 1 in 20,000
_EVEN, _CHANCE = 0.1, 1.63  # how far shares lie from those of even numbers at most; by chance over the root of the rows


def examine_numbers(columns: Sequence[Named]) -> list[str]:
    """Returns a sentence on numbers that look like marks for gaps, and nothing where there are none.

    Args:
        columns: the name of each, and its numbers [rows], NaN where one is missing.
    """
    found = [
        f"{mark:.0f} in {name} ({rows} rows)" for name, column in columns for mark, rows in gap_marks(column).items()
    ]
    if not found:
        return []
    return [f"far from all other values, as marks for gaps are: {listed(found)}; if they are, leave those cells empty"]


def examine_identifiers(columns: Sequence[Named]) -> list[str]:
    """Returns a sentence on columns that look like identifiers, and nothing where there are none.

    Args:
        columns: the name of each, and its numbers [rows], NaN where one is missing.
    """
    found = [name for name, column in columns if is_identifier(column)]
    if not found:
        return []
    return [
        f"another whole number in every row, as identifiers have: {listed(found)}; if they are, leave them out (ignore)"
    ]


def gap_marks(column: Float[np.ndarray, " rows"]) -> dict[float, int]:
    """Returns the numbers that look like marks for gaps, and in how many rows each stands.

    Such a number is written in nines, or one or two less, as 999, -9999 and 998. It stands in several rows, at an end
    of the column, and farther from all other numbers than these are from each other. One below 0 where all others are
    above need not lie so far.

    Example:
        >>> gap_marks(np.array([31.0, 52.0, -999.0, 44.0, -999.0]))
        {-999.0: 2}
    """
    there = column[~np.isnan(column)]
    if not len(there):
        return {}
    low, high = float(there.min()), float(there.max())
    marks = [sign * mark for sign, end in ((-1, low), (1, high)) for mark in _alike(sign * end)]
    if not marks:
        return {}
    others = there[~np.isin(there, marks)]
    if not len(others) or others.min() == others.max():
        return {}  # of two values, neither lies apart
    low, high = float(others.min()), float(others.max())
    found = {}
    for mark in sorted(marks):
        away = low - mark if mark < 0 else mark - high
        rows = int((there == mark).sum())
        if rows > 1 and (away > high - low or (mark < 0 <= low)):
            found[mark] = rows
    return found


def is_identifier(column: Float[np.ndarray, " rows"]) -> bool:
    """Returns whether the numbers only tell rows apart: whole, different in every row, and no measure would be so.

    Of whole numbers that are measured, some rows have the same, the more of them the narrower the range. So those that
    differ in all rows only count the rows, where chance would make ten ties in their range. Of more than 100 rows they
    do, too, where half of them follow another, or where all are spread evenly. Years do not, nor numbers below 0.

    Example:
        >>> is_identifier(np.arange(1.0, 41.0)), is_identifier(np.arange(40.0) ** 2)
        (True, False)
    """
    rows = len(column)
    if rows < _FEW or not np.isfinite(column).all() or (column != np.floor(column)).any():
        return False
    column = np.sort(column)
    steps, low, width = np.diff(column), column[0], column[-1] - column[0]
    if low < 0 or (steps == 0).any() or (low >= _YEARS[0] and low + width <= _YEARS[1]):
        return False
    if rows * rows >= 2 * _TIES * (width + 1):
        return True
    if rows <= _MANY:
        return False
    uneven = np.abs((column - low) / width - (np.arange(rows) + 0.5) / rows).max()
    return bool(np.mean(steps == 1) >= 0.5 or uneven < min(_EVEN, _CHANCE / np.sqrt(rows)))


def _alike(end: float) -> tuple[float, ...]:
    """Returns the marks that go with the largest number of a column, the largest last; none where it is no mark."""
    for nines in _NINES.tolist():
        if nines - _BELOW < end <= nines:
            return tuple(nines - less for less in range(_BELOW))
    return ()
