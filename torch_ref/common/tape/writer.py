"""Collects a tape while a step runs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .fingerprint import Fingerprint, fingerprint, transposed, unseen
from .tape import Operation, Tape

_LARGE = 1 << 16  # numbers of an array that is not looked at twice


class TapeWriter:
    """Collects a tape while a step runs.

    Args:
        keep: how many bytes of the values themselves are kept, the first ones first; parameters and inputs are always.
        largest: of more numbers than this, only the shape is kept, and no parameters are; None keeps all fingerprints.
        report: takes the number of values that are written down, after each.
    """

    def __init__(
        self, keep: int = 0, largest: int | None = None, report: Callable[[int], None] = lambda number: None
    ) -> None:
        self.keep, self.largest, self.report = keep, largest, report
        self.seen = 0  # bytes of all values, in float64
        self.operations: list[Operation] = []
        self.values: list[Fingerprint] = []
        self.dtypes: list[str] = []
        self.arrays: dict[int, np.ndarray] = {}
        self.leaves: dict[str, int] = {}
        self.results: dict[str, int] = {}

    def value(self, array: np.ndarray, dtype: str, moved: tuple[int, Sequence[int]] | None = None) -> int:
        """Writes a value down and returns its number.

        Args:
            array: the value.
            dtype: as the model wrote it.
            moved: the number of a value that this one is, and the order of its axes, where it is nothing else: a large
                array is not looked at twice.
        """
        number = self._add(array, dtype, moved)
        wide = np.float64 if array.dtype.kind == "f" else array.dtype
        if (size := array.size * np.dtype(wide).itemsize) <= self.keep:
            self.keep -= size
            self.arrays[number] = np.array(array, wide)
        return number

    def leaf(self, name: str, array: np.ndarray, dtype: str) -> int:
        """Writes a parameter, a buffer or an input down and returns its number; it is kept in its own dtype.

        Args:
            name: `param/…`, `buffer/…` or `input/…`.
            array: the value, in float64 or as written; not copied where it can only be read.
            dtype: as the model wrote it.
        """
        number = self.leaves[name] = self._add(array, dtype)
        if self.largest is None:
            narrow = array.astype(np.float32, copy=False) if dtype == "float32" else array
            kept = narrow if narrow is array or np.array_equal(narrow, array) else array
            self.arrays[number] = np.array(kept) if kept is array and array.flags.writeable else kept
        return number

    def unseen(self, shape: Sequence[int], kind: str, dtype: str) -> int:
        """Writes down a value of which only the shape and numpy's letter are known, and returns its number."""
        return self._written(unseen(shape, kind), dtype)

    def _add(self, array: np.ndarray, dtype: str, moved: tuple[int, Sequence[int]] | None = None) -> int:
        return self._written(self._fingerprint(array, moved), dtype)

    def _written(self, value: Fingerprint, dtype: str) -> int:
        self.values.append(value)
        self.dtypes.append(dtype)
        self.seen += 8 * value.size
        self.report(len(self.values))
        return len(self.values) - 1

    def _fingerprint(self, array: np.ndarray, moved: tuple[int, Sequence[int]] | None) -> Fingerprint:
        if moved is not None and array.size > _LARGE:
            number, axes = moved
            kept = self.values[number]
            return kept if list(axes) == sorted(axes) else transposed(kept, axes)
        if self.largest is not None and array.size > self.largest:
            return unseen(array.shape, array.dtype.kind)
        return fingerprint(array)

    def finish(self, framework: str, noise: np.ndarray | None = None, **metadata: Any) -> Tape:
        """Returns the tape."""
        noise = np.zeros(len(self.values)) if noise is None else noise
        graph = (self.operations, self.values, self.dtypes, noise, self.leaves, self.results)
        return Tape(framework, *graph, self.arrays, metadata)
