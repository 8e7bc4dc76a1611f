"""Runs a step again with other values in it, as far as they reach; what they do not reach stays as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from torch_ref.common.tape.fingerprint import fingerprint
from torch_ref.common.tape.tape import Tape

from ...alignment.repair import Exchange
from .lifting import evaluated, narrowed, wide


@dataclass(frozen=True, eq=False)
class Walked:
    """A step that was run, with what it takes to run parts of it again.

    Args:
        tape: of the step.
        equations: of each operation, with the literals among its inputs by their place; see `Walk`.
        decisive: numbers of the values that chose a branch, or how often a loop runs.
    """

    tape: Tape
    equations: Sequence[tuple[JaxprEqn | int | None, dict[int, Any]]]
    decisive: frozenset[int]

    def evaluate(
        self,
        operation: int,
        arrays: Sequence[np.ndarray],
        literals: Mapping[int, float] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> list[np.ndarray]:
        """Returns what one operation gives for other inputs.

        Args:
            operation: its number.
            arrays: its inputs, literals left out.
            literals: other numbers for its literals, by their place among the inputs.
            params: other values for what else it was given, by name.
        """
        equation, written = self.equations[operation]
        numbers = {i: np.asarray((literals or {}).get(i, own), own.dtype) for i, own in written.items()}
        if equation is None:
            return [np.stack(arrays)]
        if isinstance(equation, int):
            return [arrays[0][equation]]
        with wide():
            rest = iter(arrays)  # a row order of integers stays in the dtype that it was written in
            given = [
                numbers[i] if i in numbers else narrowed(next(rest), atom) for i, atom in enumerate(equation.invars)
            ]
            equation = equation.replace(params={**equation.params, **params}) if params else equation
            return [np.asarray(output) for output in evaluated(equation, given)]

    def again(self, exchanges: Sequence[Exchange]) -> Tape | None:
        """Returns the tape of the step with other values in it; None where that takes a run from the start.

        Args:
            exchanges: values to go on with in place of the step's own.
        """
        tape = self.tape
        everywhere = {e.port: e.array for e in exchanges if e.takers is None}
        at = {(e.port, taker): e.array for e in exchanges for taker in e.takers or ()}
        if not tape.arrays.keys() >= everywhere.keys() | {number for number, _ in at}:
            return None
        changed = {number: np.asarray(array, tape.arrays[number].dtype) for number, array in everywhere.items()}
        touched = {taker for _, taker in at}
        for i, operation in enumerate(tape.operations):
            if i not in touched and changed.keys().isdisjoint(operation.inputs):
                continue
            held = [at.get((n, i), changed.get(n, tape.arrays.get(n))) for n in operation.inputs]
            arrays = [array for array in held if array is not None]
            before = [tape.arrays.get(n) for n in operation.outputs]
            if len(arrays) < len(held):
                return None
            for number, own, made in zip(operation.outputs, before, self.evaluate(i, arrays), strict=True):
                if own is None:
                    return None
                if number not in everywhere and not np.array_equal(own, made, equal_nan=own.dtype.kind == "f"):
                    changed[number] = made
        if self.decisive.intersection(changed):
            return None
        values = list(tape.values)
        for number, array in changed.items():
            values[number] = fingerprint(array)
        return replace(tape, values=values, arrays={**tape.arrays, **changed})
