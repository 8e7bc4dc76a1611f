"""Finds values whose numbers all stand in a value of the other side, at regular distances: a time step of one gate."""

from weakref import WeakKeyDictionary

import numpy as np

from torch_ref.common.tape.tape import Tape

from .likeness import tolerance

_LARGEST = 1 << 20  # numbers of a value that is looked into
# Each value's numbers in order, and where they stand: the reference is looked into again and again.
_SORTED: "WeakKeyDictionary[Tape, dict[int, tuple[np.ndarray, np.ndarray]]]" = WeakKeyDictionary()


def is_block(number: int, tape: Tape, other: Tape) -> bool:
    """Returns whether a value is a block of one of the other side's, with its axes in any order.

    Where it was not kept, it is taken for one.

    Args:
        number: of a value of the tape.
        tape: one side.
        other: the other side.
    """
    wanted, own = tape.arrays.get(number), tape.values[number]
    if wanted is None:
        return True
    near = float(tolerance(own.scale, 0.0))
    known = _SORTED.setdefault(other, {})
    for i, value in enumerate(other.values):
        if value.kind != "f" or not own.size < value.size <= _LARGEST or i not in other.arrays:
            continue
        if value.moments[4] > own.moments[4] + near or value.moments[5] < own.moments[5] - near:
            continue
        if i not in known:
            flat = other.arrays[i].ravel()
            order = np.argsort(flat, kind="stable")
            known[i] = flat[order], order
        if _stands_in(wanted, *known[i], near):
            return True
    return False


def _stands_in(wanted: np.ndarray, numbers: np.ndarray, places: np.ndarray, near: float) -> bool:
    """Whether an array's numbers stand among others, each step along one of its axes at the same distance."""
    found = np.searchsorted(numbers, wanted - near)
    if found.max() >= numbers.size or (np.abs(numbers[found] - wanted) > near).any():
        return False
    at = places[found]
    expected = np.full(wanted.shape, at.flat[0])
    for axis, length in enumerate(wanted.shape):
        if length > 1:
            step = at.take(1, axis).flat[0] - at.flat[0]
            if step < 0:
                return False
            expected += (step * np.arange(length)).reshape([-1 if i == axis else 1 for i in range(wanted.ndim)])
    return bool((at == expected).all())
