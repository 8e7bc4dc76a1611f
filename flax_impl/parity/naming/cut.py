"""Holds both sides between the values that agree and the one that was exchanged, and runs the port's side again."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..alignment.divergence import Divergence
from ..alignment.partners import Partners
from ..alignment.proof.layouts import layouts
from ..alignment.proof.picks import Picks
from ..alignment.repair import MOVES, Exchange, Runnable
from .targets import targets

_MOST = 80  # operations of each side
HUGE = 1e8  # what a mask holds: its size says nothing
_NEAR = 1e-7  # of the largest number
_SHARE = 1e-4  # of the difference that is to be explained
_ROUNDING = 1e-14
_BUDGET = 6_000  # operations that are run again
_LATER = 3  # operations after the exchanged value
# A place has many cuts.
_LIKE_WEIGHTS: "WeakKeyDictionary[Partners, set[int]]" = WeakKeyDictionary()


class Cut:
    """The operations of both sides that a divergence may be made of.

    Args:
        exchange: the reference's value that should come out in the port's place.
        divergence: the place.
        partners: which values of the two tapes are the same.
        port: runs operations of the port again.
    """

    def __init__(self, exchange: Exchange, divergence: Divergence, partners: Partners, port: Runnable) -> None:
        self.exchange, self.partners, self._port = exchange, partners, port
        self._divergence = divergence
        agreed: list[Set[int]] = [partners.of_reference.keys(), partners.of_port.keys() - _like_weights(partners)]
        if exchange.rows:  # rows of a value are no partners of it
            agreed = [of | more for of, more in zip(agreed, divergence.agreed, strict=True)]
        self._agreed = agreed
        self._left = _BUDGET
        self.further = False  # whether it is not at the exchanged value itself
        self.reference, self.port = partners.reference, partners.port
        self.wanted = np.asarray(exchange.array, np.float64)
        self.own = np.asarray(self.port.arrays[exchange.port], np.float64)
        self.ours = _between(self.reference, exchange.reference, agreed[0])
        made_by = self.port.producers.get(exchange.port)
        joined = made_by is not None and self.port.operations[made_by].name == "concatenate"
        at_edge = exchange.takers is not None and not self.port.values[exchange.port].constant and not joined
        agreed[1] = agreed[1] - {exchange.port} if joined else agreed[1]  # twice the same looks like that, repeated
        self.theirs = [] if at_edge else _between(self.port, exchange.port, agreed[1])
        finite = self.wanted[np.abs(self.wanted) < HUGE]
        self.scale = float(np.abs(finite).max(initial=0.0))
        noise = 50 * float(self.reference.noise[exchange.reference])
        near = _NEAR * self.scale + (noise if np.isfinite(noise) else 0.0)
        self._bound = max(_ROUNDING * self.scale, min(near, _SHARE * apart(self.own, self.wanted)))

    @classmethod
    def of(cls, divergence: Divergence, port: Runnable) -> Iterator["Cut"]:
        """Yields the cut at the value that was exchanged, then those at what the port makes of it.

        Where nothing could be exchanged, the outputs are looked at.
        """
        exchange, partners = divergence.exchange, divergence.partners
        if partners is None:
            return
        tried = targets(divergence) if exchange is None else [exchange]
        for of in tried:
            if of.port not in partners.port.arrays or of.array.shape != partners.port.arrays[of.port].shape:
                continue
            cut = cls(of, divergence, partners, port)
            if cut._bound > 0 and not cut.gives(cut.own) and len(cut.theirs) < _MOST:
                yield cut
                if exchange is not None:
                    yield from cut.later()

    def later(self) -> Iterator["Cut"]:
        """Yields the cuts at the values that the port makes of the exchanged one, one after the other."""
        tape, value, array = self.port, self.exchange.port, self.exchange.array
        takers, forward = self.exchange.takers, set(tape.forward)
        for _ in range(_LATER):
            after = sorted(takers or tape.consumers.get(value, ()))
            after = [i for i in after if i in forward] or after  # JAX differentiates on the way
            i = next((i for i in after if len(tape.operations[i].outputs) == 1), None)
            if i is None or tape.operations[i].backward:
                return
            operation = tape.operations[i]
            given = [array if other == value else tape.arrays.get(other) for other in operation.inputs]
            if any(other is None for other in given):
                return
            try:
                array = self._port.evaluate(i, given)[0]  # pyright: ignore[reportArgumentType]
            except (TypeError, ValueError):
                return
            value, takers = operation.outputs[0], None
            if value not in tape.arrays or tape.values[value].kind != "f":
                return
            exchange = replace(self.exchange, port=value, takers=None, array=array)
            cut = Cut(exchange, self._divergence, self.partners, self._port)
            cut.further = True
            if len(cut.theirs) < _MOST and not cut.gives(cut.own):
                yield cut

    def gives(self, array: np.ndarray | None) -> bool:
        """Returns whether an array is the reference's value, and nearer to it by far than the port's own."""
        if array is None:
            return False
        if array.shape != self.wanted.shape:
            if array.size != self.wanted.size:
                return False
            array = array.reshape(self.wanted.shape)
        return apart(self.counted(np.asarray(array, np.float64)), self.counted(self.wanted)) <= self._bound

    def counted(self, array: np.ndarray) -> np.ndarray:
        """Returns the rows of a value that the reference has, too."""
        parts = self.exchange.parts(array)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def replay(
        self,
        changed: Mapping[int, np.ndarray],
        literals: Mapping[int, Mapping[int, float]] | None = None,
        params: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> np.ndarray | None:
        """Returns what the port would have had in the exchanged value's place; None where that cannot be run.

        Args:
            changed: other values, by their numbers.
            literals: other literals, by the operation and their place among its inputs.
            params: other parameters, by the operation and their names.
        """
        held = dict(changed)
        literals, params = literals or {}, params or {}
        for i in self.theirs:
            operation = self.port.operations[i]
            touched = i in literals or i in params or any(value in held for value in operation.inputs)
            if not touched or all(value in changed for value in operation.outputs):
                continue
            given = [held.get(value, self.port.arrays.get(value)) for value in operation.inputs]
            self._left -= 1
            if self._left < 0 or any(array is None for array in given):
                return None
            try:
                made = self._port.evaluate(i, given, literals.get(i), params.get(i))  # pyright: ignore[reportArgumentType]
            except (TypeError, ValueError, IndexError, ZeroDivisionError):  # it does not take that
                return None
            for value, array in zip(operation.outputs, made, strict=True):
                held.setdefault(value, array)
        return held.get(self.exchange.port)

    def run(self, operation: int, array: np.ndarray) -> np.ndarray | None:
        """Returns what an operation of one input gives for another; None where it cannot be run."""
        try:
            return self._port.evaluate(operation, [array])[0]
        except (TypeError, ValueError, IndexError):
            return None

    def works(self, changed: Mapping[int, np.ndarray]) -> bool:
        """Returns whether the reference's value comes out with other values of the port."""
        return self.gives(self.replay(changed))

    @cached_property
    def ours_given(self) -> list[int]:
        """The agreed values that the reference's operations take."""
        return _given(self.reference, self.ours, self._agreed[0])

    @cached_property
    def theirs_given(self) -> list[int]:
        """The agreed values that the port's operations take."""
        return _given(self.port, self.theirs, self._agreed[1])

    @cached_property
    def working(self) -> list[int]:
        """The port's operations that do more than move numbers."""
        return [i for i in self.theirs if self.port.operations[i].name not in MOVES]

    @property
    def last(self) -> int | None:
        """The port's operation that makes the exchanged value, before it is moved."""
        return self.working[-1] if self.working else None

    @cached_property
    def known_numbers(self) -> list[float]:
        """The numbers that the reference's operations were given, and those that are values of their own."""
        found: list[float] = []
        for i in (*self.ours, *self.after()):
            operation = self.reference.operations[i]
            for name, value in operation.constants.items():
                if name in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
                    found.append(float(value))
            for value in operation.inputs:
                array = self.reference.arrays.get(value)
                if array is not None and array.dtype.kind in "fi" and is_constant(self.reference, value):
                    found.append(float(array.item()))
        return list(dict.fromkeys(found))

    def after(self) -> list[int]:
        """Returns what the reference does with its value, where it agrees: a tiny epsilon leaves it as it is."""
        if self.ours:
            return []
        twins = self.partners.of_reference.get(self.exchange.reference, ())
        queue = {self.exchange.reference, *(own for twin in twins for own in self.partners.of_port.get(twin, ()))}
        return sorted(i for value in queue for i in self.reference.consumers.get(value, ()))

    def operands(self, i: int) -> list[np.ndarray] | None:
        """Returns what goes into an operation of the port, literals in their places; None where it was not kept."""
        operation = self.port.operations[i]
        rest = [self.port.arrays.get(value) for value in operation.inputs]
        literals = literals_of(self.port, i)
        found: list[np.ndarray] = []
        for place in range(len(rest) + len(literals)):
            array = np.asarray(literals[place]) if place in literals else rest.pop(0) if rest else None
            if array is None:
                return None
            found.append(array)
        return found

    def arrays_like(self, value: int) -> list[np.ndarray]:
        """Returns an agreed value of the reference as the port holds it, in shapes that go with the exchanged one."""
        twins = [self.port.arrays.get(twin) for twin in self.partners.of_reference.get(value, ())[:3]]
        found = [np.asarray(array, np.float64) for array in twins if array is not None and array.dtype.kind == "f"]
        own, rows = self.reference.arrays.get(value), Picks.of(self.reference).rows.get(value)
        if own is not None and rows is not None and self.exchange.rows:
            whole = np.zeros((rows.length, *own.shape[1:]), own.dtype)
            joined = Picks.of(self.reference).joined(value, whole)
            found += [np.asarray(array, np.float64) for array, _ in joined]
        elif own is not None and own.size == self.wanted.size:
            found += list(layouts(np.asarray(own, np.float64), self.wanted.shape))
        elif own is not None:
            found.append(np.asarray(own, np.float64))
        return found


