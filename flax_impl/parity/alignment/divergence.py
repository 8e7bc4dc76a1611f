"""Finds every place at which a port leaves its reference, on both sides, and proves it by repair where it can."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch_ref.common.tape.tape import Tape

from .gradients import silenced, stopped, without_gradient
from .partners import Partners, find_partners
from .place import Place, Side, differing
from .proof.attempts import Attempt, best_attempt, narrowed, with_all
from .proof.masks import other_masks
from .proof.repeats import at_other_calls, everywhere
from .proof.tables import rounded_tables
from .repair import MOVES, Exchange, Runnable, exchanges
from .rows import selected
from .slices import sliced, uncertain, without_joined

_FEW = 6  # operations before a value that agrees
_ORDERS = ("rev", "transpose", "reshape", "aten.flip", "aten.permute", "aten.view", "aten.reshape")


class Port(Runnable, Protocol):
    """A port that can be run again with other values in it."""

    def tape(self, *, exchanges: Sequence[Exchange] = ()) -> Tape:
        """Runs the step and returns its tape."""
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
        calls: how many further calls of the same lines it was put in at.
        partners: which values agreed when the place was found, with the exchanges before it.
        agreed: the reference's values and the port's that count as agreed: those with a partner, those whose rows stand
            in one of the other side, and those that one cannot expect a partner of.
    """

    reference: Place | None
    port: Place | None
    backward: bool
    exchange: Exchange | None = None
    proved: bool = False
    calls: int = 0
    partners: Partners | None = None
    agreed: tuple[frozenset[int], frozenset[int]] = frozenset(), frozenset()


def first_divergence(partners: Partners) -> Divergence | None:
    """Returns where two tapes part first, or None where losses, outputs and gradients agree."""
    for backward in (False, True):  # gradients count only where losses and outputs agree
        partners = partners.with_gradients if backward else partners
        ours, theirs = differing(partners, backward)
        if ours:
            return _first(partners, ours, theirs, backward)
    return None


def _first(partners: Partners, ours: Sequence[int], theirs: Sequence[int], backward: bool) -> Divergence:
    """Returns where two tapes part first on the way to results that differ."""
    sides = _sides(partners, backward, (ours, theirs), differ=True)
    reference, port = sides[0].place(ours, backward), sides[1].place(theirs, backward)
    agreed = frozenset(sides[0].agreed), frozenset(sides[1].agreed)
    if backward and reference is not None and port is not None:
        missing = without_gradient(reference.first, port, partners)
        if missing is None:
            missing = silenced(partners, theirs)
        if missing is not None:
            return Divergence(*stopped(missing, reference, port, partners), backward, partners=partners, agreed=agreed)
    if reference is not None and port is not None:
        port = _beside(reference, port, partners)
    return Divergence(reference, port, backward, partners=partners, agreed=agreed)


def _sides(
    partners: Partners, backward: bool, starts: tuple[Sequence[int], Sequence[int]], *, differ: bool = False
) -> tuple[Side, Side]:
    """Returns both sides with what agrees on them.

    JAX computes derivatives on the way forward. A value that is nothing but one, such as the cosine beside a sine, is
    no partner for a value that an output comes from.

    Args:
        partners: which values are the same.
        backward: whether gradients are meant.
        starts: values of the reference, and of the port; what they do not come from is not looked at.
        differ: whether they are results that differ, if only by the order of their numbers.
    """
    agreed = partners.of_reference, partners.of_port
    if differ:
        agreed = tuple(
            {value: twins for value, twins in of_tape.items() if value not in start}
            for of_tape, start in zip(agreed, starts, strict=True)
        )
    tapes = partners.reference, partners.port
    if not backward:
        derivatives = [Side(tape, of_tape).derivatives for tape, of_tape in zip(tapes, agreed, strict=True)]
        agreed = tuple(
            {value: twins for value, twins in of_tape.items() if not derivatives[1 - i].issuperset(twins)}
            for i, of_tape in enumerate(agreed)
        )
    alone = [
        [number for number in tape.values_behind(start, lambda n, of=of_tape: n not in of) if number not in of_tape]
        for tape, of_tape, start in zip(tapes, agreed, starts, strict=True)
    ]
    rows = selected(tapes[0], alone[0], tapes[1]), selected(tapes[1], alone[1], tapes[0])
    parts = without_joined(tapes, (sliced(tapes[0], alone[0], tapes[1]), sliced(tapes[1], alone[1], tapes[0])))
    sides = []
    for i, (tape, of_tape) in enumerate(zip(tapes, agreed, strict=True)):
        slices = parts[i] | rows[i][0] | rows[1 - i][1].difference(of_tape)
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
        partners = current.partners or partners
        try:
            attempt = _attempt(current, partners, port, put_in)
        except Exception:  # a repair that fails costs the proof, never the report
            attempt = None
        if not _is_known(current, found, partners):
            place, exchange, whole, calls = current, None, False, 0
            if attempt is not None:
                exchange, whole, calls = attempt.exchange, attempt.whole, attempt.calls
                if whole or not _iterated(current, partners):
                    place = _located(current, exchange, partners)
            known = {"partners": partners, "agreed": current.agreed}
            found.append(Divergence(place.reference, place.port, current.backward, exchange, whole, calls, **known))
        if attempt is None:
            break
        put_in = with_all(put_in, attempt.put_in)
        partners, current = attempt.partners, attempt.after
    return found


