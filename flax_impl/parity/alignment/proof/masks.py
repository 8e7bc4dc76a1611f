"""Finds other masks to put in the place of one that the port picks rows or positions by."""

from collections.abc import Iterator

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..partners import Partners
from ..place import Place
from ..repair import MOVES, Exchange

_LOOKED_AT = 8  # operations that take a mask
_MOST = 4  # other masks for one


def other_masks(partners: Partners, place: Place) -> Iterator[Exchange]:
    """Yields other masks of the reference for those at a place: the inverted one first, and others in its shape.

    A mask is weak evidence of itself: that all agrees once it is another is what tells.

    Args:
        partners: the two tapes.
        place: the port's.
    """
    port, reference = partners.port, partners.reference
    taking = [i for i in dict.fromkeys((place.first, *place.others, *place.cone)) if _is_choice(port, i)]
    roots = dict.fromkeys(_root(port, port.operations[i].inputs[0]) for i in taking[:_LOOKED_AT])
    for root in roots:
        own = port.arrays.get(root)
        if own is None or own.dtype.kind != "b" or own.all() or not own.any():
            continue
        masks = ((value, array) for value, array in reference.arrays.items() if array.dtype.kind == "b")
        alike = {value: array for value, array in masks if array.shape == own.shape}
        others = [value for value, array in alike.items() if not np.array_equal(array, own)]
        inverse = [value for value in others if np.array_equal(alike[value], ~own)]
        for value in dict.fromkeys([*inverse[:1], *others][:_MOST]):
            yield Exchange(value, root, None, alike[value])


def _is_choice(tape: Tape, operation: int) -> bool:
    of = tape.operations[operation]
    return of.name == "select_n" and bool(of.inputs) and tape.values[of.inputs[0]].kind == "b"


def _root(tape: Tape, value: int) -> int:
    """Returns the mask that a value is, moved, repeated, inverted or joined with another."""
    while (made_by := tape.producers.get(value)) is not None:
        operation = tape.operations[made_by]
        given = [v for v in operation.inputs if tape.values[v].kind == "b" and not tape.values[v].constant]
        if operation.name not in MOVES | {"not", "and", "or"} or len(given) != 1:
            return value
        value = given[0]
    return value
