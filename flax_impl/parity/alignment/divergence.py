"""Finds every place at which a port leaves its reference, on both sides, and proves it by repair where it can."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from torch_ref.common.tape.tape import Tape

from .gradients import detached, silenced, stopped, without_gradient
from .partners import Partners, find_partners
from .place import PHASES, Place, differing
from .proof.agreed import sides_of
from .proof.attempts import Attempt, best_attempt, narrowed, reached, with_all
from .proof.located import beside, located, nearest, origin
from .proof.masks import other_masks
from .proof.repeats import at_other_calls, everywhere
from .proof.tables import is_rounded_literal, rounded_tables
from .repair import Exchange, Runnable, exchanges

MOST = 8  # places that are looked for
_RUNS = 48  # of the step, to find what mends a place


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
        state: whether they agree, and the statistics that the step leaves behind do not.
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
    state: bool = False

    @property
    def rank(self) -> int:
        """How much of the step agrees: 0 for nothing, 1 for losses and outputs, 2 for statistics, too."""
        return 2 if self.backward else int(self.state)

    @property
    def iterated(self) -> bool:
        """Whether the port's place is in a loop, whose first iteration is what is looked at."""
        if self.partners is None or self.port is None:
            return False
        return "[" in self.partners.port.operations[self.port.first].module


def first_divergence(partners: Partners, beyond: int = -1) -> Divergence | None:
    """Returns where two tapes part first, or None where losses, outputs, statistics and gradients agree.

    Args:
        partners: which values agree.
        beyond: the rank up to which differences are known already.
    """
    for phases in PHASES[beyond + 1 :]:  # what comes later counts only where all before it agrees
        backward = "grad" in phases
        partners = partners.with_gradients if backward else partners
        ours, theirs = differing(partners, phases)
        if ours:
            return replace(_first(partners, ours, theirs, backward), state="buffer" in phases)
    return None


def _first(partners: Partners, ours: Sequence[int], theirs: Sequence[int], backward: bool) -> Divergence:
    """Returns where two tapes part first on the way to results that differ."""
    sides = sides_of(partners, backward, (ours, theirs), differ=True)
    reference, port = sides[0].place(ours, backward), sides[1].place(theirs, backward)
    agreed = frozenset(sides[0].agreed), frozenset(sides[1].agreed)
    if backward and reference is not None and port is not None:
        if (stop := detached(partners, theirs)) is not None:
            places = reference.led_by(stop[0]), port.led_by(stop[1])
            return Divergence(*places, backward, partners=partners, agreed=agreed)
        missing = without_gradient(reference.first, port, partners)
        if missing is None:
            missing = silenced(partners, theirs)
        if missing is not None:
            return Divergence(*stopped(missing, reference, port, partners), backward, partners=partners, agreed=agreed)
    if reference is not None and port is not None:
        port = beside(reference, port, partners)
    return Divergence(reference, port, backward, partners=partners, agreed=agreed)


def find_divergences(
    partners: Partners,
    port: Port,
    at_most: int = MOST,
    *,
    put_in: Sequence[Exchange] = (),
    report: Callable[[int], None] = lambda tried: None,
) -> list[Divergence]:
    """Returns every place at which two tapes part: finds one, puts the reference's value in, and goes on.

    Args:
        partners: the reference's tape and the port's, both with their values kept.
        port: runs the port again.
        at_most: how many places are looked for.
        put_in: values that the port's tape was made with.
        report: is told how often the port was run again.
    """
    found: list[Divergence] = []
    tries = itertools.count(1)

    def partners_with(put_in: Sequence[Exchange]) -> Partners:
        report(next(tries))
        return find_partners(partners.reference, port.tape(exchanges=put_in))

    current = first_divergence(partners)
    tables = rounded_tables(partners) if current is not None else []
    put_in = with_all(put_in, tables)
    if tables:
        partners = partners_with(put_in)
        current = first_divergence(partners)
    base, mended = list(put_in), []
    attempt: Attempt | None = None
    while current is not None and len(found) < at_most:
        partners = current.partners or partners
        attempt = _attempted(current, partners, port, put_in, partners_with)
        judged = current if attempt is None else _judged(current, attempt, partners)
        if attempt is not None and is_rounded_literal(judged):
            base = with_all(base, attempt.put_in)
        elif not _is_known(current, found, partners):
            found.append(judged)
            mended.append([] if attempt is None else attempt.put_in)
        elif attempt is not None:
            base = with_all(base, attempt.put_in)
        if attempt is None and not current.state:
            break
        if attempt is None:  # no loss and no gradient comes of a statistic
            current = first_divergence(partners, current.rank)
            continue
        put_in = with_all(put_in, attempt.put_in)
        partners, current = attempt.partners, attempt.after
    if len(found) > 1 and attempt is not None and attempt.whole:
        for i, place in enumerate(found):
            if not place.proved and not any(_same_lines(place, other) for other in found[:i]):
                # What mends a statistic may stand for more than that.
                others = [e for j, put in enumerate(mended) if j != i and found[j].rank <= place.rank for e in put]
                found[i] = _alone(place, port, with_all(base, others), partners_with) or place
    return found


