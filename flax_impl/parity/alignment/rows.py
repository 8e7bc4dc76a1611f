"""Finds values that hold some rows of a value of the other side: torch picks rows where JAX computes all and masks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint
from torch_ref.common.tape.tape import Tape

from .likeness import tolerance
from .proof.picks import PICKS

_LEAST = 2  # rows that a selection has
_LOOKED_AT = 50  # values that may hold a row
_LARGEST = 1 << 20  # numbers of a value whose rows stand along several axes


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a value along one axis, or along all but one.

    Args:
        number: of the value.
        length: how many numbers a row has.
        table: mean and root mean square of each row.
        array: the rows themselves, where they were kept.
        in_order: whether the numbers of a row can stand in one order only.
    """

    number: int
    length: int
    table: np.ndarray
    array: np.ndarray | None
    in_order: bool


def selected(tape: Tape, wanted: Iterable[int], other: Tape) -> tuple[set[int], set[int]]:
    """Returns which of the wanted values are rows of larger values of the other side, and those values.

    The mean and the root mean square of every row decide, to the last digits, and then the rows themselves. Rows of
    zeros say nothing.

    Args:
        tape: one side.
        wanted: numbers of some of its values.
        other: the other side.
    """
    ours = [own for number in wanted if (own := _rows(number, tape)) is not None and len(own.table) >= _LEAST]
    lengths = {own.length for own in ours}
    deep = any(operation.name in PICKS for operation in tape.operations)
    held = [rows for number in range(len(other.values)) for rows in _all_rows(number, other, lengths, deep)]
    if not held or not ours:
        return set(), set()
    owners = np.concatenate([np.full(len(rows.table), i) for i, rows in enumerate(held)])
    roots = np.concatenate([rows.table[:, 1] for rows in held])
    order = np.argsort(roots, kind="stable")
    owners, roots = owners[order], roots[order]
    small, large = set(), set()
    for own in ours:
        near = float(tolerance(tape.values[own.number].scale, 0.0)) * 10
        telling = np.flatnonzero(own.table[:, 1] > near)
        if len(telling) < _LEAST or np.ptp(own.table[telling, 1]) <= near:
            continue
        first = own.table[telling[0], 1]
        low, high = np.searchsorted(roots, [first - near, first + near])
        for i in np.unique(owners[low:high])[:_LOOKED_AT]:
            if _holds(held[i], own, telling, near):
                small.add(own.number)
                large.add(held[i].number)
    return small, large


def _holds(whole: _Rows, own: _Rows, telling: np.ndarray, near: float) -> bool:
    """Whether a value has all telling rows of a smaller one."""
    if whole.length != own.length or len(whole.table) <= len(own.table):
        return False
    apart = np.abs(own.table[telling, None] - whole.table[None]).max(-1)
    if (apart.min(1) > near).any():
        return False
    if own.array is None or whole.array is None:
        return True
    ours, theirs = own.array[telling], whole.array[apart.argmin(1)]
    if not (own.in_order and whole.in_order):
        ours, theirs = np.sort(ours), np.sort(theirs)
    return bool(np.abs(ours - theirs).max() <= near)


def _rows(number: int, tape: Tape) -> _Rows | None:
    """Returns the rows of a value along its first axis."""
    value = tape.values[number]
    if not _is_usable(value) or value.marginals[0] is None:
        return None
    mean, square = value.marginals[0]
    table = np.stack([mean, np.sqrt(np.maximum(square * value.moments[2], 0.0))], 1)
    array = tape.arrays.get(number)
    rows = None if array is None else array.reshape(len(table), -1)
    return _Rows(number, value.size // len(table), table, rows, len(value.shape) < 3)


def _all_rows(number: int, tape: Tape, lengths: set[int], deep: bool) -> Iterator[_Rows]:
    """Yields the rows of a value of some lengths; where it is asked for, those that stand along several axes, too."""
    rows = _rows(number, tape)
    if rows is not None and rows.length in lengths:
        yield rows
    value, array = tape.values[number], tape.arrays.get(number)
    if deep and array is not None and len(value.shape) > 2 and _is_usable(value) and value.size <= _LARGEST:
        for axis in {value.shape.index(length) for length in lengths.intersection(value.shape)}:
            whole = np.moveaxis(array, axis, -1).reshape(-1, value.shape[axis])
            table = np.stack([whole.mean(1), np.sqrt((whole**2).mean(1))], 1)
            yield _Rows(number, value.shape[axis], table, whole, True)


def _is_usable(value: Fingerprint) -> bool:
    return value.kind == "f" and bool(value.shape) and value.size >= _LEAST and not value.constant
