"""Describes an array by a few numbers that survive another layout, so that two frameworks' values can be paired."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float

MOMENTS = ("mean", "mean of sizes", "root mean square", "skew", "smallest", "largest")
_LONGEST = 4096  # of an axis longer than this, only the moments are kept
_PERIOD = 524287  # of the weights by position: a prime, so that no axis falls in with it
_CHUNK = 1 << 16  # numbers looked at in one go: they stay in the processor's cache
_HUGE = 1e8  # masks hold -inf, -1e9 or the smallest number of a dtype: only where they stand counts


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a value in place of the value.

    Args:
        shape: of the value.
        kind: numpy's letter: `f`, `i`, `u` or `b`.
        masked: the share of the numbers that are not finite or huge, NaN taken twice: it is no mask. They count as 0
            in all that follows.
        moments: `MOMENTS`, all in the value's own unit; they depend on neither layout nor broadcasting.
        marginals: for each axis the means over all other axes, first of the values and then of their squares.
        order: a sum of the values with weights drawn by position: equal for equal numbers in equal order; NaN where
            that was not looked at.
    """

    shape: tuple[int, ...]
    kind: str
    masked: float
    moments: Float[np.ndarray, " moments"]
    marginals: tuple[Float[np.ndarray, "two length"] | None, ...]
    order: float

    @cached_property
    def size(self) -> int:
        """How many numbers the value has."""
        return math.prod(self.shape)

    @property
    def scale(self) -> float:
        """The largest size of a number in the value."""
        return float(max(abs(self.moments[4]), abs(self.moments[5])))

    @property
    def constant(self) -> bool:
        """Whether all numbers are the same one."""
        return self.moments[4] == self.moments[5]

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The lengths of the axes that have more than one entry."""
        return tuple(length for length in self.shape if length > 1)


def fingerprint(array: np.ndarray) -> Fingerprint:
    """Returns the fingerprint of an array of numbers.

    Args:
        array: of any shape; booleans count as 0 and 1.

    Example:
        >>> print_of = fingerprint(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> print_of.moments[[0, 4, 5]].tolist(), print_of.marginals[0][0].tolist()
        ([2.5, 1.0, 4.0], [1.5, 3.5])
    """
    kind, shape = array.dtype.kind, array.shape
    if array.size == 0:
        return Fingerprint(shape, kind, 0.0, np.zeros(len(MOMENTS)), (None,) * len(shape), 0.0)
    sums = np.zeros(4)
    low, high, order, masked = np.inf, -np.inf, 0.0, 0
    kept = [length > 1 and length <= _LONGEST for length in shape]
    marginals = [np.zeros((2, length)) if keep else None for length, keep in zip(shape, kept, strict=True)]
    rows = max(1, _CHUNK * shape[0] // array.size) if shape else 1
    for start in range(0, shape[0] if shape else 1, rows):
        part = array[start : start + rows] if shape else array
        part = np.ascontiguousarray(part, np.float64)
        if kind == "f" and not max(-part.min(), part.max()) < _HUGE:  # not: NaN, too
            huge = ~(np.abs(part) < _HUGE)
            masked += int(huge.sum()) + int(np.isnan(part).sum())
            part = np.where(huge, 0.0, part)
        squares = part * part
        flat = part.ravel()
        sums += (flat.sum(), np.abs(flat).sum(), flat @ flat, squares.ravel() @ flat)
        low, high = min(low, part.min()), max(high, part.max())
        order += float(flat @ _weights(start * (array.size // shape[0]) if shape else 0, part.size))
        for axis, marginal in enumerate(marginals):
            if marginal is not None:
                others = tuple(i for i in range(part.ndim) if i != axis)
                where = slice(start, start + rows) if axis == 0 else slice(None)
                marginal[0, where] += part.sum(others)
                marginal[1, where] += squares.sum(others)
    means = sums / array.size
    root = np.sqrt(means[2])
    skew = means[3] / means[2] if means[2] > 0 else 0.0
    moments = np.array([means[0], means[1], root, skew, low, high])
    shares = tuple(
        None if marginal is None else np.stack([marginal[0], marginal[1] / (root or 1.0)]) * (length / array.size)
        for marginal, length in zip(marginals, shape, strict=True)
    )
    return Fingerprint(shape, kind, masked / array.size, moments, shares, order / np.sqrt(array.size))


def transposed(kept: Fingerprint, axes: Sequence[int]) -> Fingerprint:
    """Returns the fingerprint of a value with its axes in another order; its numbers' order is not known then.

    Args:
        kept: of the value.
        axes: of the value, in their new order.
    """
    shape, marginals = tuple(kept.shape[axis] for axis in axes), tuple(kept.marginals[axis] for axis in axes)
    return Fingerprint(shape, kept.kind, kept.masked, kept.moments, marginals, np.nan)


def _weights(start: int, length: int) -> np.ndarray:
    """Returns the weight of each position in row-major order: numbers from -1 to 1 without a pattern."""
    start %= _PERIOD
    table = _table()
    if start + length <= _PERIOD:
        return table[start : start + length]
    return np.resize(np.roll(table, -start), length)


@cache
def _table() -> np.ndarray:
    position = np.arange(_PERIOD, dtype=np.float64)
    return np.modf(np.modf(position * 0.6180339887498949)[0] * 7919.13)[0] * 2 - 1
