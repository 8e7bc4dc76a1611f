"""Puts the reference's value in the port's place and looks whether what comes after it agrees."""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint, fingerprint
from torch_ref.common.tape.tape import Tape

from .likeness import Pool, likeness
from .partners import Partners
from .proof.layouts import layouts
from .proof.picks import Picks, Rows, are_alike

_NEAR = 40  # operations of each side that are looked at
_FRONT = 12  # operations of the reference that the port may lack
_TRIALS = 200  # values that are put in, one after the other
_TELLING = 2  # operations that agree after a value was put in
_DEEP = 10  # operations that a value put in is followed through
# Operations that nobody can look into: they run as they are written, in their own dtype, and count as one.
OPAQUE = ("pallas_call", "ffi_call", "pure_callback", "io_callback")
# Operations that only move numbers: they agree whatever is put in.
MOVES = {
    "reshape", "broadcast_in_dim", "transpose", "convert_element_type", "squeeze", "expand_dims", "copy", "copy_p",
    "stop_gradient", "slice", "split", "scan.slice", "scan.stack", "rev", "reduce_precision",
    "aten.view", "aten.permute", "aten.to", "aten._to_copy", "aten.clone", "aten.unsqueeze", "aten.squeeze",
    "aten.alias", "aten.expand", "aten.t", "aten.detach", "aten.slice", "aten.split_with_sizes", "aten.select",
    "aten.transpose", "aten.tensor_split", "aten.unbind", "aten.chunk", "view",
    "prims.broadcast_in_dim", "prims.convert_element_type",
}  # fmt: skip


