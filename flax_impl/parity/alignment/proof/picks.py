"""Puts values of some rows in their rows of a whole batch: torch picks rows where JAX computes all and masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from torch_ref.common.tape.tape import Operation, Tape

PICKS = {"aten.index", "aten.index_select", "aten.masked_select"}
_KNOWN: "WeakKeyDictionary[Tape, Picks]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a batch.

    Args:
        numbers: of the rows.
        length: of the batch.
    """

    numbers: np.ndarray
    length: int


class Picks:
    """Which rows each value of a tape holds, on its way forward.

    Args:
        tape: of torch, with its values kept.
    """

    def __init__(self, tape: Tape) -> None:
        self._operations, self._arrays, self._producers = tape.operations, tape.arrays, tape.producers
        losses = [number for name, number in tape.results.items() if name.startswith("loss/")]
        self._used = tape.upstream(losses)
        self._shapes = [value.shape for value in tape.values]
        self.rows: dict[int, Rows] = {}
        for i in self._used:
            operation = tape.operations[i]
            found = self._picked(operation) if operation.name in PICKS else self._passed_on(operation)
            if found is not None:
                of_rows = (v for v in operation.outputs if self._shapes[v][:1] == (len(found.numbers),))
                self.rows.update(dict.fromkeys(of_rows, found))

    @classmethod
    def of(cls, tape: Tape) -> "Picks":
        """Returns those of a tape, which are found once."""
        if tape not in _KNOWN:
            _KNOWN[tape] = cls(tape)
        return _KNOWN[tape]

    def _picked(self, operation: Operation) -> Rows | None:
        if len(operation.inputs) != 2 or not self._shapes[operation.inputs[0]]:
            return None
        whole, index = operation.inputs
        numbers, length = self._arrays.get(index), self._shapes[whole][0]
        if numbers is None or numbers.ndim != 1 or numbers.dtype.kind not in "bi":
            return None
        numbers = np.flatnonzero(numbers) if numbers.dtype.kind == "b" else numbers
        if whole in self.rows:
            return Rows(self.rows[whole].numbers[numbers], self.rows[whole].length)
        return Rows(numbers, length) if len(np.unique(numbers)) < length else None

    def _passed_on(self, operation: Operation) -> Rows | None:
        return next((self.rows[value] for value in operation.inputs if value in self.rows), None)

    def joined(self, value: int, own: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Rows, ...]]]:
        """Yields a port's value with the reference's in its rows, and which these are; nothing where it does not fit.

        Where the same lines run for other rows, too, these are put in at once, and then left out: a port may make one
        value of the two, or two.

        Args:
            value: of the reference.
            own: the port's, of the whole batch.
        """
        if value in self.rows and own.ndim and len(own) == self.rows[value].length:
            twins = self.twins(value)
            for together in (twins, twins[:1])[: len(twins)]:
                made = self._in_rows(together, own)
                if made is not None:
                    yield made

    def _in_rows(self, values: Sequence[int], own: np.ndarray) -> tuple[np.ndarray, tuple[Rows, ...]] | None:
        made, found = own.copy(), []
        for twin in values:
            rows, array = self.rows[twin], self._arrays.get(twin)
            if array is None or array.size != own[rows.numbers].size or array.dtype.kind != own.dtype.kind:
                return None
            made[rows.numbers] = array.reshape(own[rows.numbers].shape)
            found.append(rows)
        return made, tuple(found)

    def twins(self, value: int) -> list[int]:
        """Returns a value and what it is where the same lines run for other rows.

        Args:
            value: of the reference.
        """
        if value not in self.rows:
            return [value]
        by_rows: dict[int, list[int]] = {}
        for other in self._alike[self._kind(value)]:
            by_rows.setdefault(id(self.rows[other]), []).append(other)
        own = by_rows[id(self.rows[value])]
        taken, found = set(self.rows[value].numbers), [value]
        for others in by_rows.values():
            numbers = self.rows[others[0]].numbers
            if len(others) == len(own) and taken.isdisjoint(numbers):
                taken.update(numbers)
                found.append(others[own.index(value)])
        return found

    @cached_property
    def _alike(self) -> dict[object, list[int]]:
        found: dict[object, list[int]] = {}
        for value in self.rows:
            found.setdefault(self._kind(value), []).append(value)
        return found

    def _kind(self, value: int) -> object:
        operation = self._operations[self._producers[value]]
        place = operation.outputs.index(value)
        return operation.name, operation.module, operation.lines[:1], place, self._shapes[value][1:]


def are_alike(rows: np.ndarray | None) -> bool:
    """Returns whether there are several rows, and all are the same.

    Args:
        rows: some of a value; None says nothing.
    """
    return rows is not None and len(rows) > 1 and bool((rows == rows[:1]).all())
