"""Finds values that hold some rows of a value of the other side: torch picks rows where JAX computes all and masks."""

from collections.abc import Iterable, Mapping

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint
from torch_ref.common.tape.tape import Tape

from .likeness import tolerance

_LEAST = 2  # rows that a selection has
_LOOKED_AT = 50  # values that may hold a row


def selected(tape: Tape, wanted: Iterable[int], other: Tape) -> tuple[set[int], set[int]]:
    """Returns which of the wanted values are rows of larger values of the other side, and those values.

    The mean and the root mean square of every row decide, to the last digits, and then the rows themselves. Rows of
    zeros say nothing.

    Args:
        tape: one side.
        wanted: numbers of some of its values.
        other: the other side.
    """
    rows = {number: found for number, value in enumerate(other.values) if (found := _rows(value)) is not None}
    if not rows:
        return set(), set()
    owners = np.concatenate([np.full(len(of), number) for number, of in rows.items()])
    table = np.concatenate(list(rows.values()))
    order = np.argsort(table[:, 1], kind="stable")
    owners, roots = owners[order], table[order, 1]
    small, large = set(), set()
    for number in wanted:
        value = tape.values[number]
        own = _rows(value)
        if own is None or len(own) < _LEAST:
            continue
        near = float(tolerance(value.scale, 0.0)) * 10
        telling = own[own[:, 1] > near]
        if len(telling) < _LEAST or np.ptp(telling[:, 1]) <= near:
            continue
        low, high = np.searchsorted(roots, [telling[0, 1] - near, telling[0, 1] + near])
        for candidate in np.unique(owners[low:high])[:_LOOKED_AT]:
            whole = other.values[candidate]
            if whole.shape[0] > value.shape[0] and whole.size // whole.shape[0] == value.size // value.shape[0]:
                apart = np.abs(telling[:, None] - rows[int(candidate)][None]).max(-1)
                found = dict(zip(np.flatnonzero(own[:, 1] > near).tolist(), apart.argmin(1).tolist(), strict=True))
                if (apart.min(1) <= near).all() and _equal(number, tape, int(candidate), other, found, near):
                    small.add(number)
                    large.add(int(candidate))
    return small, large


def _equal(number: int, tape: Tape, candidate: int, other: Tape, found: Mapping[int, int], near: float) -> bool:
    """Whether rows have the same numbers, in the same order where a row has one axis; those not kept may."""
    if number not in tape.arrays or candidate not in other.arrays:
        return True
    ours, theirs = tape.arrays[number], other.arrays[candidate]
    ours, theirs = (
        array[list(rows)].reshape(len(found), -1) for array, rows in ((ours, found.keys()), (theirs, found.values()))
    )
    if tape.arrays[number].ndim > 2 or other.arrays[candidate].ndim > 2:  # whose axes may stand in another order
        ours, theirs = np.sort(ours), np.sort(theirs)
    return bool(np.abs(ours - theirs).max() <= near)


def _rows(value: Fingerprint) -> np.ndarray | None:
    """Returns the mean and the root mean square of each row."""
    if value.kind != "f" or not value.shape or value.size < _LEAST or value.constant or value.marginals[0] is None:
        return None
    mean, square = value.marginals[0]
    return np.stack([mean, np.sqrt(np.maximum(square * value.moments[2], 0.0))], 1)