class Runnable(Protocol):
    """A port that can be run again."""

    def evaluate(
        self,
        operation: int,
        arrays: Sequence[np.ndarray],
        literals: Mapping[int, float] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> list[np.ndarray]:
        """Returns what one operation of the tape gives for other inputs, other literals and other parameters."""
        ...


@dataclass(frozen=True, eq=False)
class Exchange:
    """A value of the reference that stands for one of the port.

    Args:
        reference: number of the reference's value.
        port: number of the port's value.
        takers: the port's operations that get it; None means all.
        array: it, in the port's layout.
        rows: that the reference has of it, for each call with rows of its own; nothing means all.
        alone: whether it is meant at one call of a module only, where that is called several times.
    """

    reference: int
    port: int
    takers: frozenset[int] | None
    array: np.ndarray
    rows: tuple[Rows, ...] = ()
    alone: bool = False

    def parts(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the rows of an array that the reference has, each call's by themselves; all where it has all.

        Args:
            array: in the place of the value, or of what is made of it.
        """
        if not self.rows or not array.ndim or len(array) != self.rows[0].length:
            return [array]
        return [array[rows.numbers] for rows in self.rows]


def exchanges(
    partners: Partners,
    port: Runnable,
    cones: tuple[Sequence[int], Sequence[int]],
    agreed: tuple[Set[int], Set[int]],
    everywhere: Callable[[Exchange], Sequence[Exchange]],
    *,
    swapped: bool = False,
) -> Iterator[Exchange]:
    """Yields the exchanges after which later values agree that did not, the earliest first.

    One alone may agree by chance, since the same function of a wrong value may be there: those come last.

    Args:
        partners: the two tapes, both with their values kept.
        port: runs single operations.
        cones: the operations through which the difference reaches the results, the reference's and the port's.
        agreed: the values of both that count as agreed.
        everywhere: gives an exchange for each time that a value is computed.
        swapped: whether an agreed value is tried in place of another one, too.
    """
    reference = partners.reference
    unmatched = [reference.values[v] for i in cones[0] for v in reference.operations[i].outputs]
    pool = Pool(unmatched)
    likely = itertools.chain(_missing(partners, cones[0]), _weighed(partners, cones))
    tried = itertools.chain(likely, _replacing(partners, cones, agreed, swapped))
    tried = (exchange for exchange in tried if not (exchange.rows and _masked(exchange, partners.port)))
    weak, is_told = [], False
    for some in (itertools.islice(tried, _TRIALS), _ends(partners, cones)):
        for exchange in () if is_told else some:
            together = everywhere(exchange)
            count = _agreeing_after(together, partners.port, port, pool, agreed[1])
            if not count and len(together) > 1:
                alone = replace(exchange, alone=True)
                if len(apart := everywhere(alone)) < len(together):
                    exchange, count = alone, _agreeing_after(apart, partners.port, port, pool, agreed[1])
            if count >= _TELLING:
                is_told = True
                yield exchange
            elif count:
                weak.append(exchange)
    yield from weak
    yield from _last(partners, cones)


def _masked(exchange: Exchange, tape: Tape) -> bool:
    """Whether the port has no numbers of its own in the rows that are exchanged: they are another head's."""
    own = tape.arrays.get(exchange.port)
    first, theirs = exchange.parts(exchange.array)[0], None if own is None else exchange.parts(own)[0]
    return are_alike(theirs) and not are_alike(first)


def _last(partners: Partners, cones: tuple[Sequence[int], Sequence[int]]) -> Iterator[Exchange]:
    """Yields losses and outputs of whose making nothing comes after that could agree."""
    ends = []
    for tape, cone in zip((partners.reference, partners.port), cones, strict=True):
        inside = {value for i in cone for value in tape.operations[i].outputs}
        alone = {i for i in cone if not inside.intersection(tape.operations[i].inputs)}
        losses = [number for name, number in tape.results.items() if name.startswith("loss/")]
        ends.append([number for number in losses if tape.producers.get(number) in alone])
    for value, other in zip(*ends, strict=False):
        if value in partners.reference.arrays:
            yield from put_in(partners, value, other, None)
    outputs = [
        [n for name, n in tape.results.items() if name.startswith("output/") and not tape.consumers.get(n)]
        for tape in (partners.reference, partners.port)
    ]
    for value, other in zip(*partners.apart(*outputs), strict=False):
        if value in partners.reference.arrays and other in partners.port.arrays:
            yield from put_in(partners, value, other, None)


def _replacing(
    partners: Partners, cones: tuple[Sequence[int], Sequence[int]], agreed: tuple[Set[int], Set[int]], swapped: bool
) -> Iterator[Exchange]:
    """Yields each value of the reference's cone in place of each of the port's, those near the beginning first."""
    reference, ported = partners.reference, partners.port
    if not Picks.of(reference).rows:  # rows of a value are no partners of it
        agreed = partners.of_reference.keys(), partners.of_port.keys()
    ours, theirs = (
        _candidates(tape, cone[:_NEAR], of) for tape, cone, of in zip((reference, ported), cones, agreed, strict=True)
    )
    cone = set(cones[1])
    pairs = sorted(itertools.product(range(len(ours)), range(len(theirs))), key=lambda pair: (sum(pair), pair))
    for i, j in pairs:
        (value, own), (other, edge) = ours[i], theirs[j]
        if edge and own and (not swapped or other in partners.of_reference.get(value, ())):  # both agree already
            continue
        if value not in reference.arrays:
            continue
        takers = _takers(other, cone, ported) if edge else None
        yield from put_in(partners, value, other, takers)


def _ends(partners: Partners, cones: tuple[Sequence[int], Sequence[int]]) -> Iterator[Exchange]:
    """Yields the last value of each size in the reference's cone in place of the port's last one, the earliest first.

    Between two values of one size there may be too many pairs of others, as in a norm; its result ends them.
    """
    last = [
        {
            tape.values[value].size: value
            for i in cone[:_NEAR]
            for value in tape.operations[i].outputs
            if tape.values[value].kind == "f" and tape.operations[i].name not in MOVES
        }
        for tape, cone in zip((partners.reference, partners.port), cones, strict=True)
    ]
    for size, other in sorted(last[1].items(), key=lambda kept: kept[1]):
        if size > 1 and size in last[0] and last[0][size] in partners.reference.arrays:
            yield from put_in(partners, last[0][size], other, None)


def _takers(value: int, cone: Set[int], tape: Tape) -> frozenset[int]:
    """Returns the operations of a cone that take a value, and those that do so on the way back for the same lines."""
    every = tape.consumers.get(value, ())
    forward = [i for i in every if i in cone]
    lines = {tape.operations[i].lines[:1] for i in forward}
    alike = (i for i in every if tape.operations[i].backward and tape.operations[i].lines[:1] in lines)
    return frozenset([*forward, *alike])


def put_in(partners: Partners, value: int, other: int, takers: frozenset[int] | None) -> Iterator[Exchange]:
    """Yields the ways to put a value of the reference in the place of one of the port.

    Args:
        partners: the two tapes, both with their values kept.
        value: of the reference.
        other: of the port.
        takers: the port's operations that get it; None means all.
    """
    reference, port = partners.reference, partners.port
    if reference.values[value].size == port.values[other].size:
        for array in layouts(reference.arrays[value], port.values[other].shape):
            yield Exchange(value, other, takers, array)
    elif other in port.arrays:
        for array, rows in Picks.of(reference).joined(value, port.arrays[other]):
            yield Exchange(value, other, takers, array, rows)


def _missing(partners: Partners, cone: Sequence[int]) -> Iterator[Exchange]:
    """Yields what an operation that the port lacks would have made, in place of one of its inputs.

    What the port does with that input after all inputs were there, it should have done with the result.
    """
    reference, port = partners.reference, partners.port
    inside = {value for i in cone for value in reference.operations[i].outputs}
    for i in [i for i in cone if not inside.intersection(reference.operations[i].inputs)][:_FRONT]:
        operation = reference.operations[i]
        made = operation.outputs[0]
        twins = [partners.of_reference.get(value, [-1])[0] for value in operation.inputs]
        ready = max((port.producers.get(twin, -1) for twin in twins), default=-1)
        for twin in twins:
            takers = frozenset(taker for taker in port.consumers.get(twin, ()) if taker > ready)
            if twin < 0 or not takers or made not in reference.arrays or port.values[twin].kind != "f":
                continue
            yield from put_in(partners, made, twin, takers)


def _weighed(partners: Partners, cones: tuple[Sequence[int], Sequence[int]]) -> Iterator[Exchange]:
    """Yields what the reference puts through a weight, in place of the agreed value that the port puts through it."""
    reference, port, cone = partners.reference, partners.port, set(cones[1])
    inside = {value for i in cones[1] for value in port.operations[i].outputs}
    frontier = [i for i in cones[1] if not inside.intersection(port.operations[i].inputs)]
    for i in frontier[:_FRONT]:
        weights, others = _parted(port, i)
        twins = {twin for weight in weights for twin in partners.of_port.get(weight, ())}
        for j in cones[0]:
            ours, given = _parted(reference, j)
            if not twins.intersection(ours):
                continue
            for value, other in itertools.product(given, others):
                if value in reference.arrays:
                    yield from put_in(partners, value, other, _takers(other, cone, port))


def _parted(tape: Tape, operation: int) -> tuple[list[int], list[int]]:
    """Returns the parameters that go into an operation, moved or not, and the other floating values that do."""
    leaves = {number for name, number in tape.leaves.items() if name.startswith("param/")}
    weights, others = [], []
    for value in tape.operations[operation].inputs:
        source = value
        while (made_by := tape.producers.get(source)) is not None and tape.operations[made_by].name in MOVES:
            if not (given := tape.operations[made_by].inputs):  # a number, repeated
                break
            source = given[0]
        if source in leaves:
            weights.append(source)
        elif tape.values[value].kind == "f" and tape.values[value].size > 1:
            others.append(value)
    return weights, others


def _candidates(tape: Tape, cone: Sequence[int], agreed: Set[int]) -> list[tuple[int, bool]]:
    """Returns the values in and at the edge of a cone, in order, and whether each is at its edge."""
    found: dict[int, bool] = {}
    for i in cone:
        for value in tape.operations[i].inputs:
            if value in agreed and tape.values[value].kind == "f" and tape.values[value].size > 1:
                found.setdefault(value, True)
        for value in tape.operations[i].outputs:
            if tape.values[value].kind == "f":
                found.setdefault(value, value in agreed)
    return list(found.items())


def _agreeing_after(together: Sequence[Exchange], tape: Tape, port: Runnable, unmatched: Pool, agreed: Set[int]) -> int:
    """Returns how many operations agree that did not, up to two, once the reference's values stand there.

    What comes after them is followed, too.
    """
    count = 0
    changed = {e.port: e.array for e in together if e.takers is None}
    at = {(e.port, taker): e.array for e in together for taker in e.takers or ()}
    own = [fingerprint(part) for part in together[0].parts(together[0].array)]
    queue = sorted({taker for number in changed for taker in tape.consumers.get(number, ())}.union(i for _, i in at))
    done: set[int] = set()
    worked = 0
    while queue and len(done) < _DEEP * 4 and worked < _DEEP:
        i = heapq.heappop(queue)
        if i in done:
            continue
        done.add(i)
        operation = tape.operations[i]
        touched = {
            v: at[v, i] if (v, i) in at else changed[v] for v in operation.inputs if (v, i) in at or v in changed
        }
        others = [value for value in operation.inputs if value not in touched]
        if any(value not in tape.arrays or _open(tape, value, agreed) for value in others):
            continue  # something else that differs comes into it
        try:
            outputs = port.evaluate(i, [touched[v] if v in touched else tape.arrays[v] for v in operation.inputs])
        except (TypeError, ValueError):  # it does not take a value of this shape
            return count
        if operation.name not in MOVES:
            for value, output in zip(operation.outputs, outputs, strict=True):
                parts = together[0].parts(output)
                given = own if len(own) == len(parts) and value not in tape.outcomes else [None] * len(parts)
                # Of the rows of several calls, each way on may take those of one, and mask the others.
                telling = [pair for pair in zip(parts, given, strict=True) if len(parts) == 1 or not are_alike(pair[0])]
                if telling and all(_is_new(part, passed, unmatched) for part, passed in telling):
                    count += 1
                    break
            if count == _TELLING:
                return count
            worked += 1
        changed.update(zip(operation.outputs, outputs, strict=True))
        for value in operation.outputs:
            for taker in tape.consumers.get(value, ()):
                heapq.heappush(queue, taker)
    return count


def _open(tape: Tape, value: int, agreed: Set[int]) -> bool:
    return value not in agreed and tape.values[value].kind == "f" and tape.values[value].size > 1


def _is_new(array: np.ndarray, own: Fingerprint | None, pool: Pool) -> bool:
    """Whether an array is one of the pool's values, and not just what was put in, passed on."""
    kept = fingerprint(array)
    if kept.constant and kept.size > 1:  # zeros may be anything's
        return False
    return any(pool.like(kept)) and (own is None or not likeness(own, kept))
