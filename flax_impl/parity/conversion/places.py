"""Knows where the numbers of a port's weights are, in whatever they were moved into, and what they are made of."""

from collections.abc import Callable, Mapping

import numpy as np

from torch_ref.common.tape.tape import Tape

from .conversion import assembled
from .expressions import Arrays, Expression, Summed

_LARGE = 1 << 18  # numbers of a weight whose making is looked up at once, to keep nothing for each number


class Places:
    """The weights of a port: each of their numbers has a number of its own, and what moves weights moves those.

    Args:
        tape: the port's operations.
        leaves: numbers of its weights, by their dotted names.
        single: says how an array of numbers of entries is made of a single entry.
    """

    def __init__(
        self, tape: Tape, leaves: Mapping[str, int], single: Callable[[], Callable[[np.ndarray], Expression | None]]
    ) -> None:
        self.shapes = {name: tape.values[number].shape for name, number in leaves.items()}
        sizes = [tape.values[number].size for number in leaves.values()]
        self._starts = np.cumsum([0, *sizes])
        self._names = list(leaves)
        self._places = {name: place for place, name in enumerate(leaves)}
        self._leaves = {number: name for name, number in leaves.items()}
        self._single = single
        self._type = np.int32 if self._starts[-1] < np.iinfo(np.int32).max else np.int64
        self._moved: dict[int, np.ndarray] = {}
        # Of each weight: its numbers as far as they are known, and up to two entries of the reference for each number.
        self._numbers: dict[str, np.ndarray] = {}
        self.sources: dict[str, np.ndarray] = {}
        self.made: dict[str, Expression] = {}
        self._whole: set[str] = set()

    def __contains__(self, value: int) -> bool:
        return value in self._leaves or value in self._moved

    def ids(self, value: int) -> np.ndarray:
        """Returns the numbers of the numbers that a value consists of."""
        if value in self._moved:
            return self._moved[value]
        name = self._leaves[value]
        first, end = self._range(name)
        return np.arange(first, end, dtype=self._type).reshape(self.shapes[name])

    def _range(self, name: str) -> tuple[int, int]:
        place = self._places[name]
        return int(self._starts[place]), int(self._starts[place + 1])

    def move(self, value: int, ids: np.ndarray) -> None:
        """Takes note of what a value consists of.

        Args:
            value: its number.
            ids: the numbers of its numbers.
        """
        self._moved[value] = np.asarray(ids).astype(self._type)

    def drop(self, value: int) -> None:
        """Forgets a value that only moved weights; it is of no use any more."""
        self._moved.pop(value, None)

    def base(self, value: int) -> np.ndarray:
        """Returns the numbers of a value's numbers without the axes along which it was repeated."""
        ids = self.ids(value)
        return _base(ids) if value in self._moved else ids

    def names(self, value: int) -> list[str]:
        """Returns the weights that a value consists of, in the order in which they come."""
        return [self._leaves[value]] if value in self._leaves else self._owners(self._moved[value])

    def _owners(self, ids: np.ndarray) -> list[str]:
        if not ids.size:
            return []
        ends = np.searchsorted(self._starts, [ids.min(), ids.max()], "right") - 1
        if ends[0] == ends[1]:
            return [self._names[ends[0]]]
        owners, first = np.unique(np.searchsorted(self._starts, ids.ravel(), "right") - 1, return_index=True)
        return [self._names[i] for i in owners[np.argsort(first)]]

    def numbers(self, value: int) -> np.ndarray | None:
        """Returns what a value is; None where not all of its numbers are known."""
        names = self.names(value)
        if any(name not in self._numbers for name in names):
            return None
        if value in self._leaves and names[0] in self._whole:
            return self._numbers[names[0]].reshape(self.shapes[names[0]])
        ids = self.ids(value)
        found = self._numbers[names[0]][ids - self._range(names[0])[0]] if len(names) == 1 else self._gathered(ids)
        return None if np.isnan(found).any() else found

    def _gathered(self, ids: np.ndarray) -> np.ndarray:
        found = np.empty(ids.shape)
        for name in self._owners(ids):
            first, end = self._range(name)
            own = (ids >= first) & (ids < end)
            found[own] = self._numbers[name][ids[own] - first]
        return found

    def take(self, value: int, made: Expression, arrays: Arrays, numbered: Arrays) -> None:
        """Says what a value is made of.

        Args:
            value: its number.
            made: what it is made of.
            arrays: the reference's entries.
            numbered: the numbers of their numbers.
        """
        if value in self._leaves and not isinstance(made, Summed):
            name = self._leaves[value]
            if name not in self._numbers and np.prod(self.shapes[name]) > _LARGE:
                self._numbers[name], self.made[name] = np.ravel(made.of(arrays)), made
                self._whole.add(name)
                return
        ids = self.base(value)
        parts = made.parts if isinstance(made, Summed) else (made,)
        numbers, sources = made.of(arrays), [part.of(numbered) for part in parts]
        for name in self._owners(ids):
            first, end = self._range(name)
            self._open(name, numbers.dtype)
            own = (ids >= first) & (ids < end)
            within = ids[own] - first
            self._numbers[name][within] = numbers[own]
            for row, of in enumerate(sources):
                self.sources[name][row, within] = of[own]
            self._settle(name)

    def _open(self, name: str, dtype: np.dtype) -> None:
        size = self._range(name)[1] - self._range(name)[0]
        if name not in self._numbers:
            self._numbers[name] = np.full(size, np.nan, dtype)
        elif dtype.itemsize > self._numbers[name].itemsize:
            self._numbers[name] = self._numbers[name].astype(dtype)
        if name not in self.sources:
            self.sources[name] = np.full((2, size), -1, self._type)

    def _settle(self, name: str) -> None:
        """Looks up what a large weight is made of, where that is decided."""
        if self._numbers[name].size > _LARGE and not np.isnan(self._numbers[name]).any():
            made = self.expression(name)
            if made is not None:
                self.made[name] = made
                self._whole.add(name)
                del self.sources[name]

    def expression(self, name: str) -> Expression | None:
        """Returns what a weight is made of; None where it is not made of whole blocks.

        Args:
            name: of the weight.
        """
        if name in self.made:
            return self.made[name]
        rows = [row.reshape(self.shapes[name]) for row in self.sources[name] if (row >= 0).any()]
        made = [found for row in rows if (found := assembled(row, self._single())) is not None]
        if not made or len(made) < len(rows):
            return None
        return made[0] if len(made) == 1 else Summed((made[0], made[1]))


def _base(ids: np.ndarray) -> np.ndarray:
    for axis in range(ids.ndim):
        first = ids.take([0], axis)
        repeated = ids.shape[axis] > 1 and (ids.take([1], axis) == first).all()
        if repeated and (ids == first).all():
            ids = first
    return ids