def _alone(
    place: Divergence, port: Port, others: Sequence[Exchange], partners_with: Callable[[Sequence[Exchange]], Partners]
) -> Divergence | None:
    """Returns a place as it is where all others are mended: that says more of it, and may prove it.

    Args:
        place: one of several.
        port: runs the port again.
        others: what mends the others.
        partners_with: runs the port with values in it.
    """
    partners = partners_with(others)
    current = first_divergence(partners)
    if current is None or current.rank != place.rank:
        return None
    partners = current.partners or partners
    attempt = _attempted(current, partners, port, others, partners_with)
    return None if attempt is None or not attempt.whole else _judged(current, attempt, partners)


def _judged(current: Divergence, attempt: Attempt, partners: Partners) -> Divergence:
    """Returns a place with what an attempt shows of it."""
    place = current
    if attempt.whole or not current.iterated:  # one exchange in a loop mends one iteration, and shows little
        place = _located(current, attempt.exchange, partners)
    return replace(place, exchange=attempt.exchange, proved=attempt.whole, calls=attempt.calls)


def _same_lines(place: Divergence, other: Divergence) -> bool:
    """Whether two places stand at the same lines, in other calls of them."""
    lines = [
        () if one.partners is None or one.port is None else one.partners.port.operations[one.port.first].lines
        for one in (place, other)
    ]
    return bool(lines[0]) and lines[0] == lines[1]


def _attempted(
    current: Divergence,
    partners: Partners,
    port: Port,
    put_in: Sequence[Exchange],
    partners_with: Callable[[Sequence[Exchange]], Partners],
) -> Attempt | None:
    """Returns what mends the port best; None where nothing does, or where that cannot be tried."""
    try:
        return _attempt(current, partners, port, put_in, partners_with)
    except Exception:  # a repair that fails costs the proof, never the report
        return None


