"""Pairs gradients of weights that one side holds together and the other apart: fused, stacked over layers or gates."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint, fingerprint
from torch_ref.common.tape.tape import Tape

from .likeness import SAME_AXES, Pool, tolerance

_MOST = 16  # blocks that a gradient is taken apart into, unless each is a row of an axis
_STACKED = 64  # layers that a gradient is stacked over
_JOINED = 3  # gradients that are put together in any order
# The parts of the reference's gradients, which are looked at again and again.
_KNOWN: "WeakKeyDictionary[Tape, dict[int, list[Fingerprint]]]" = WeakKeyDictionary()


def lone_gradients(tape: Tape, agreed: Mapping[int, list[int]], other: Tape) -> list[int]:
    """Returns the gradients that are no gradient of the other side, and were kept.

    Some value on the other's way to a gradient may be equal: what one of two heads sends back, for instance.

    Args:
        tape: whose gradients are looked at.
        agreed: the partners of its values.
        other: the other tape.
    """
    theirs = set(_gradients(other))
    lone = [number for number in _gradients(tape) if not theirs.intersection(agreed.get(number, ()))]
    return [number for number in lone if np.isfinite(tape.noise[number]) and number in tape.arrays]


def explained_gradients(tape: Tape, alone: Sequence[int], other: Tape, others: Sequence[int]) -> list[int]:
    """Returns the gradients all of whose parts the other side has.

    The other side may have them as gradients of their own, as parts of its own gradients, or in another order.

    Args:
        tape: whose gradients are looked at.
        alone: numbers of those that have no partner.
        other: the other tape.
        others: the same of it.
    """
    known = _KNOWN.setdefault(other, {})
    for n in others:
        if n not in known:
            known[n] = [fingerprint(block) for block in _all_parts(other.arrays[n])]
    parts = [part for n in others for part in known[n]]
    pool = Pool([*(other.values[n] for n in _gradients(other)), *parts])
    return [
        number
        for number in alone
        if _is_made(tape.arrays[number], pool, float(tape.noise[number]))
        or _is_joined(tape.arrays[number], [other.arrays[n] for n in others], float(tape.noise[number]))
    ]


def _is_made(array: np.ndarray, pool: Pool, noise: float, depth: int = 2) -> bool:
    """Whether an array is in the pool, or consists of what is: of rows, too, each of which does."""
    if any(all(_is_in(pool, fingerprint(block), noise) for block in blocks) for blocks in _taken_apart(array)):
        return True
    stacked = depth > 1 and array.ndim > 2 and len(array) <= _STACKED
    return stacked and all(_is_made(row, pool, noise, depth - 1) for row in array)


def _all_parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields all parts of an array, and those of its rows."""
    for blocks in _taken_apart(array):
        yield from blocks
    if array.ndim > 2 and len(array) <= _STACKED:
        for row in array:
            for blocks in _taken_apart(row):
                yield from blocks if len(blocks) <= _JOINED else ()


def _gradients(tape: Tape) -> list[int]:
    return [number for name, number in tape.results.items() if name.startswith("grad/")]


def _taken_apart(array: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Yields the ways to take an array apart: not at all, by the rows of an axis, or in blocks of it."""
    yield [array]
    for axis, length in enumerate(array.shape):
        moved = np.moveaxis(array, axis, 0)
        if array.ndim > 1:
            yield list(moved)
        for count in range(2, min(_MOST, length - 1) + 1):
            if length % count == 0:
                yield list(moved.reshape(count, length // count, *moved.shape[1:]))


def _is_in(pool: Pool, block: Fingerprint, noise: float) -> bool:
    return any(level >= SAME_AXES and other.size == block.size for level, other in pool.like(block, noise))


def _is_joined(array: np.ndarray, parts: list[np.ndarray], noise: float) -> bool:
    """Whether an array has just the numbers of a few others, in whatever order."""
    own = fingerprint(array)
    near = tolerance(own.scale, noise)
    numbers = np.sort(array, axis=None)
    small = [part for part in parts if part.size <= array.size]
    for count in range(1, _JOINED + 1):
        for chosen in itertools.combinations(small, count):
            if sum(part.size for part in chosen) != array.size:
                continue
            if abs(sum(float(part.sum()) for part in chosen) / array.size - own.moments[0]) > near:
                continue
            joined = np.sort(np.concatenate([part.ravel() for part in chosen]))
            if np.abs(joined - numbers).max(initial=0.0) <= near:
                return True
    return False
