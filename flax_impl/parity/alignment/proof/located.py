"""Says which operation of what was exchanged is the place, on both sides."""

from collections.abc import Mapping, Sequence

from torch_ref.common.tape.tape import Tape

from ..partners import Partners
from ..place import Place
from ..repair import MOVES, Exchange

_FEW = 6  # operations before a value that agrees
_ORDERS = ("rev", "transpose", "reshape", "aten.flip", "aten.permute", "aten.view", "aten.reshape")


def located(
    places: tuple[Place | None, Place | None],
    within: tuple[Place | None, Place | None],
    exchange: Exchange,
    partners: Partners,
) -> tuple[Place | None, Place | None]:
    """Returns the place within what an exchange replaces, on the reference's side and on the port's.

    Args:
        places: where the two sides part.
        within: where the two values of the exchange begin to differ; None for one that agrees.
        exchange: what was put in.
        partners: the two tapes.
    """
    reference, port = within
    if port is None:  # the port puts in another agreed value, or lacks an operation
        takers = sorted(exchange.takers or partners.port.consumers.get(exchange.port, ()))
        if not takers:  # it is returned as it is
            return reference or places[0], places[1]
        place = Place(takers[0], tuple(takers[1:]), tuple(takers), origin(exchange.port, partners.port))
        if reference is None:
            return _first_taker(exchange.reference, places[0], partners.reference), place
        return _joining(reference, exchange, partners), place
    if reference is None:  # the port has an operation more
        return _first_taker(exchange.reference, places[0], partners.reference), port
    return _compared(reference, port, partners)


def nearest(tape: Tape, value: int) -> Sequence[int]:
    """Returns the last few operations that a value comes from.

    Args:
        tape: that it is of.
        value: its number.
    """
    found: list[int] = []
    queue = [value]
    while queue and len(found) < _FEW:
        made_by = tape.producers.get(queue.pop(0))
        if made_by is not None and made_by not in found:
            found.append(made_by)
            queue += tape.operations[made_by].inputs
    return sorted(found)


def origin(value: int, tape: Tape) -> int | None:
    """Returns the operation that a value comes from, before it was moved.

    Args:
        value: its number.
        tape: that it is of.
    """
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
    return place.led_by(takers[-1])


def _first_taker(value: int, place: Place | None, tape: Tape) -> Place | None:
    if place is None:
        return None
    takers = [i for i in place.cone if value in tape.operations[i].inputs]
    return Place(takers[0], tuple(takers[1:]), place.cone, origin(value, tape)) if takers else place


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
        place = reference.led_by(first)
        return place, beside(place, port, partners)
    if extra:
        first = next(i for i in port.cone if set(extra) & set(partners.port.operations[i].inputs))
        return reference, port.led_by(first)
    return reference, beside(reference, port, partners)


def _edge(place: Place, tape: Tape, agreed: dict[int, list[int]]) -> set[int]:
    """Returns the agreed values that a cone is computed from."""
    values = {value for i in place.cone for value in tape.operations[i].inputs if value in agreed}
    return {value for value in values if tape.values[value].kind == "f" and not tape.values[value].constant}


def beside(reference: Place, port: Place, partners: Partners) -> Place:
    """Returns the port's place that fits the reference's best.

    A port may compute something on the way that the reference does not, which is no fault, and comes first.

    Args:
        reference: where the reference's values part.
        port: the same of the port's.
        partners: the two tapes.
    """
    tapes = partners.reference, partners.port
    operation = tapes[0].operations[reference.first]
    moved = [i for i in (port.first, *port.others) if _reorders(tapes[1], i, partners.of_port)]
    if moved:  # what only moves numbers has a partner in an honest port
        return port.led_by(moved[0])
    leaves = set(tapes[0].leaves.values())
    given = [value for value in operation.inputs if value not in leaves] or operation.inputs
    same = {other for value in given for other in partners.of_reference.get(value, ())}
    takers = [i for i in port.cone if same.intersection(tapes[1].operations[i].inputs)]
    frontier = [i for i in (port.first, *port.others) if i in takers]
    return port.led_by(next(iter(frontier or takers), port.first))


def _reorders(tape: Tape, i: int, agreed: Mapping[int, Sequence[int]]) -> bool:
    """Whether an operation puts the numbers of an agreed value in another order, which has no partner."""
    operation = tape.operations[i]
    if operation.name not in _ORDERS or operation.backward:
        return False
    sizes = {tape.values[value].size for value in (*operation.inputs, *operation.outputs)}
    return len(sizes) == 1 and all(value in agreed for value in operation.inputs)