# Names of aten's arguments that numbers of a formula are given by.
_NUMBERS = {"other", "self", "value", "alpha", "eps", "exponent", "min", "max", "negative_slope", "beta", "lambd"}


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest difference; infinite where masks or infinities do not stand in the same places."""
    huge = ~(np.abs(a) < HUGE), ~(np.abs(b) < HUGE)
    if (huge[0] != huge[1]).any():
        return np.inf
    return float(np.abs(np.where(huge[0], 0.0, a) - np.where(huge[1], 0.0, b)).max(initial=0.0))


def is_constant(tape: Tape, value: int) -> bool:
    """Returns whether a value is a single number of the program's, or counts something: one of the batch's is neither.

    Args:
        tape: of one side, which has kept the value.
        value: its number.
    """
    array = tape.arrays[value]
    return array.size == 1 and (
        value in tape.fixed or bool(np.isfinite(array).all() and (array == np.round(array)).all())
    )


def literals_of(tape: Tape, i: int) -> dict[int, float]:
    """Returns the literals of an operation of JAX, by their place among its inputs."""
    named = tape.operations[i].constants.items()
    return {int(name[7:]): value for name, value in named if name.startswith("literal") and name[7:].isdigit()}


def _like_weights(partners: Partners) -> set[int]:
    """Returns the port's values that are computed and equal a weight: a factor may have been lost."""
    if partners not in _LIKE_WEIGHTS:
        leaves, port = set(partners.reference.leaves.values()), partners.port
        _LIKE_WEIGHTS[partners] = {
            value
            for value, twins in partners.of_port.items()
            if (made_by := port.producers.get(value)) is not None and leaves.issuperset(twins)
            if port.operations[made_by].name not in MOVES
        }
    return _LIKE_WEIGHTS[partners]


def _between(tape: Tape, value: int, agreed: Set[int]) -> list[int]:
    def is_open(other: int) -> bool:  # numbers that are all the same may be anything's
        return other not in agreed or (tape.values[other].constant and tape.values[other].size > 1)

    return tape.upstream([value], is_open)[-_MOST:] if is_open(value) else []


def _given(tape: Tape, operations: Sequence[int], agreed: Set[int]) -> list[int]:
    made = {value for i in operations for value in tape.operations[i].outputs}
    taken = dict.fromkeys(value for i in operations for value in tape.operations[i].inputs)
    return [value for value in taken if value not in made and value in agreed and tape.values[value].kind == "f"]
