"""Describes an array by a few numbers that survive another layout, so that two frameworks' values can be paired."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float

MOMENTS = ("mean", "mean of sizes", "root mean square", "skew", "smallest", "largest")
_LONGEST = 4096  # of an axis longer than this, only the moments are kept
_PERIOD = 524287  # of the weights by position: a prime, so that no axis falls in with it
_CHUNK = 1 << 15  # numbers looked at in one go: they stay in the processor's cache
_ROW = 1 << 13  # numbers side by side in it
_NARROW = 256  # a table is not narrower than this, where the axes allow it
_SAME = 1e-14  # of the largest number
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
        """Whether all numbers are the same one, but for a last rounding."""
        return bool(self.moments[5] - self.moments[4] <= _SAME * self.scale)

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
        return unseen(shape, kind)
    sums = _Sums(shape, kind)
    for start, block in _blocks(np.atleast_1d(array), sums.width):
        sums.add(start, block)
    return sums.fingerprint()


class _Sums:
    """What a fingerprint is made of, added up block by block.

    An array is a table here, with its last axes side by side and those before them below each other: the sums of its
    rows and columns hold the marginals of all axes.

    Args:
        shape: of the array.
        kind: numpy's letter.
    """

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        self.shape, self.kind = shape, kind
        self.cut, self.width = len(shape), 1  # axes from `cut` on lie side by side
        while self.cut and self.width < _NARROW and (self.width == 1 or self.width * shape[self.cut - 1] <= _ROW):
            self.cut -= 1
            self.width *= shape[self.cut]
        # Of the numbers, and of their squares.
        self.rows = np.zeros((2, math.prod(shape[: self.cut])))
        self.columns = np.zeros((2, self.width)) if self._kept(self.cut, len(shape)) else None
        self.sizes = self.cubes = self.order = 0.0
        self.low, self.high, self.masked = np.inf, -np.inf, 0
        self.space = np.empty((2, min(max(_CHUNK, self.width), math.prod(shape))))

    def add(self, start: int, block: np.ndarray) -> None:
        """Adds whole rows of the table, or a piece of one.

        Args:
            start: how many numbers of the array stand before the block.
            block: in float64, rows by columns.
        """
        low, high = block.min(), block.max()
        if self.kind == "f" and not max(-low, high) < _HUGE:  # not: NaN, too
            huge = ~(np.abs(block) < _HUGE)
            self.masked += int(huge.sum()) + int(np.isnan(block).sum())
            block = np.where(huge, 0.0, block)
            low, high = block.min(), block.max()
        self.low, self.high = min(self.low, low), max(self.high, high)
        squares, sizes = (space[: block.size].reshape(block.shape) for space in self.space)
        np.multiply(block, block, out=squares)
        np.abs(block, out=sizes)
        ones = _ones()[: block.shape[1]]
        # By rows: no product is so long that several threads would share it, which a busy machine makes slow.
        self.sizes += np.vecdot(sizes, ones).sum()
        self.cubes += np.vecdot(squares, block).sum()
        self.order += np.vecdot(block, _weights(start, block.size).reshape(block.shape)).sum()
        row, column = divmod(start, self.width)
        self.rows[0, row : row + len(block)] += np.vecdot(block, ones)
        self.rows[1, row : row + len(block)] += np.vecdot(block, block)
        if self.columns is not None:
            self.columns[0, column : column + block.shape[1]] += np.add.reduce(block, 0)
            self.columns[1, column : column + block.shape[1]] += np.add.reduce(squares, 0)

    def fingerprint(self) -> Fingerprint:
        """Returns the fingerprint of all that was added."""
        shape, size = self.shape, math.prod(self.shape)
        total, of_squares = self.rows.sum(1)
        root = np.sqrt(of_squares / size)
        skew = self.cubes / of_squares if of_squares > 0 else 0.0
        moments = np.array([total / size, self.sizes / size, root, skew, self.low, self.high])
        marginals: list[np.ndarray | None] = [None] * len(shape)
        for sums, first, end in ((self.rows, 0, self.cut), (self.columns, self.cut, len(shape))):
            for axis in self._kept(first, end) if sums is not None else ():
                others = tuple(1 + i for i in range(end - first) if i != axis - first)
                marginal = sums.reshape(2, *shape[first:end]).sum(others)  # pyright: ignore[reportOptionalMemberAccess]
                marginal[1] /= root or 1.0
                marginals[axis] = marginal * (shape[axis] / size)
        return Fingerprint(shape, self.kind, self.masked / size, moments, tuple(marginals), self.order / np.sqrt(size))

    def _kept(self, start: int, end: int) -> list[int]:
        return [axis for axis in range(start, end) if 1 < self.shape[axis] <= _LONGEST]


def _blocks(array: np.ndarray, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields an array in float64, in blocks of a table, with how many numbers stand before each.

    Args:
        array: not empty.
        width: of the table.
    """
    high = max(1, _CHUNK // width)
    laid_out = array.flags.c_contiguous or array.ndim == 1 or array.size <= _CHUNK
    slab = len(array) if laid_out else max(1, _CHUNK * len(array) // array.size)  # else a copy of the whole is made
    for first in range(0, len(array), slab):
        table = np.ascontiguousarray(array[first : first + slab]).reshape(-1, width)
        before = first * (array.size // len(array))
        for row in range(0, len(table), high):
            for column in range(0, width, _ROW):
                block = table[row : row + high, column : column + _ROW]
                yield before + row * width + column, np.ascontiguousarray(block, np.float64)


def unseen(shape: Sequence[int], kind: str) -> Fingerprint:
    """Returns the fingerprint of a value of which only the shape is known, or which is empty.

    Args:
        shape: of the value.
        kind: numpy's letter.
    """
    return Fingerprint(tuple(shape), kind, 0.0, np.zeros(len(MOMENTS)), (None,) * len(shape), 0.0)


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
    return _table()[start : start + length]


@cache
def _table() -> np.ndarray:
    position = np.arange(_PERIOD, dtype=np.float64)
    weights = np.modf(np.modf(position * 0.6180339887498949)[0] * 7919.13)[0] * 2 - 1
    return np.concatenate([weights, weights[:_CHUNK]])


@cache
def _ones() -> np.ndarray:
    return np.ones(_ROW)
