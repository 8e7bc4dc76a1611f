"""Finds values to look at where none could be exchanged: outputs, a loop's first iteration, the first operations."""

import itertools
from collections.abc import Iterator

import numpy as np

from ..alignment.divergence import Divergence
from ..alignment.partners import Partners
from ..alignment.proof.layouts import layouts
from ..alignment.repair import MOVES, Exchange

_FIRST = 6  # operations of each side whose values are tried


def targets(divergence: Divergence) -> Iterator[Exchange]:
    """Yields the reference's values and the port's in whose place they should come out.

    Args:
        divergence: the place, without an exchange.
    """
    if divergence.partners is not None and not divergence.backward:
        yield from _at_results(divergence.partners)
        yield from _at_places(divergence)


def _at_results(partners: Partners) -> Iterator[Exchange]:
    """Yields the reference's outputs in place of those of the port that have no partner."""
    results = [
        [number for name, number in tape.results.items() if name.startswith("output/")]
        for tape in (partners.reference, partners.port)
    ]
    for a, b in zip(*partners.apart(*results), strict=False):
        array = partners.reference.arrays.get(a)
        if array is None or array.size < 3:
            continue
        if array.shape == partners.port.values[b].shape:
            yield Exchange(a, b, None, array)
        yield from _at_iteration(a, b, partners)


def _at_places(divergence: Divergence) -> Iterator[Exchange]:
    """Yields what the reference's first operations that differ make in place of what the port's first ones do."""
    partners, places = divergence.partners, (divergence.reference, divergence.port)
    if partners is None or None in places or divergence.backward:
        return
    made = [
        [
            value
            for i in dict.fromkeys((place.first, *place.others, *place.cone[:_FIRST]))
            for value in tape.operations[i].outputs
            if value in tape.arrays and tape.values[value].kind == "f" and tape.values[value].size > 2
        ][:_FIRST]
        for place, tape in zip(places, (partners.reference, partners.port), strict=True)
        if place is not None
    ]
    for a, b in itertools.product(*made):
        if partners.reference.values[a].size == partners.port.values[b].size:
            for array in layouts(partners.reference.arrays[a], partners.port.values[b].shape):
                yield Exchange(a, b, None, array)


def _at_iteration(ours: int, theirs: int, partners: Partners) -> Iterator[Exchange]:
    """Yields what the first iteration that differs should have given, where the port stacks what a loop gives."""
    tape, array = partners.port, partners.reference.arrays[ours]
    while (made_by := tape.producers.get(theirs)) is not None:
        operation = tape.operations[made_by]
        if operation.name == "scan.stack":
            parts = [tape.arrays.get(part) for part in operation.inputs]
            for stacked in layouts(array, tape.values[theirs].shape):
                order = sorted(range(len(parts)), key=lambda k: tape.producers.get(operation.inputs[k], 0))
                for k in order:
                    own = parts[k]
                    if own is None or own.size < 3:
                        return
                    if np.abs(own - stacked[k]).max() > 1e-9 * np.abs(stacked[k]).max():
                        yield Exchange(ours, operation.inputs[k], None, stacked[k])
                        break
            return
        if operation.name not in MOVES or not operation.inputs:
            return
        theirs = operation.inputs[0]
