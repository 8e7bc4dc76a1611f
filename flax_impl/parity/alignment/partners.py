"""Finds, for every value of one tape, the values of the other that it may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torch_ref.common.tape.tape import Tape

from .likeness import OTHER, likeness, tolerance
from .parts import explained_gradients, lone_gradients

_WINDOW = 1e-9  # first look, by the root mean square alone


@dataclass(frozen=True, eq=False)
class Partners:
    """Which values of two tapes are the same.

    Args:
        reference: a tape.
        port: another, of the same step.
        of_port: for each value of the port, the values of the reference that it may be, the most alike first.
        of_reference: the same the other way round.
    """

    reference: Tape
    port: Tape
    of_port: dict[int, list[int]]
    of_reference: dict[int, list[int]]

    @cached_property
    def share(self) -> float:
        """The share of the port's values that have a partner."""
        return len(self.of_port) / max(len(self.port.values), 1)

    def apart(self, ours: Sequence[int], theirs: Sequence[int]) -> tuple[list[int], list[int]]:
        """Returns which of some results of the reference, and of the port, have no partner among the other's.

        Args:
            ours: numbers of values of the reference.
            theirs: of the port.
        """
        return (
            [number for number in ours if not set(theirs).intersection(self.of_reference.get(number, ()))],
            [number for number in theirs if not set(ours).intersection(self.of_port.get(number, ()))],
        )

    @cached_property
    def with_gradients(self) -> "Partners":
        """The same, where a gradient goes with gradients only, or with all its parts: fused or stacked ones."""
        sides = (self.reference, self.of_reference), (self.port, self.of_port)
        alone = [lone_gradients(*side, sides[1 - i][0]) for i, side in enumerate(sides)]
        if not all(alone):
            return self
        found = [explained_gradients(sides[i][0], alone[i], sides[1 - i][0], alone[1 - i]) for i in range(2)]
        of_both = [
            {value: twins for value, twins in agreed.items() if value not in set(numbers).difference(explained)}
            for (_, agreed), numbers, explained in zip(sides, alone, found, strict=True)
        ]
        if all(found):  # no gradient is their partner, but all of their parts are there
            for i in range(2):
                of_both[i] |= {number: of_both[i].get(number, found[1 - i]) for number in found[i]}
        return Partners(self.reference, self.port, of_both[1], of_both[0])


def find_partners(reference: Tape, port: Tape) -> Partners:
    """Returns the partners of all values of two tapes.

    Args:
        reference: a tape, with the noise of its values where that was measured.
        port: another, of the same step.
    """
    roots = np.array([value.moments[2] for value in port.values])
    order = np.argsort(roots, kind="stable")
    sorted_roots = roots[order]
    moments = np.array([value.moments for value in port.values])[order]
    floats = np.array([value.kind == "f" for value in port.values])[order]
    scales = np.array([value.scale for value in port.values])[order]
    of_port: dict[int, list[tuple[int, int]]] = {}
    of_reference: dict[int, list[int]] = {}
    for number, value in enumerate(reference.values):
        noise = float(reference.noise[number])
        if not np.isfinite(noise):
            continue
        root = value.moments[2]
        reach = _WINDOW * max(root, value.scale) + 100 * noise
        low, high = np.searchsorted(sorted_roots, root - reach), np.searchsorted(sorted_roots, root + reach, "right")
        if low == high:
            continue
        near = tolerance(np.maximum(scales[low:high], value.scale), noise)
        fits = (np.abs(moments[low:high] - value.moments).max(1) <= near) & (floats[low:high] == (value.kind == "f"))
        found = []
        for other in order[low:high][fits]:
            level = likeness(value, port.values[other], noise)
            if level > OTHER:
                found.append((level, int(other)))
                of_port.setdefault(int(other), []).append((level, number))
        if found:
            of_reference[number] = [other for _, other in sorted(found, key=lambda pair: (-pair[0], pair[1]))]
    best = {
        other: [number for _, number in sorted(found, key=lambda pair: (-pair[0], pair[1]))]
        for other, found in of_port.items()
    }
    return Partners(reference, port, best, of_reference)
