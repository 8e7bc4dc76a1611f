"""Takes the reference's tables where the port's are the same to the last digit of float32: rotary angles, sinusoids."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..likeness import SINGLE
from ..partners import Partners
from ..place import Side
from ..repair import OPAQUE, Exchange
from .layouts import layouts
from .located import nearest

if TYPE_CHECKING:
    from ..divergence import Divergence


_LAST = 2.0**-22  # what a few roundings to float32 move a number by


def rounded_tables(partners: Partners) -> list[Exchange]:
    """Returns exchanges for the port's tables that differ from the reference's by the rounding of float32 only.

    A table that is made once, in float32, has no more digits than that; whoever lifts a model to float64 sees where
    they end. That is no difference between the models.

    Args:
        partners: the two tapes, with their values kept.
    """
    ported = partners.port
    port, reference = Side(ported, partners.of_port), Side(partners.reference, partners.of_reference)
    known = [number for number in partners.reference.arrays if _is_table(reference, number)]
    found: list[Exchange] = []
    changed: set[int] = set()
    for number in range(len(ported.values)):
        made_by = ported.producers.get(number)
        given = ported.operations[made_by].inputs if made_by is not None else ()
        if changed.intersection(given):
            changed.add(number)
        elif number in ported.arrays and _is_table(port, number) and not partners.of_port.get(number):
            exchange = next(_nearly_equal(number, ported, known, partners.reference), None)
            if exchange is not None:
                found.append(exchange)
                changed.add(number)
    return found


def is_rounded_literal(place: "Divergence") -> bool:
    """Returns whether a place is a number of the port that has no more digits than float32, or comes of one.

    JAX holds `jnp.log(2 * jnp.pi)` in float32 even where all else is lifted. A number as people write it is none. What
    a kernel of its own gives has no more digits, either.

    Args:
        place: with the value that was put in; gradients that are off by so little come of such a number.
    """
    partners, exchange = place.partners, place.exchange
    if partners is None or exchange is None:
        return False
    own = partners.port.arrays[exchange.port]
    if own.dtype.kind != "f" or np.abs(exchange.array - own).max(initial=0.0) > SINGLE * np.abs(own).max(initial=0.0):
        return False
    if place.backward:
        return True
    if any(partners.port.operations[i].name in OPAQUE for i in nearest(partners.port, exchange.port)):
        return True
    numbers = (number for i in nearest(partners.port, exchange.port) for number in _numbers(partners.port, i))
    return any(number and abs(float(f"{number:.6g}") - number) > _LAST / 4 * abs(number) for number in numbers)


def _numbers(tape: Tape, operation: int) -> list[float]:
    """Returns the single numbers that an operation is given."""
    of = tape.operations[operation]
    arrays = [tape.arrays[value] for value in of.inputs if value in tape.fixed and value in tape.arrays]
    held = [array.item() for array in arrays if array.size == 1]
    return [value for value in (*of.constants.values(), *held) if isinstance(value, float)]


def _is_table(side: Side, number: int) -> bool:
    value = side.tape.values[number]
    return value.kind == "f" and not value.constant and not side.learned[number]


def _nearly_equal(number: int, port: Tape, known: list[int], reference: Tape) -> Iterator[Exchange]:
    value = port.values[number]
    for other in known:
        twin = reference.values[other]
        near = SINGLE * max(value.scale, twin.scale)
        if twin.size and value.size % twin.size == 0 and np.abs(value.moments - twin.moments).max() <= near:
            for array in _spread(reference.arrays[other], value.shape):
                if np.abs(array - port.arrays[number]).max() <= near:
                    yield Exchange(other, number, None, array)


def _spread(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields an array in a shape that may repeat it."""
    if array.size == math.prod(shape):
        yield from layouts(array, shape)
        return
    lengths = [length for length in array.shape if length > 1]
    spread = []
    for length in reversed(shape):
        spread.append(lengths.pop() if lengths and lengths[-1] == length else 1)
    if not lengths:
        yield np.broadcast_to(array.reshape(spread[::-1]), shape)
