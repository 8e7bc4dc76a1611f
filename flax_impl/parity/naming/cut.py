"""Holds both sides between the values that agree and the one that was exchanged, and runs the port's side again."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..alignment.divergence import Divergence
from ..alignment.partners import Partners
from ..alignment.repair import MOVES, Exchange, layouts

_MOST = 80  # operations of each side
_HUGE = 1e8  # what a mask holds: its size says nothing
_NEAR = 1e-9  # of the largest number
_SHARE = 1e-3  # of the difference that is to be explained
_ROUNDING = 1e-14


class Runnable(Protocol):
    """A port whose operations can be run again."""

    def evaluate(
        self,
        operation: int,
        arrays: Sequence[np.ndarray],
        literals: Mapping[int, float] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> list[np.ndarray]:
        """Returns what one operation gives for other inputs, other literals and other parameters."""
        ...


class Cut:
    """The operations of both sides that a divergence may be made of.

    Args:
        divergence: with an exchange and its partners.
        port: runs operations of the port again.
    """

    def __init__(self, exchange: Exchange, partners: Partners, port: Runnable) -> None:
        self.exchange, self.partners, self._port = exchange, partners, port
        self.reference, self.port = partners.reference, partners.port
        self.wanted = np.asarray(exchange.array, np.float64)
        self.own = np.asarray(self.port.arrays[exchange.port], np.float64)
        self.ours = _between(self.reference, exchange.reference, partners.of_reference)
        at_edge = exchange.takers is not None
        self.theirs = [] if at_edge else _between(self.port, exchange.port, partners.of_port)
        finite = self.wanted[np.abs(self.wanted) < _HUGE]
        self.scale = float(np.abs(finite).max(initial=0.0))
        noise = 50 * float(self.reference.noise[exchange.reference])
        near = _NEAR * self.scale + (noise if np.isfinite(noise) else 0.0)
        self._bound = max(_ROUNDING * self.scale, min(near, _SHARE * apart(self.own, self.wanted)))

    @classmethod
    def of(cls, divergence: Divergence, port: Runnable) -> "Cut | None":
        """Returns the cut of a divergence; None where no value could be exchanged, or it was not kept."""
        exchange, partners = divergence.exchange, divergence.partners
        if exchange is None or partners is None or exchange.port not in partners.port.arrays:
            return None
        cut = cls(exchange, partners, port)
        return None if cut.gives(cut.own) or cut.own.shape != cut.wanted.shape else cut

    def gives(self, array: np.ndarray | None) -> bool:
        """Returns whether an array is the reference's value, and nearer to it by far than the port's own."""
        if array is None:
            return False
        if array.shape != self.wanted.shape:
            if array.size != self.wanted.size:
                return False
            array = array.reshape(self.wanted.shape)
        return apart(np.asarray(array, np.float64), self.wanted) <= self._bound

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
            if any(array is None for array in given):
                return None
            try:
                made = self._port.evaluate(i, given, literals.get(i), params.get(i))  # pyright: ignore[reportArgumentType]
            except (TypeError, ValueError, IndexError, ZeroDivisionError):  # it does not take that
                return None
            for value, array in zip(operation.outputs, made, strict=True):
                held.setdefault(value, array)
        return held.get(self.exchange.port)

    def works(self, changed: Mapping[int, np.ndarray]) -> bool:
        """Returns whether the reference's value comes out with other values of the port."""
        return self.gives(self.replay(changed))

    @cached_property
    def ours_given(self) -> list[int]:
        """The agreed values that the reference's operations take."""
        return _given(self.reference, self.ours, self.partners.of_reference)

    @cached_property
    def theirs_given(self) -> list[int]:
        """The agreed values that the port's operations take."""
        return _given(self.port, self.theirs, self.partners.of_port)

    @cached_property
    def working(self) -> list[int]:
        """The port's operations that do more than move numbers."""
        return [i for i in self.theirs if self.port.operations[i].name not in MOVES]

    @cached_property
    def known_numbers(self) -> list[float]:
        """The numbers that the reference's operations were given, and those that are values of their own."""
        found: list[float] = []
        for i in self.ours:
            operation = self.reference.operations[i]
            for name, value in operation.constants.items():
                if name in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
                    found.append(float(value))
            for value in operation.inputs:
                array = self.reference.arrays.get(value)
                if array is not None and array.size == 1 and array.dtype.kind in "fi":
                    found.append(float(array.item()))
        return list(dict.fromkeys(found))

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
        own = self.reference.arrays.get(value)
        if own is not None and own.size == self.wanted.size:
            found += list(layouts(np.asarray(own, np.float64), self.wanted.shape))
        elif own is not None:
            found.append(np.asarray(own, np.float64))
        return found


# Names of aten's arguments that numbers of a formula are given by.
_NUMBERS = {"other", "self", "value", "alpha", "eps", "exponent", "min", "max", "negative_slope", "beta", "lambd"}


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest difference; infinite where masks or infinities do not stand in the same places."""
    huge = ~(np.abs(a) < _HUGE), ~(np.abs(b) < _HUGE)
    if (huge[0] != huge[1]).any():
        return np.inf
    return float(np.abs(np.where(huge[0], 0.0, a) - np.where(huge[1], 0.0, b)).max(initial=0.0))


def literals_of(tape: Tape, i: int) -> dict[int, float]:
    """Returns the literals of an operation of JAX, by their place among its inputs."""
    named = tape.operations[i].constants.items()
    return {int(name[7:]): value for name, value in named if name.startswith("literal") and name[7:].isdigit()}


def _between(tape: Tape, value: int, agreed: Mapping[int, Any]) -> list[int]:
    if value in agreed:
        return []
    return tape.upstream([value], lambda other: other not in agreed)[-_MOST:]


def _given(tape: Tape, operations: Sequence[int], agreed: Mapping[int, Any]) -> list[int]:
    made = {value for i in operations for value in tape.operations[i].outputs}
    taken = dict.fromkeys(value for i in operations for value in tape.operations[i].inputs)
    return [value for value in taken if value not in made and value in agreed and tape.values[value].kind == "f"]