def _attempt(
    current: Divergence,
    partners: Partners,
    port: Port,
    put_in: Sequence[Exchange],
    partners_with: Callable[[Sequence[Exchange]], Partners],
) -> Attempt | None:
    """Returns what mends the port best; None where nothing does."""
    if current.reference is None or current.port is None:
        return None

    def again(exchange: Exchange) -> list[Exchange]:
        return everywhere(exchange, partners)

    def run(exchange: Exchange) -> Iterator[Attempt]:
        yield made(exchange, again(exchange), 0)
        if others := at_other_calls(exchange, partners):
            yield made(exchange, [e for one in (exchange, *others) for e in again(one)], len(others))

    runs = itertools.count()

    def made(exchange: Exchange, together: Sequence[Exchange], calls: int) -> Attempt:
        if next(runs) >= _RUNS:
            return Attempt(exchange, False, together, partners, current, calls)
        following = partners_with(with_all(put_in, together))
        if _same_results(partners.port, following.port):  # it was put in rows that nothing comes of
            return Attempt(exchange, False, together, partners, current, calls)
        after = first_divergence(following)
        whole = after is None or after.rank > current.rank
        return Attempt(exchange, whole, together, following, after, calls)

    def fits(exchange: Exchange) -> bool:  # what has mended the outputs hides what else would be changed
        return not current.state or reached(exchange, partners.port) == {"buffer"}

    def within(exchange: Exchange) -> Iterator[Exchange]:
        places = _within(exchange, current.backward, partners)
        lacking = places[0] is not None and places[1] is None and exchange.takers is not None
        if lacking and not _may_be_chance(partners.port, exchange.port):
            return  # the port lacks something between a value that agrees and what takes it: that is the place
        sides = (partners.reference, exchange.reference), (partners.port, exchange.port)
        # A value that agrees may do so by chance: what it comes from is looked at, too.
        cones = [nearest(*side) if place is None else place.cone for place, side in zip(places, sides, strict=True)]
        if max(map(len, cones)) > 1:
            yield from exchanges(partners, port, (cones[0], cones[1]), current.agreed, again, swapped=True)

    tried = exchanges(partners, port, (current.reference.cone, current.port.cone), current.agreed, again)
    found = best_attempt(filter(fits, tried), run, current)
    if found is None or not found.whole:
        of_masks = (made(exchange, [exchange], 0) for exchange in other_masks(partners, current.port))
        if (mended := next((attempt for attempt in of_masks if attempt.whole), None)) is not None:
            return mended
    return None if found is None else narrowed(found, lambda exchange: filter(fits, within(exchange)), run)


def _same_results(before: Tape, after: Tape) -> bool:
    """Whether a step gives the same, gradients included, after an exchange."""
    return before.results == after.results and all(
        np.array_equal(before.values[n].moments, after.values[n].moments, equal_nan=True)
        and (before.values[n].order == after.values[n].order or np.isnan(before.values[n].order))
        for n in before.results.values()
    )


def _is_known(current: Divergence, found: Sequence[Divergence], partners: Partners) -> bool:
    """Whether a gradient differs because of a place that is known: a value was put in there, but no derivative."""
    found = [other for other in found if not other.state]  # nothing comes of a statistic
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
    own = partners.port.operations[current.port.first].lines[:1]
    if own and any(other.port and partners.port.operations[other.port.first].lines[:1] == own for other in found):
        return True
    known = {operations[i].lines[:1] for other in found if other.reference for i in other.reference.cone}
    if operation.lines[:1] in known:
        return True
    put_in = [other.exchange.port for other in found if other.exchange is not None and not other.backward]
    return partners.port.operations[current.port.first].lines[:1] not in _lines_after(put_in, partners.port)


def _may_be_chance(tape: Tape, value: int) -> bool:
    """Whether a value is of one other and of numbers that are all the same, as of ones for a softmax's sum."""
    made_by = origin(value, tape)
    given = () if made_by is None else tape.operations[made_by].inputs
    return any(tape.values[other].constant and tape.values[other].size > 1 for other in given)


def _lines_after(values: Sequence[int], tape: Tape) -> set[object]:
    """Returns the lines that go on with some values: only there a gradient is right once they are put in."""
    reached, found = set(values), set()
    for operation in tape.operations:
        if not operation.backward and reached.intersection(operation.inputs):
            reached.update(operation.outputs)
            found.add(operation.lines[:1])
    return found


def _located(current: Divergence, exchange: Exchange, partners: Partners) -> Divergence:
    """Returns the place within what an exchange replaces."""
    if current.backward and current.port and not partners.port.operations[current.port.first].backward:
        return current  # where no gradient comes back from
    within = _within(exchange, current.backward, partners)
    reference, port = located((current.reference, current.port), within, exchange, partners)
    return replace(current, reference=reference, port=port)


def _within(exchange: Exchange, backward: bool, partners: Partners) -> tuple[Place | None, Place | None]:
    """Returns where the two values of an exchange begin to differ from all others; None for one that agrees."""
    sides = sides_of(partners, backward, ([exchange.reference], [exchange.port]))
    return (
        sides[0].place([exchange.reference], backward) if exchange.reference not in sides[0].agreed else None,
        sides[1].place([exchange.port], backward) if exchange.port not in sides[1].agreed else None,
    )
