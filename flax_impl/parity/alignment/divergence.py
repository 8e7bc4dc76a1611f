"""Finds every place at which a port leaves its reference, on both sides, and proves it by repair where it can."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from torch_ref.common.tape.tape import Tape

from .gradients import silenced, stopped, without_gradient
from .likeness import likeness
from .partners import Partners, find_partners
from .place import Place, Side, differing
from .repair import Exchange, exchanges
from .rows import selected
from .slices import sliced, uncertain
from .tables import rounded_tables

_ORDERS = ("rev", "transpose", "reshape", "aten.flip", "aten.permute", "aten.view", "aten.reshape")
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
    if backward and reference is not None and port is not None:
        missing = without_gradient(reference.first, port, partners)
        if missing is None:
            missing = silenced(partners, theirs)
        if missing is not None:
            return Divergence(*stopped(missing, reference, port, partners), backward)
    if reference is not None and port is not None:
        port = _beside(reference, port, partners)
    return Divergence(reference, port, backward)


def _sides(partners: Partners, backward: bool) -> tuple[Side, Side]:
    """Returns both sides with what agrees on them.

    JAX computes derivatives on the way forward. A value that is nothing but one, such as the cosine beside a sine, is
    no partner for a value that an output comes from.
    """
    agreed = partners.of_reference, partners.of_port
    tapes = partners.reference, partners.port
    if not backward:
        derivatives = [Side(tape, of_tape).derivatives for tape, of_tape in zip(tapes, agreed, strict=True)]
        agreed = tuple(
            {value: twins for value, twins in of_tape.items() if not derivatives[1 - i].issuperset(twins)}
            for i, of_tape in enumerate(agreed)
        )
    sides = []
    alone = [[n for n in range(len(tape.values)) if n not in of] for tape, of in zip(tapes, agreed, strict=True)]
    rows = selected(tapes[0], alone[0], tapes[1]), selected(tapes[1], alone[1], tapes[0])
    for i, (tape, of_tape) in enumerate(zip(tapes, agreed, strict=True)):
        slices = sliced(tape, alone[i], tapes[1 - i]) | rows[i][0] | rows[1 - i][1].difference(of_tape)
        sides.append(Side(tape, {*of_tape, *uncertain(tape, tapes[1 - i], set(of_tape), slices)}))
    return sides[0], sides[1]


def find_divergences(partners: Partners, port: Port, at_most: int = 8) -> list[Divergence]:
    """Returns every place at which two tapes part: finds one, puts the reference's value in, and goes on.

    Args:
        partners: the reference's tape and the port's, both with their values kept.
        port: runs the port again.
        at_most: how many places are looked for.
    """
    found: list[Divergence] = []
    current = first_divergence(partners)
    put_in = rounded_tables(partners) if current is not None else []
    if put_in:
        partners = find_partners(partners.reference, port.tape(exchanges=put_in))
        current = first_divergence(partners)
    while current is not None and len(found) < at_most:
        try:
            exchange, following, after = _best_exchange(current, partners, port, put_in)
        except Exception:  # a repair that fails costs the proof, never the report
            exchange, following, after = None, None, None
        if not _is_known(current, found, partners):
            done = exchange is not None and (after is None or (after.backward and not current.backward))
            located = current
            if exchange is not None and (done or not _iterated(current, partners)):
                located = _located(current, exchange, partners)
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


def _is_known(current: Divergence, found: Sequence[Divergence], partners: Partners) -> bool:
    """Whether a gradient differs because of a place that is known: a value was put in there, but no derivative."""
    if not current.backward or not found:
        return False
    if current.reference is None or current.port is None:
        return True
    if any(other.backward and other.port and other.port.first == current.port.first for other in found):
        return True
    if all(other.backward for other in found):
        return False
    operations = partners.reference.operations
    operation = operations[current.reference.first]
    if not partners.port.operations[current.port.first].backward:  # no gradient comes back from it
        return True
    known = {operations[i].lines[:1] for other in found if other.reference for i in other.reference.cone}
    return operation.lines[:1] in known


def _iterated(current: Divergence, partners: Partners) -> bool:
    """Whether the port's place is in a loop: one exchange then mends one iteration, and shows little."""
    return current.port is not None and "[" in partners.port.operations[current.port.first].module


def _located(current: Divergence, exchange: Exchange, partners: Partners) -> Divergence:
    """Returns the place within what an exchange replaces."""
    if current.backward and current.port and not partners.port.operations[current.port.first].backward:
        return current  # where no gradient comes back from
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
        takers = sorted(exchange.takers or partners.port.consumers.get(exchange.port, ()))
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
    moved = [i for i in (port.first, *port.others) if _reorders(tapes[1], i, partners.of_port)]
    if moved:  # what only moves numbers has a partner in an honest port
        return Place(moved[0], tuple(i for i in (port.first, *port.others) if i != moved[0]), port.cone)
    leaves = set(tapes[0].leaves.values())
    given = [value for value in operation.inputs if value not in leaves] or operation.inputs
    same = {other for value in given for other in partners.of_reference.get(value, ())}
    takers = [i for i in port.cone if same.intersection(tapes[1].operations[i].inputs)]
    frontier = [i for i in (port.first, *port.others) if i in takers]
    chosen = next(iter(frontier or takers), port.first)
    rest = tuple(i for i in (port.first, *port.others) if i != chosen)
    return Place(chosen, rest, port.cone)


def _reorders(tape: Tape, i: int, agreed: Mapping[int, Sequence[int]]) -> bool:
    """Whether an operation puts the numbers of an agreed value in another order, which has no partner."""
    operation = tape.operations[i]
    if operation.name not in _ORDERS or operation.backward:
        return False
    sizes = {tape.values[value].size for value in (*operation.inputs, *operation.outputs)}
    return len(sizes) == 1 and all(value in agreed for value in operation.inputs)
