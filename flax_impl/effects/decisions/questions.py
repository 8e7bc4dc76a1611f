"""Yes-or-no questions about a row's features: the splits of a policy tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_rows
from torch_ref.common.data.columns import Column


@dataclass(frozen=True)
class Condition:
    """A question about one column: at most a number, of a level, or missing.

    Args:
        column: the place of the column.
        kind: "at most", "level" or "missing".
        value: the number, or the code of the level.
    """

    column: int
    kind: Literal["at most", "level", "missing"]
    value: float = 0.0

    def ask(self, x: Float[np.ndarray, "rows features"]) -> Bool[np.ndarray, " rows"]:
        """Returns which rows say yes; what is missing is neither at most a number nor of a level."""
        of_column = x[:, self.column]
        if self.kind == "missing":
            return np.isnan(of_column)
        return of_column <= self.value if self.kind == "at most" else of_column == self.value

    def text(self, columns: Sequence[Column]) -> str:
        """Returns the question in words, such as `age <= 52.5`."""
        column = columns[self.column]
        if self.kind == "missing":
            return f"{column.name} is missing"
        if self.kind == "at most" or column.levels is None:
            return f"{column.name} <= {self.value:.6g}"
        return f"{column.name} is {column.levels[int(self.value)]}"


def named_columns(columns: Sequence[str | Column] | None, features: int) -> tuple[Column, ...]:
    """Returns what each column is; a name stands for a column of numbers, and None or none at all for x1, x2 and so on.

    Raises ValueError for another number of them, and for a name that two have.
    """
    known = tuple(Column(column) if isinstance(column, str) else column for column in columns or ())
    known = known or tuple(Column(f"x{place + 1}") for place in range(features))
    if len(known) != features:
        raise ValueError(f"columns: expected {features}, as many as x has, got {len(known)}")
    names = [column.name for column in known]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"columns: expected a name of its own for each, got {twice!r} twice")
    return known


def check_table(x: Any, features: int | None = None) -> Float[np.ndarray, "rows features"]:
    """Returns features in float64; raises ValueError unless they are numbers or NaN, in so many columns."""
    array = np.asarray(x)
    check_shape("x", array, ("rows", "features" if features is None else features))
    check_rows("x", array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"x: expected numbers, got dtype {array.dtype}")
    wrong = np.argwhere(np.isinf(array))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(f"x: expected finite numbers or NaN, got {array[row, column]} in row {row}, column {column}")
    return array.astype(np.float64)


def questions_about(
    x: Float[np.ndarray, "rows features"],
    columns: Sequence[Column],
    cuts: int,
    w: Float[np.ndarray, " rows"] | None = None,
) -> tuple[list[Condition], Bool[np.ndarray, " questions"]]:
    """Returns the questions to which some rows say yes and some no, and which of them start a chain.

    Of a number: whether it is at most a cut, in the middle between two values that follow each other; all of them
    where there are at most `cuts`, else those that cut the rows, each counted by `w`, into about equal shares. Of a
    category: whether it is a level, against all others. Of a column with gaps: whether it is missing. In the chain of a
    number's cuts, who says yes to one says yes to the next.
    """
    asked: list[Condition] = []
    starts: list[bool] = []
    for place, column in enumerate(columns):
        values = x[:, place]
        known = ~np.isnan(values)
        there = values[known]
        different, places = np.unique(there, return_inverse=True)
        weights = np.bincount(places, None if w is None else w[known])
        if column.levels is None:
            found = [Condition(place, "at most", cut) for cut in _middles(different, weights, cuts)]
            starts += [number == 0 for number in range(len(found))]
        else:
            found = [Condition(place, "level", level) for level in different.tolist() if level >= 0]
            found = found if len(different) > 1 or len(there) < len(values) else []  # one level alone
            starts += [True] * len(found)
        asked += found
        if 0 < len(there) < len(values):
            asked.append(Condition(place, "missing"))
            starts.append(True)
    return asked, np.array(starts, dtype=bool)


def _middles(different: np.ndarray, weights: np.ndarray, cuts: int) -> list[float]:
    """Returns the cuts between sorted values, at most so many."""
    if len(different) < 2:
        return []
    below = np.arange(len(different) - 1)
    if len(below) > cuts:
        shares = np.cumsum(weights)[:-1] / weights.sum()
        wanted = np.arange(1, cuts + 1) / (cuts + 1) - 1e-12  # a share that is reached but for rounding is reached
        below = np.unique(np.minimum(np.searchsorted(shares, wanted), len(shares) - 1))
    low, high = different[below], different[below + 1]
    middle = low / 2 + high / 2
    return np.where(middle < high, middle, low).tolist()
