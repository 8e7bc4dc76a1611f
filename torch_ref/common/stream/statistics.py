"""Mean, deviation and range of columns in one pass over their row groups, in float64."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class ColumnStatistics:
    """What scaling needs to know of some columns.

    Args:
        columns: their names.
        count: how many rows there are.
        mean: of each column [columns].
        deviation: the standard deviation of each column [columns], by the number of rows; 0 where it is constant.
        minimum: the smallest number of each column [columns].
        maximum: the largest number of each column [columns].

    Example:
        >>> found = ColumnStatistics.of(("age",), [np.array([[30.0], [50.0]]), np.array([[70.0]])])
        >>> found.count, found.mean.tolist(), found.deviation.round(2).tolist()
        (3, [50.0], [16.33])

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    columns: tuple[str, ...]
    count: int
    mean: Float64[np.ndarray, " columns"]
    deviation: Float64[np.ndarray, " columns"]
    minimum: Float64[np.ndarray, " columns"]
    maximum: Float64[np.ndarray, " columns"]

    @classmethod
    def of(cls, columns: tuple[str, ...], parts: Iterable[Float64[np.ndarray, "rows columns"]]) -> "ColumnStatistics":
        """Returns the statistics of all rows, part by part.

        Args:
            columns: their names.
            parts: rows after rows, each [rows, columns].
        """
        running = RunningStatistics(columns)
        for part in parts:
            running.add(part)
        return running.found()


class RunningStatistics:
    """Takes parts of some columns, one after the other.

    Args:
        columns: their names.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns, self.count = columns, 0
        width = len(columns)
        # From the first row on: large numbers that are close to one another keep their differences.
        self._origin, self._mean = np.zeros(width), np.zeros(width)
        self._values = np.zeros(width)  # that are no gaps
        self._squares = np.zeros(width)  # of the distances from the mean
        self._minimum, self._maximum = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, part: Float64[np.ndarray, "rows columns"]) -> None:
        """Adds some rows.

        Args:
            part: [rows, columns], with NaN for a gap, which counts as no value.
        """
        rows = len(part)
        if not rows:
            return
        there = ~np.isnan(part)
        first = (self._values == 0) & there.any(axis=0)
        self._origin = np.where(first, part[there.argmax(axis=0), np.arange(part.shape[1])], self._origin)
        values = there.sum(axis=0)
        least = np.maximum(values, 1)
        distance = part - self._origin
        mean = np.where(there, distance, 0.0).sum(axis=0) / least
        squares = np.where(there, distance - mean, 0.0)
        squares = (squares * squares).sum(axis=0)
        total, apart = self._values + values, mean - self._mean
        share = values / np.maximum(total, 1)
        self._squares += squares + apart**2 * (self._values * share)
        self._mean += apart * share
        self._minimum = np.fmin(self._minimum, np.where(there, part, np.inf).min(axis=0))
        self._maximum = np.fmax(self._maximum, np.where(there, part, -np.inf).max(axis=0))
        self._values = total
        self.count += rows

    def found(self) -> ColumnStatistics:
        """Returns the statistics of the rows so far."""
        constant = self._minimum == self._maximum
        mean = np.where(constant, self._minimum, self._origin + self._mean)
        deviation = np.where(constant, 0.0, np.sqrt(self._squares / np.maximum(self._values, 1)))
        return ColumnStatistics(self.columns, self.count, mean, deviation, self._minimum, self._maximum)
