"""Finds the operations at which two tapes part: the first ones whose inputs agree and whose outputs do not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torch_ref.common.tape.tape import Operation, Tape

from .likeness import tolerance
from .partners import Partners

# Results that are compared together, the first ones first.
PHASES = (("loss", "output"), ("buffer",), ("grad",))


@dataclass(frozen=True)
class Place:
    """Where one side leaves the other.

    Args:
        first: number of the first operation whose inputs agree and whose output does not.
        after: number of the operation after which one is missing, which `first` should have had before it.
        others: numbers of further ones, in the order in which they run.
        cone: numbers of the operations between the agreed values and the results that differ.
    """

    first: int
    others: tuple[int, ...]
    cone: tuple[int, ...]
    after: int | None = None

    def led_by(self, first: int) -> "Place":
        """Returns the same place with another operation named first.

        Args:
            first: its number.
        """
        others = tuple(i for i in (self.first, *self.others) if i != first)
        return Place(first, others, self.cone if first in self.cone else tuple(sorted((first, *self.cone))))


class Side:
    """One tape, with what is known of its values.

    Args:
        tape: the tape.
        agreed: numbers of the values that have a partner on the other side.
    """

    def __init__(self, tape: Tape, agreed: Iterable[int]) -> None:
        self.tape = tape
        self.agreed = set(agreed)

    @cached_property
    def given(self) -> set[int]:
        """The parameters, buffers and inputs."""
        return set(self.tape.leaves.values())

    @cached_property
    def told(self) -> np.ndarray:
        """Whether each value comes from what was given; the others are constants and what is made of them."""
        return self._reached(self.given)

    @cached_property
    def learned(self) -> np.ndarray:
        """Whether each value comes from a parameter or an input; the others are constants, buffers and their like."""
        return self._reached(number for name, number in self.tape.leaves.items() if not name.startswith("buffer/"))

    @cached_property
    def of_inputs(self) -> np.ndarray:
        """Whether each value comes from the batch."""
        return self._reached(number for name, number in self.tape.leaves.items() if name.startswith("input/"))

    def _reached(self, leaves: Iterable[int]) -> np.ndarray:
        reached = np.zeros(len(self.tape.values), bool)
        reached[list(leaves)] = True
        for operation in self.tape.operations:
            if any(reached[value] for value in operation.inputs):
                reached[list(operation.outputs)] = True
        return reached

    @cached_property
    def forward(self) -> set[int]:
        """The operations that the losses and outputs come from."""
        return set(self.tape.forward)

    @cached_property
    def derivatives(self) -> set[int]:
        """The values that JAX computes on the way forward for the way back only."""
        if self.tape.framework != "jax":
            return set()
        gradients = [number for name, number in self.tape.results.items() if name.startswith("grad/")]
        operations = self.tape.operations
        back = [i for i in self.tape.upstream(gradients) if not operations[i].backward and i not in self.forward]
        return {value for i in back for value in operations[i].outputs}

    def open(self, value: int, constants: bool = False) -> bool:
        """Returns whether a value differs, and is one that counts.

        Masks and constants are weak evidence: two sides may write the same in another way. What was given differs from
        the start, and is told apart.
        """
        kept = self.tape.values[value]
        if value in self.agreed or value in self.given or kept.size == 0:
            return False
        return constants or (kept.kind == "f" and bool(self.told[value]))

    def place(self, starts: Iterable[int], backward: bool = False) -> Place | None:
        """Returns where the values begin to differ, or None where they do not.

        Args:
            starts: results that differ.
            backward: whether losses and outputs agree: then what they come from has no part in it.
        """

        def counts(value: int) -> bool:
            return self.open(value) and not (backward and self.tape.producers.get(value) in self.forward)

        cone = self.tape.upstream(starts, counts)
        first = [i for i in cone if not any(map(counts, self.tape.operations[i].inputs))]
        if not first:
            return None
        first.sort(key=lambda i: self._of_weights(self.tape.operations[i]))
        odd = self.odd_inputs(self.tape.operations[first[0]])
        if odd:  # a constant that came into it differs: it is made earlier
            of_constants = self.tape.upstream(odd, lambda value: self.open(value, True))
            made = [i for i in of_constants if not any(self.open(v, True) for v in self.tape.operations[i].inputs)]
            return Place((made or first)[0], tuple([*made, *first][1:]), tuple(sorted({*cone, *of_constants})))
        return Place(first[0], tuple(first[1:]), tuple(cone))

    def _of_weights(self, operation: Operation) -> bool:
        """Whether an operation is of parameters only: a merged bias may have no partner, and yet be right."""
        weights = {number for name, number in self.tape.leaves.items() if name.startswith("param/")}
        return bool(operation.inputs) and weights.issuperset(operation.inputs)

    def odd_inputs(self, operation: Operation) -> list[int]:
        """Returns the constants that went into an operation and have no partner, those of one number left out."""
        return [
            value
            for value in operation.inputs
            if self.open(value, True) and not self.told[value] and self.tape.values[value].size > 1
        ]


def differing(partners: Partners, phases: Sequence[str]) -> tuple[list[int], list[int]]:
    """Returns the results that differ, the reference's and the port's. A result is paired with any of its phase.

    Args:
        partners: which values agree.
        phases: one of `PHASES`.
    """
    backward = "grad" in phases
    ours, theirs = (
        [number for name, number in tape.results.items() if name.partition("/")[0] in phases]
        for tape in (partners.reference, partners.port)
    )
    pairs = {(own, twin) for own in ours for twin in partners.of_reference.get(own, ())}
    if not backward:  # a gradient may lie within another, or be one row of a stacked one
        pairs = {(a, b) for a, b in pairs if b in theirs and not _is_turned(partners, a, b)}
    matched = {a for a, _ in pairs}, {b for _, b in pairs}
    ours = [number for number in ours if number not in matched[0]]
    sizes = Counter(partners.reference.values[number].size for number in ours)
    agreed = partners.of_port if backward else matched[1]
    if backward:
        ours += _silent(partners, [n for n in theirs if n not in agreed])
    theirs = [number for number in theirs if number not in agreed or not _moves(partners.port, number)]
    if not backward:  # where the two call their models with other rows, the losses decide
        shared = sizes.keys() & {partners.port.values[n].size for n in theirs}
        ours = [n for n in ours if partners.reference.values[n].size in shared]
        theirs = [n for n in theirs if partners.port.values[n].size in shared]
        elsewhere = other_outputs(partners, ours, theirs)
        ours, theirs = ([n for n in side if n not in elsewhere[i]] for i, side in enumerate((ours, theirs)))
    theirs = [n for n in theirs if _moves(partners.port, n) or _is_of(partners.port.values[n].size, sizes)]
    return (ours, theirs) if ours and theirs else ([], [])


def other_outputs(partners: Partners, ours: Sequence[int], theirs: Sequence[int]) -> tuple[set[int], set[int]]:
    """Returns the outputs of both sides that differ because the port returns another value of the same computation.

    It may return logits where the reference returns probabilities, and its loss takes those. What the loss takes
    decides then.

    Args:
        partners: which values agree.
        ours: results of the reference that differ.
        theirs: those of the port.
    """
    reference, port = partners.reference, partners.port
    outputs = [{n for name, n in tape.results.items() if name.startswith("output/")} for tape in (reference, port)]
    losses = [number for name, number in reference.results.items() if name.startswith("loss/")]
    taken = reference.values_behind(losses) - set(losses)
    found: tuple[set[int], set[int]] = set(), set()
    for size in {reference.values[n].size for n in ours if n in outputs[0]}:
        own = [n for n in ours if n in outputs[0] and reference.values[n].size == size]
        other = [n for n in theirs if n in outputs[1] and port.values[n].size == size]
        if taken.issuperset(own) and other and all(_is_elsewhere(partners, n, own) for n in other):
            found[0].update(own)
            found[1].update(other)
    return found


def _is_elsewhere(partners: Partners, number: int, results: Sequence[int]) -> bool:
    """Whether a value of the port is one of the reference's that is none of some results."""
    twins = partners.of_port.get(number, [])
    return bool(twins) and not partners.port.values[number].constant and not set(results).intersection(twins)