def _attempt(current: Divergence, partners: Partners, port: Port, put_in: Sequence[Exchange]) -> Attempt | None:
    """Returns what mends the port best; None where nothing does."""
    if current.reference is None or current.port is None:
        return None

    def again(exchange: Exchange) -> list[Exchange]:
        return everywhere(exchange, partners)

    def run(exchange: Exchange) -> Iterator[Attempt]:
        yield made(exchange, again(exchange), 0)
        if others := at_other_calls(exchange, partners):
            yield made(exchange, [e for one in (exchange, *others) for e in again(one)], len(others))

    def made(exchange: Exchange, together: Sequence[Exchange], calls: int) -> Attempt:
        following = find_partners(partners.reference, port.tape(exchanges=with_all(put_in, together)))
        after = first_divergence(following)
        whole = after is None or (after.backward and not current.backward)
        return Attempt(exchange, whole, together, following, after, calls)

    def within(exchange: Exchange) -> Iterator[Exchange]:
        places = _within(exchange, current.backward, partners)
        sides = (partners.reference, exchange.reference), (partners.port, exchange.port)
        # A value that agrees may do so by chance: what it comes from is looked at, too.
        cones = [_nearest(*side) if place is None else place.cone for place, side in zip(places, sides, strict=True)]
        if max(map(len, cones)) > 1:
            yield from exchanges(partners, port, (cones[0], cones[1]), current.agreed, again, swapped=True)

    tried = exchanges(partners, port, (current.reference.cone, current.port.cone), current.agreed, again)
    found = best_attempt(tried, run, current)
    if found is None or not found.whole:
        of_masks = (made(exchange, [exchange], 0) for exchange in other_masks(partners, current.port))
        if (mended := next((attempt for attempt in of_masks if attempt.whole), None)) is not None:
            return mended
    return None if found is None else narrowed(found, within, run)


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
    if operation.lines[:1] in known:
        return True
    put_in = [other.exchange.port for other in found if other.exchange is not None and not other.backward]
    return partners.port.operations[current.port.first].lines[:1] not in _lines_after(put_in, partners.port)


def _lines_after(values: Sequence[int], tape: Tape) -> set[object]:
    """Returns the lines that go on with some values: only there a gradient is right once they are put in."""
    reached, found = set(values), set()
    for operation in tape.operations:
        if not operation.backward and reached.intersection(operation.inputs):
            reached.update(operation.outputs)
            found.add(operation.lines[:1])
    return found


def _iterated(current: Divergence, partners: Partners) -> bool:
    """Whether the port's place is in a loop: one exchange then mends one iteration, and shows little."""
    return current.port is not None and "[" in partners.port.operations[current.port.first].module


def _located(current: Divergence, exchange: Exchange, partners: Partners) -> Divergence:
    """Returns the place within what an exchange replaces."""
    if current.backward and current.port and not partners.port.operations[current.port.first].backward:
        return current  # where no gradient comes back from
    reference, port = _within(exchange, current.backward, partners)
    if reference is None and port is None:  # the port puts in another agreed value
        takers = sorted(exchange.takers or partners.port.consumers.get(exchange.port, ()))
        taker = _first_taker(exchange.reference, current.reference, partners.reference)
        place = Place(takers[0], tuple(takers[1:]), tuple(takers), _origin(exchange.port, partners.port))
        return Divergence(taker, place, current.backward)
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


def _within(exchange: Exchange, backward: bool, partners: Partners) -> tuple[Place | None, Place | None]:
    """Returns where the two values of an exchange begin to differ from all others; None for one that agrees."""
    sides = _sides(partners, backward, ([exchange.reference], [exchange.port]))
    return (
        sides[0].place([exchange.reference], backward) if exchange.reference not in sides[0].agreed else None,
        sides[1].place([exchange.port], backward) if exchange.port not in sides[1].agreed else None,
    )


def _nearest(tape: Tape, value: int) -> Sequence[int]:
    """Returns the last few operations that a value comes from."""
    found: list[int] = []
    queue = [value]
    while queue and len(found) < _FEW:
        made_by = tape.producers.get(queue.pop(0))
        if made_by is not None and made_by not in found:
            found.append(made_by)
            queue += tape.operations[made_by].inputs
    return sorted(found)


def _origin(value: int, tape: Tape) -> int | None:
    """Returns the operation that a value comes from, before it was moved."""
    while (operation := tape.producers.get(value)) is not None:
        given = tape.operations[operation].inputs
        if tape.operations[operation].name not in MOVES or not given:
            return operation
        value = given[0]
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
