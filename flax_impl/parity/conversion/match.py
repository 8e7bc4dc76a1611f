"""Finds how a port's weights were made of the reference's, where both are given: by equal numbers."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ..weight_map.names import similarity, words_of
from .conversion import Conversion, assembled
from .expressions import Entry, Expression, blocks, layouts

_NEAR = 1e-6  # of the largest number: a conversion may have gone through float32
_PARTS = 4  # blocks that an entry is cut into


def match(entries: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> Conversion:
    """Returns how a port's weights are made of the reference's entries; those that no entry explains are left out.

    Args:
        entries: the reference's, by name.
        weights: the port's, by their dotted names.
    """
    made, taken = {}, set()
    for name, array in weights.items():
        found = assembled(np.asarray(array, np.float64), _lookup(entries, name, taken))
        if found is not None:
            made[name] = found
    unused = tuple(name for name in entries if name not in taken)
    return Conversion(made, {name: array.shape for name, array in entries.items()}, None, (), unused)


def _lookup(
    entries: Mapping[str, np.ndarray], weight: str, taken: set[str]
) -> Callable[[np.ndarray], Expression | None]:
    words = words_of(weight)
    alike = {name: similarity(words, words_of(name)) for name in entries}

    def single(array: np.ndarray) -> Expression | None:
        total, near = float(array.sum()), _NEAR * (float(np.abs(array).max(initial=0.0)) or 1.0)
        for name in sorted(entries, key=lambda name: (name in taken, -alike[name])):
            for made, block in _parts(name, entries[name], array.size):
                if abs(float(block.sum()) - total) > near * array.size:
                    continue
                for layout in layouts(made, block.shape, array.shape):
                    if np.abs(layout.of(entries) - array).max(initial=0.0) <= near:
                        taken.add(name)
                        return layout
        return None

    return single


def _parts(name: str, whole: np.ndarray, size: int) -> Iterator[tuple[Expression, np.ndarray]]:
    """Yields an entry, or the blocks of it, that are as large as a weight."""
    if whole.size == size:
        yield Entry(name), whole
    if whole.size <= _PARTS * size:
        for made, _ in blocks(name, whole.shape, size):
            yield made, made.of({name: whole})
