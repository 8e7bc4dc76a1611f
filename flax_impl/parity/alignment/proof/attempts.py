"""Tries which value of the reference mends the port: the one that gets furthest, as early as it can be put in."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch_ref.common.tape.tape import Tape

from ..partners import Partners
from ..repair import Exchange

if TYPE_CHECKING:
    from ..divergence import Divergence

_TRIED = 6  # exchanges that the whole step is run with
_USELESS = 24  # further ones that change no result
_NARROWED = 4  # the same, to find an earlier one
_TIMES = 3  # that an earlier one is looked for

Runs = Callable[[Exchange], "Iterator[Attempt]"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """An exchange, and what became of the step.

    Args:
        exchange: that was put in.
        whole: whether all losses and outputs, or all gradients, agree, which is a proof.
        put_in: it, each time that it is computed, and where it was tried, at the other calls of its line.
        partners: of the step after it.
        after: where the tapes part then; None where they agree.
        calls: how many calls of its line there are further, at which it was put in.
    """

    exchange: Exchange
    whole: bool
    put_in: Sequence[Exchange]
    partners: Partners
    after: "Divergence | None"
    calls: int = 0

    @property
    def reach(self) -> tuple[bool, int]:
        """How far the tapes agree: on all of the pass, or up to an operation of the reference."""
        place = None if self.after is None else self.after.reference
        return self.whole, -1 if place is None or self.whole else place.first


def best_attempt(tried: Iterable[Exchange], run: Runs, current: "Divergence") -> Attempt | None:
    """Returns the first attempt that mends all, or else the one that gets furthest; None where none gets anywhere.

    Where an earlier one gets to quite another place, there are two: one that mends both only hides the first.

    Args:
        tried: exchanges, the likely ones first.
        run: runs the step with one more exchange, and then with it at all calls of its line.
        current: where the tapes part without it.
    """
    best: Attempt | None = None
    reach = False, -1 if current.reference is None else current.reference.first
    left = _TRIED
    for exchange in itertools.islice(tried, _TRIED + _USELESS):
        attempt = _made(exchange, run)
        if attempt.whole:
            return attempt if best is None or not _is_elsewhere(best, current) else best
        if attempt.reach > reach:
            best, reach = attempt, attempt.reach
        left -= attempt.after is not current
        if not left:
            break
    return best


def _is_elsewhere(attempt: Attempt, current: "Divergence") -> bool:
    """Whether the tapes part in another line or layer after an attempt."""
    places = [place and place.port for place in (attempt.after, current)]
    where = [attempt.partners.port.operations[place.first] for place in places if place is not None]
    return len(where) == 2 and (where[0].lines, where[0].module) != (where[1].lines, where[1].module)


def narrowed(attempt: Attempt, within: Callable[[Exchange], Iterable[Exchange]], run: Runs) -> Attempt:
    """Returns an attempt with an earlier exchange that gets as far, as long as there is one.

    Args:
        attempt: what works.
        within: gives the exchanges within what one replaces.
        run: as in `best_attempt`.
    """
    for _ in range(_TIMES):
        known = attempt.exchange.reference, attempt.exchange.port
        others = (e for e in within(attempt.exchange) if (e.reference, e.port) != known)
        earlier = (_made(exchange, run) for exchange in itertools.islice(others, _NARROWED))
        found = next((other for other in earlier if other.reach >= attempt.reach), None)
        if found is None:
            return attempt
        attempt = found
    return attempt


def _made(exchange: Exchange, run: Runs) -> Attempt:
    """Returns the first attempt that mends all, or else the one that gets furthest."""
    best: Attempt | None = None
    for attempt in run(exchange):
        if attempt.whole:
            return attempt
        best = attempt if best is None or attempt.reach > best.reach else best
    assert best is not None
    return best


def reached(exchange: Exchange, tape: Tape) -> set[str]:
    """Returns the phases of the results that a value goes into where it is exchanged: loss, output, buffer, grad.

    Args:
        exchange: what is put in.
        tape: of the port.
    """
    takers = exchange.takers
    values = {exchange.port} if takers is None else {v for i in takers for v in tape.operations[i].outputs}
    for operation in tape.operations:
        if values.intersection(operation.inputs):
            values.update(operation.outputs)
    return {name.partition("/")[0] for name, number in tape.results.items() if number in values}


def with_all(put_in: Sequence[Exchange], more: Iterable[Exchange]) -> list[Exchange]:
    """Returns exchanges with some more; of two for the same value the later one counts.

    Args:
        put_in: those before.
        more: those after them.
    """
    found = {(e.port, e.takers): e for e in (*put_in, *more)}
    return list(found.values())
