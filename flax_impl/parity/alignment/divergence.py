"""Finds every place at which a port leaves its reference, on both sides, and proves it by repair where it can."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from torch_ref.common.tape.tape import Tape

from .likeness import likeness
from .partners import Partners, find_partners
from .place import Place, Side, differing
from .repair import Exchange, exchanges
from .tables import rounded_tables

_TRIED = 6  # exchanges that the whole step is run with


class Port(Protocol):
    """A port that can be run again with other values in it."""

    def tape(self, *, exchanges: Sequence[Exchange] = ()) -> Tape:
        """Runs the step and returns its tape."""
        ...

    def evaluate(self, operation: int, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns what one operation of the first tape gives for other inputs."""
        ...


@dataclass(frozen=True, eq=False)
class Divergence:
    """A place at which the two sides part.

    Args:
        reference: where the reference does what the port does not; None where that could not be told.
        port: where the port does what the reference does not; None where that could not be told.
        backward: whether losses and outputs agree, so that only gradients differ.
        exchange: the reference's value that was put in, to go on; None where none was found.
        proved: whether all losses and outputs, or all gradients, agree after this exchange and those before it.
        partners: which values agreed when the place was found, with the exchanges before it.
    """

    reference: Place | None
    port: Place | None
    backward: bool
    exchange: Exchange | None = None
    proved: bool = False
    partners: Partners | None = None


def first_divergence(partners: Partners) -> Divergence | None:
    """Returns where two tapes part first, or None where losses, outputs and gradients agree."""
    ours, theirs, backward = differing(partners)
    if not ours:
        return None
    sides = _sides(partners, backward)
    reference, port = sides[0].place(ours, backward), sides[1].place(theirs, backward)
    if reference is not None and port is not None:
        port = _beside(reference, port, partners)
    return Divergence(reference, port, backward)


def _sides(partners: Partners, backward: bool) -> tuple[Side, Side]:
    """Returns both sides with what agrees on them.

    JAX computes derivatives on the way forward. A value that is nothing but one, such as the cosine beside a sine, is
    no partner for a value that an output comes from.
    """
    pairs = (partners.reference, partners.of_reference), (partners.port, partners.of_port)
    if backward:
        return Side(*pairs[0]), Side(*pairs[1])
    derivatives = [Side(tape, agreed).derivatives for tape, agreed in pairs]
    return (
        Side(pairs[0][0], [v for v, twins in pairs[0][1].items() if not derivatives[1].issuperset(twins)]),
        Side(pairs[1][0], [v for v, twins in pairs[1][1].items() if not derivatives[0].issuperset(twins)]),
    )


def find_divergences(reference: Tape, tape: Tape, port: Port, at_most: int = 8) -> list[Divergence]:
    """Returns every place at which two tapes part: finds one, puts the reference's value in, and goes on.

    Args:
        reference: the reference's tape, with its values kept.
        tape: the port's, with its values kept.
        port: runs the port again.
        at_most: how many places are looked for.
    """
    found: list[Divergence] = []
    partners = find_partners(reference, tape)
    current = first_divergence(partners)
    put_in = rounded_tables(partners) if current is not None else []
    if put_in:
        partners = find_partners(reference, port.tape(exchanges=put_in))
        current = first_divergence(partners)
    while current is not None and len(found) < at_most:
        try:
            exchange, following, after = _best_exchange(current, partners, port, put_in)
        except Exception:  # a repair that fails costs the proof, never the report
            exchange, following, after = None, None, None
        same = current.backward and any(not other.backward for other in found) and _belongs(current, found, partners)
        if not same:
            located = current if exchange is None else _located(current, exchange, partners)
            done = exchange is not None and (after is None or (after.backward and not current.backward))
            found.append(Divergence(located.reference, located.port, current.backward, exchange, done, partners))
        if exchange is None or following is None:
            break
        put_in += _everywhere(exchange, partners.port)
        partners, current = following, after
    return found