def _is_turned(partners: Partners, own: int, twin: int) -> bool:
    """Whether two results of one shape hold the same numbers in another order; of two shapes that is a layout."""
    a, b = partners.reference.values[own], partners.port.values[twin]
    near = tolerance(max(a.scale, b.scale), float(partners.reference.noise[own]))
    return a.shape == b.shape and abs(a.order - b.order) > 100 * near  # false where an order is not known


def _silent(partners: Partners, theirs: Sequence[int]) -> list[int]:
    """Returns the reference's gradients of zeros that the port does not have, where it has others of their size.

    Zeros are the same everywhere, so that they are only counted.

    Args:
        partners: which values agree.
        theirs: the port's gradients that have no partner.
    """
    sizes = {partners.port.values[n].size for n in theirs if _moves(partners.port, n)}
    zeros = [
        [n for name, n in tape.results.items() if name.startswith("grad/") and not _moves(tape, n)]
        for tape in (partners.reference, partners.port)
    ]
    spare = Counter(partners.reference.values[n].size for n in zeros[0])
    spare.subtract(partners.port.values[n].size for n in zeros[1])
    return [n for n in zeros[0] if (size := partners.reference.values[n].size) in sizes and spare[size] > 0]


def _is_of(size: int, sizes: Mapping[int, int]) -> bool:
    """Whether a gradient of zeros may be of gradients of these sizes, one or several stacked.

    A parameter that only the port has, and does not use, has a gradient of zeros, too.
    """
    return any(size % own == 0 and size // own <= count for own, count in sizes.items() if own)


def _moves(tape: Tape, number: int) -> bool:
    return tape.values[number].scale > 0
