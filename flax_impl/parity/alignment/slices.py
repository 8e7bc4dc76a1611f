"""Finds values of one tape that are slices of values of the other, or stacks of them: time steps, gates, layers."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint, fingerprint
from torch_ref.common.tape.tape import Tape

from .blocks import is_block
from .likeness import OTHER, SINGLE, likeness, tolerance
from .repair import MOVES

_BLOCKS = (2, 3, 4)  # that an axis is cut into, beside single rows
_SUMS = {"add", "sub", "add_any", "aten.add", "aten.sub", "aten.add_"}
_TURNS = {"rev", "aten.flip"}
_JOINS = {"concatenate", "aten.cat"}
_PRODUCTS = {"dot_general", "mul", "aten.mm", "aten.bmm", "aten.mul"}
_LEAST = 3  # numbers of a slice: two moments say nothing of fewer
_LOOKED_AT = 20  # candidates that are compared in full
_LONGEST = 64  # of an axis whose rows are looked up one by one


# The reference is looked at again and again, and so is what stays the same in the port.
_KNOWN: "WeakKeyDictionary[Tape, tuple[Slices, Slices]]" = WeakKeyDictionary()
_CUT: "WeakKeyDictionary[Fingerprint, list[tuple[int, np.ndarray]]]" = WeakKeyDictionary()


class Slices:
    """The slices of a tape's values, or the values themselves, to be looked up by two moments.

    What is found is compared in full where the tape kept the value.

    Args:
        tape: one side.
        numbers: of its values.
        whole: whether the values themselves are meant.
    """

    def __init__(self, tape: Tape, numbers: Iterable[int], *, whole: bool = False) -> None:
        self._values, self._arrays = tape.values, tape.arrays  # not the tape, which must not be kept alive
        rows, self._places = [np.zeros((0, 4))], []
        for number in numbers:
            value = tape.values[number]
            if _is_usable(value):
                for axis, parts in [(0, _Part.of(value).row)] if whole else _cut(value):
                    rows.append(parts)
                    self._places += [(number, axis, len(parts), i) for i in range(len(parts))]
        table = np.concatenate(rows)
        order = np.argsort(table[:, 2], kind="stable")
        self._table, self._order = table[order], order

    def hold(self, part: "_Part", full: Callable[[], Fingerprint | None]) -> bool:
        """Returns whether one of them is a given one.

        Args:
            part: its moments.
            full: gives its fingerprint, where that is to be had.
        """
        near = float(tolerance(part.scale, 0.0))
        low, high = np.searchsorted(self._table[:, 2], [part.root - near, part.root + near])
        found = self._table[low : high + 1]
        apart = np.abs(found[:, 1:3] - (part.mean, part.root)).max(1, initial=0.0)
        close = (apart <= tolerance(np.maximum(found[:, 3], part.scale), 0)) & (found[:, 0] == part.size)
        return any(self._is(self._places[self._order[low + i]], full) for i in np.flatnonzero(close)[:_LOOKED_AT])

    def _is(self, place: tuple[int, int, int, int], full: Callable[[], Fingerprint | None]) -> bool:
        number, axis, count, i = place
        wanted = full()
        if wanted is None or number not in self._arrays:
            return True
        if count == 1:
            return likeness(self._values[number], wanted) > OTHER
        return likeness(fingerprint(np.split(self._arrays[number], count, axis)[i]), wanted) > OTHER


@dataclass(frozen=True)
class _Part:
    """What decides first whether two values are the same."""

    size: int
    mean: float
    root: float
    scale: float

    @classmethod
    def of(cls, value: Fingerprint) -> "_Part":
        return cls(value.size, float(value.moments[0]), float(value.moments[2]), value.scale)

    @property
    def row(self) -> np.ndarray:
        return np.array([[self.size, self.mean, self.root, self.scale]])


def is_slice(value: Fingerprint, slices: Slices) -> bool:
    """Returns whether a value is one of the slices.

    Args:
        value: any; a mask or a constant is none.
        slices: to look it up in.
    """
    return _is_usable(value) and slices.hold(_Part.of(value), lambda: value)


def sliced(tape: Tape, wanted: Iterable[int], other: Tape) -> set[int]:
    """Returns which of the wanted values are slices of values of the other side, or stacks of them.

    Args:
        tape: one side.
        wanted: numbers of some of its values.
        other: the other side.
    """
    if other not in _KNOWN:
        everything = range(len(other.values))
        _KNOWN[other] = Slices(other, everything, whole=True), Slices(other, everything)
    whole, parts = _KNOWN[other]
    return {n for n in wanted if is_slice(tape.values[n], parts) or _is_stack(tape, n, whole)}


def joined_apart(tapes: tuple[Tape, Tape], alone: Sequence[Iterable[int]]) -> set[int]:
    """Returns the sizes of what both sides concatenate, and not alike: such values are no stacks of slices.

    Args:
        tapes: of both sides.
        alone: numbers of the values of either that have no partner.
    """
    sizes = [
        {tape.values[value].size for value in numbers if is_joined(tape, value)}
        for tape, numbers in zip(tapes, alone, strict=True)
    ]
    return sizes[0] & sizes[1]


def is_joined(tape: Tape, value: int) -> bool:
    """Returns whether a value is a concatenation.

    Args:
        tape: that it is of.
        value: its number.
    """
    made_by = tape.producers.get(value)
    return made_by is not None and tape.operations[made_by].name in _JOINS


def _is_stack(tape: Tape, number: int, whole: Slices) -> bool:
    value = tape.values[number]
    return any(
        len(parts) <= _LONGEST
        and all(
            whole.hold(_Part(*row), partial(_block, tape, number, axis, len(parts), i))
            for i, row in enumerate(parts.tolist())
        )
        for axis, parts in (_cut(value) if _is_usable(value) else ())
    )


def _block(tape: Tape, number: int, axis: int, count: int, i: int) -> Fingerprint | None:
    """Returns the fingerprint of a block of a value, where the tape kept it."""
    return fingerprint(np.split(tape.arrays[number], count, axis)[i]) if number in tape.arrays else None


def _is_usable(value: Fingerprint) -> bool:
    return value.kind == "f" and value.size >= _LEAST and not value.constant and not value.masked


def _cut(value: Fingerprint) -> list[tuple[int, np.ndarray]]:
    """Returns, for each way to cut a value, the axis, and a row for each slice: size, mean, root, largest number."""
    if value not in _CUT:
        _CUT[value] = list(_ways_to_cut(value))
    return _CUT[value]


def _ways_to_cut(value: Fingerprint) -> Iterator[tuple[int, np.ndarray]]:
    for axis, (length, marginal) in enumerate(zip(value.shape, value.marginals, strict=True)):
        if marginal is None or length < 2:
            continue
        means, squares = marginal[0], marginal[1] * value.moments[2]
        for count in {length, *(count for count in _BLOCKS if length % count == 0)}:
            size = value.size // count
            if size >= _LEAST:
                mean, square = (part.reshape(count, -1).mean(1) for part in (means, squares))
                roots = np.sqrt(np.maximum(square, 0.0))
                yield axis, np.stack([np.full(count, size), mean, roots, np.full(count, value.scale)], 1)


def uncertain(tape: Tape, other: Tape, agreed: set[int], slices: set[int]) -> set[int]:
    """Returns the values that one cannot expect to find on the other side, with the slices themselves.

    That are slices of slices, a sum with a parameter that the other side does not have (merged biases), and a product
    of two slices (a time step with the kernel of one gate).

    Args:
        tape: one side.
        other: the other side.
        agreed: numbers of the values that have a partner.
        slices: numbers of those that are slices or stacks of values of the other side.
    """
    leaves = set(tape.leaves.values())
    sums = _sums(other)
    part, strange = set(slices), {number for number in leaves - agreed - slices if _is_sum(number, tape, sums)}
    bare = set(strange)  # sums of biases themselves, to which nothing is added yet
    for operation in tape.operations:
        given = [value for value in operation.inputs if tape.values[value].kind == "f"]
        made = [value for value in operation.outputs if value not in agreed and value not in part]
        if not given or not made:
            continue
        own, theirs = part.intersection(given), strange.intersection(given)
        known = agreed.union(part, strange).issuperset(given)
        if bare.issuperset(given) and operation.name in MOVES | _JOINS:
            kept = {value for value in made if _is_sum(value, tape, sums)}
            strange |= kept
            bare |= kept
        elif operation.name in MOVES and operation.name not in _TURNS and known:
            smaller = tape.values[made[0]].size < tape.values[given[0]].size
            if theirs:
                strange.update(made)
            elif own or smaller:
                part.update(made)
        elif theirs:
            if known and (operation.name in _SUMS or (operation.name in _PRODUCTS and len(given) == 1)):
                strange.update(made)  # of one, a product is with a number
        elif operation.name in _PRODUCTS and len(own) > 1 and own.issuperset(given):
            strange.update(value for value in made if is_block(value, tape, other))
    return part | strange - leaves


def _sums(tape: Tape) -> list[np.ndarray]:
    """Returns the sums of any two biases of a tape that are as long: an LSTM or GRU has two where others have one."""
    arrays = [tape.arrays.get(number) for name, number in tape.leaves.items() if name.startswith("param/")]
    biases = [array for array in arrays if array is not None and array.ndim == 1]
    return [a + b for a, b in itertools.combinations(biases, 2) if a.size == b.size]


def _is_sum(number: int, tape: Tape, sums: Sequence[np.ndarray]) -> bool:
    """Whether a value is one of the sums, a block of one, or made of such blocks."""
    wanted = tape.arrays.get(number)
    if wanted is None or not wanted.size:
        return False
    wanted = wanted.squeeze()
    if wanted.ndim != 1:
        return wanted.ndim > 1  # repeated over rows
    near = SINGLE * np.abs(wanted).max()
    for count in (1, *(count for count in _BLOCKS if wanted.size % count == 0)):
        own = wanted.reshape(count, 1, -1)
        for whole in sums:
            if whole.size % own.shape[-1] == 0:
                blocks = whole.reshape(1, -1, own.shape[-1])
                if (np.abs(own - blocks).max(-1) <= near).any(1).all():
                    return True
    return False