def _best_exchange(
    current: Divergence, partners: Partners, port: Port, put_in: Sequence[Exchange]
) -> tuple[Exchange | None, Partners | None, Divergence | None]:
    """Returns the exchange that gets furthest, the partners after it, and where the tapes part then."""
    if current.reference is None or current.port is None:
        return None, None, None
    cones = current.reference.cone, current.port.cone
    best: tuple[Exchange | None, Partners | None, Divergence | None] = (None, None, None)
    furthest = current.reference.first
    for exchange in itertools.islice(exchanges(partners, port, cones), _TRIED):
        tape = port.tape(exchanges=[*put_in, *_everywhere(exchange, partners.port)])
        following = find_partners(partners.reference, tape)
        after = first_divergence(following)
        if after is None or (after.backward and not current.backward):
            return exchange, following, after
        if after.reference is not None and after.reference.first > furthest:
            furthest = after.reference.first
            best = exchange, following, after
    return best


def _everywhere(exchange: Exchange, tape: Tape) -> list[Exchange]:
    """Returns an exchange for each time that a port computes a value, which may be again on the way back."""
    made_by = tape.producers.get(exchange.port)
    if made_by is None or exchange.takers is not None:
        return [exchange]
    own, lines = tape.values[exchange.port], tape.operations[made_by].lines
    again = [
        operation.outputs[0]
        for operation in tape.operations
        if operation.name == tape.operations[made_by].name and operation.lines == lines
        if (other := tape.values[operation.outputs[0]]).shape == own.shape and other.order == own.order
    ]
    return [Exchange(exchange.reference, number, None, exchange.array) for number in {exchange.port, *again}]


def _belongs(current: Divergence, found: Sequence[Divergence], partners: Partners) -> bool:
    """Whether a gradient differs because of a place that is known: a value was put in there, but no derivative."""
    if current.reference is None or current.port is None:
        return True
    operations = partners.reference.operations
    operation = operations[current.reference.first]
    if _without_gradient(current.reference.first, current.port, partners) is not None:
        return True
    known = {operations[i].lines[:1] for other in found if other.reference for i in other.reference.cone}
    return operation.lines[:1] in known


def _located(current: Divergence, exchange: Exchange, partners: Partners) -> Divergence:
    """Returns the place within what an exchange replaces."""
    sides = _sides(partners, current.backward)
    cones = [
        side.place([value], current.backward) if value not in side.agreed else None
        for side, value in zip(sides, (exchange.reference, exchange.port), strict=True)
    ]
    reference, port = cones
    if reference is None and port is not None:  # the port has an operation more
        taker = _first_taker(exchange.reference, current.reference, partners.reference)
        return Divergence(taker, port, current.backward)
    if port is None and reference is not None:  # the port lacks an operation
        takers = sorted(exchange.takers or current.port.cone if current.port else ())
        place = Place(takers[0], tuple(takers[1:]), tuple(takers), _origin(exchange.port, partners.port))
        return Divergence(_joining(reference, exchange, partners), place, current.backward)
    if reference is None or port is None:
        return current
    return Divergence(*_compared(reference, port, partners), current.backward)


def _origin(value: int, tape: Tape) -> int | None:
    """Returns the operation that a value comes from, before it was moved or passed on."""
    while (operation := tape.producers.get(value)) is not None:
        same = [v for v in tape.operations[operation].inputs if likeness(tape.values[v], tape.values[value])]
        if not same:
            return operation
        value = same[0]
    return None


def _joining(place: Place, exchange: Exchange, partners: Partners) -> Place:
    """Returns the operation of the reference that works on the value which the port passes on as it is."""
    same = set(partners.of_port.get(exchange.port, ()))
    takers = [i for i in place.cone if same.intersection(partners.reference.operations[i].inputs)]
    if not takers:
        return place
    return Place(takers[-1], tuple(i for i in (place.first, *place.others) if i != takers[-1]), place.cone)


def _first_taker(value: int, place: Place | None, tape: Tape) -> Place | None:
    if place is None:
        return None
    takers = [i for i in place.cone if value in tape.operations[i].inputs]
    return Place(takers[0], tuple(takers[1:]), place.cone, _origin(value, tape)) if takers else place


def _compared(reference: Place, port: Place, partners: Partners) -> tuple[Place, Place]:
    """Returns where two cones differ: at the operation that takes a value which the other cone does not."""
    edges = (
        _edge(reference, partners.reference, partners.of_reference),
        _edge(port, partners.port, partners.of_port),
    )
    missing = [v for v in edges[0] if not edges[1].intersection(partners.of_reference[v])]
    extra = [v for v in edges[1] if not edges[0].intersection(partners.of_port[v])]
    if missing:
        first = next(i for i in reference.cone if set(missing) & set(partners.reference.operations[i].inputs))
        place = Place(first, tuple(i for i in (reference.first, *reference.others) if i != first), reference.cone)
        return place, _beside(place, port, partners)
    if extra:
        first = next(i for i in port.cone if set(extra) & set(partners.port.operations[i].inputs))
        return reference, Place(first, tuple(i for i in (port.first, *port.others) if i != first), port.cone)
    return reference, _beside(reference, port, partners)


def _edge(place: Place, tape: Tape, agreed: dict[int, list[int]]) -> set[int]:
    """Returns the agreed values that a cone is computed from."""
    values = {value for i in place.cone for value in tape.operations[i].inputs if value in agreed}
    return {value for value in values if tape.values[value].kind == "f" and not tape.values[value].constant}


def _beside(reference: Place, port: Place, partners: Partners) -> Place:
    """Returns the port's place that fits the reference's best.

    A port may compute something on the way that the reference does not, which is no fault, and comes first.
    """
    tapes = partners.reference, partners.port
    operation = tapes[0].operations[reference.first]
    missing = _without_gradient(reference.first, port, partners)
    if missing is not None:
        return Place(missing, (port.first, *port.others), port.cone)
    leaves = set(tapes[0].leaves.values())
    given = [value for value in operation.inputs if value not in leaves] or operation.inputs
    same = {other for value in given for other in partners.of_reference.get(value, ())}
    takers = [i for i in port.cone if same.intersection(tapes[1].operations[i].inputs)]
    frontier = [i for i in (port.first, *port.others) if i in takers]
    chosen = next(iter(frontier or takers), port.first)
    rest = tuple(i for i in (port.first, *port.others) if i != chosen)
    return Place(chosen, rest, port.cone)


def _without_gradient(backward: int, port: Place, partners: Partners) -> int | None:
    """Returns the port's operation that no gradient comes back from, where the reference's has one."""
    tape = partners.port
    of_reference = partners.reference.operations[backward]
    if not of_reference.backward or of_reference.forward is None:
        return None
    same = {twin for value in of_reference.inputs for twin in partners.of_reference.get(value, ())}
    made = partners.reference.operations[of_reference.forward].outputs
    twins = [twin for value in made for twin in partners.of_reference.get(value, ())]
    found = next((tape.producers[twin] for twin in twins if twin in tape.producers), None)
    if found is None:
        return None
    operation = tape.operations[found]
    taken = {value for value in operation.inputs if tape.values[value].kind == "f"}
    for i in port.cone:
        other = tape.operations[i]
        if not other.backward:
            continue
        if taken.intersection(other.inputs):  # a product's derivative takes its other factor
            return None
        if other.lines == operation.lines and _plain_stack(other.module) == _plain_stack(operation.module):
            return None
    return next((i for i in reversed(_around(found, tape)) if same.intersection(tape.operations[i].inputs)), found)


def _around(operation: int, tape: Tape) -> list[int]:
    """Returns an operation and what it is directly computed by, in the same module."""
    module = tape.operations[operation].module

    def near(value: int) -> bool:
        producer = tape.producers.get(value)
        return producer is not None and tape.operations[producer].module == module and operation - producer < 8

    return tape.upstream(tape.operations[operation].outputs, near)


def _plain_stack(module: str) -> str:
    """Returns a name stack without what JAX's transformations wrote into it."""
    return re.sub(r"transpose\(|jvp\(|\)", "", module)
