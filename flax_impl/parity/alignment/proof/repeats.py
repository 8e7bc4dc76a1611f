"""Finds what a step does again, in each iteration of a loop or on the way back, to put a value in everywhere."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch_ref.common.tape.tape import Operation, Tape

from ..partners import Partners
from ..repair import Exchange, put_in
from .layouts import layouts
from .picks import Picks

_T = TypeVar("_T")
_SLICE = "scan.slice"  # a row of what a scan goes through
# Many values are tried at the same operations.
_KNOWN: "WeakKeyDictionary[Tape, dict[int, list[int]]]" = WeakKeyDictionary()


def everywhere(exchange: Exchange, partners: Partners) -> list[Exchange]:
    """Returns an exchange for each iteration of a loop, and each time that a port computes a value.

    It may do so again on the way back.

    Args:
        exchange: it.
        partners: the two tapes.
    """
    calls = [exchange] if exchange.alone else _in_all_iterations(exchange, partners)
    return [again for e in calls for again in _recomputed(e, partners.port)]


def at_other_calls(exchange: Exchange, partners: Partners) -> list[Exchange]:
    """Returns an exchange for each further call of the lines that it stands in, as where all layers share a function.

    None where the two sides do not call theirs equally often.

    Args:
        exchange: it.
        partners: the two tapes.
    """
    reference, picks = partners.reference, Picks.of(partners.reference)
    ours = _at_each_call(exchange.reference, reference)
    if exchange.rows:  # torch may call more than it uses
        ours = [value for value in ours if value in picks.rows]
    first: list[int] = []  # where the same lines run for some rows, and then for others, that may be one
    for value in ours:
        if len(exchange.rows) < 2 or not set(first).intersection(picks.twins(value)):
            first.append(value)
    theirs, place = _places_at_each_call(exchange, partners.port), (exchange.port, exchange.takers)
    if place not in theirs or exchange.reference not in first:
        return []
    own = _kind(exchange.reference, reference)
    alike = [value for value in first if _kind(value, reference) == own]
    if len(alike) == len(theirs):  # the port's line is that of one module only, as of one head
        first = alike
    calls = min(len(first), len(theirs))
    first = _one_of_each_call(first, first.index(exchange.reference), calls)
    theirs = _one_of_each_call(theirs, theirs.index(place), calls)
    if len(first) != len(theirs) or first.index(exchange.reference) != theirs.index(place):
        return []
    if any(value not in reference.arrays for value in first):
        return []
    found: list[Exchange] = []
    for value, (other, takers) in zip(first, theirs, strict=True):
        if other != exchange.port:
            made = (e for e in put_in(partners, value, other, takers) if len(e.rows) <= len(exchange.rows))
            if (again := next(made, None)) is None:
                return []
            found.append(again)
    return found


def _kind(value: int, tape: Tape) -> tuple[str, tuple[int, ...]]:
    """Returns the module that a value is made in, and its shape but for the rows."""
    made_by = tape.producers.get(value)
    return "" if made_by is None else tape.operations[made_by].module, tape.values[value].shape[1:]


def _one_of_each_call(values: list[_T], own: int, calls: int) -> list[_T]:
    """Returns the values of so many calls, which may have several each, that stand where one of them does."""
    in_each, rest = divmod(len(values), calls)
    return values if rest else values[own % in_each :: in_each]


def _places_at_each_call(exchange: Exchange, tape: Tape) -> list[tuple[int, frozenset[int] | None]]:
    """Returns the port's value, and the operations that get it, at each call of their lines."""
    if exchange.takers is None:
        return [(value, None) for value in _at_each_call(exchange.port, tape)]
    taking = [_calls_of(taker, tape) for taker in sorted(exchange.takers)]
    if not taking or len({len(calls) for calls in taking}) != 1:
        return []
    place = tape.operations[min(exchange.takers)].inputs.index(exchange.port)
    return [(tape.operations[calls[0]].inputs[place], frozenset(calls)) for calls in zip(*taking, strict=True)]


def _at_each_call(value: int, tape: Tape) -> list[int]:
    """Returns what a value is wherever its line runs."""
    made_by = tape.producers.get(value)
    if made_by is None:
        return [value]
    place, axes = tape.operations[made_by].outputs.index(value), len(tape.values[value].shape)
    made = [tape.operations[i].outputs[place] for i in _calls_of(made_by, tape)]
    return [other for other in made if len(tape.values[other].shape) == axes]


def _calls_of(operation: int, tape: Tape) -> list[int]:
    """Returns an operation and those alike in other calls of its line; forward ones only, if it is one."""
    own = tape.operations[operation]
    if not own.lines:
        return [operation]
    looked_at = tape.forward if operation in tape.forward else range(len(tape.operations))  # JAX differentiates early
    call = _call(own)
    return [i for i in looked_at if _call(tape.operations[i]) == call]


def _call(operation: Operation) -> tuple[object, ...]:
    """Returns what is the same in all calls of a line."""
    return operation.name, operation.lines[:1], operation.backward, operation.constants, len(operation.outputs)


def _recomputed(exchange: Exchange, tape: Tape) -> list[Exchange]:
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
    return [replace(exchange, port=number) for number in {exchange.port, *again}]


def _in_all_iterations(exchange: Exchange, partners: Partners) -> list[Exchange]:
    """Returns an exchange for each iteration of the loop that it is in; only itself where it is in none.

    One alone mends one iteration, and shows little.
    """
    port = partners.port
    made_by = port.producers.get(exchange.port)
    own = iterations(port, made_by) if made_by is not None else []
    takers = [iterations(port, taker) for taker in sorted(exchange.takers or ())]
    times = max(map(len, [own, *takers]), default=0)
    if times < 2 or any(len(of) != times for of in takers) or len(own) not in (0, 1, times):
        return [exchange]
    here = own.index(made_by) if made_by is not None and len(own) == times else _first_index(exchange, takers)
    twins = _repeated(exchange.reference, partners.reference, times, here)
    shape = port.values[exchange.port].shape
    array = partners.reference.arrays.get(exchange.reference)
    turns = [] if array is None else [(turned == exchange.array).all() for turned in layouts(array, shape)]
    if not twins or True not in turns or not partners.reference.arrays.keys() >= set(twins):
        return [exchange]
    found = []
    for k, twin in enumerate(twins):
        number = exchange.port
        if len(own) == times and made_by is not None:
            number = port.operations[own[k]].outputs[port.operations[made_by].outputs.index(exchange.port)]
        turned = list(layouts(partners.reference.arrays[twin], shape))[turns.index(True)]
        at = None if exchange.takers is None else frozenset(of[k] for of in takers)
        found.append(replace(exchange, reference=twin, port=number, takers=at, array=turned))
    return found


def iterations(tape: Tape, operation: int) -> list[int]:
    """Returns what an operation is in each iteration of its loop, or each call of its module, in order.

    One that is not run again is returned alone.

    Args:
        tape: of JAX.
        operation: its number.
    """
    known = _KNOWN.setdefault(tape, {})
    if operation not in known:
        known[operation] = _iterations(tape, operation)
    return known[operation]


def _iterations(tape: Tape, operation: int) -> list[int]:
    own = tape.operations[operation]
    if own.name != _SLICE and "[" not in own.module:
        return _calls(tape, operation)
    by_iteration: dict[str, list[int]] = {}
    for i, other in enumerate(tape.operations):
        if other.name == own.name and other.lines == own.lines and _loop(other) == _loop(own):
            by_iteration.setdefault(_iteration(other), []).append(i)
    rank = by_iteration[_iteration(own)].index(operation)
    return [of[rank] for of in by_iteration.values() if len(of) > rank]


def _calls(tape: Tape, operation: int) -> list[int]:
    """Returns what an operation is in each call of the lines that it stands in: they run alike each time."""
    own = tape.operations[operation]
    alike = [
        i
        for i, other in enumerate(tape.operations)
        if other.lines == own.lines and other.module == own.module and other.backward == own.backward
    ]
    names = [(tape.operations[i].name, *(tape.values[v].shape for v in tape.operations[i].outputs)) for i in alike]
    size = next(n for n in range(1, len(names) + 1) if not len(names) % n and names == names[:n] * (len(names) // n))
    return alike[alike.index(operation) % size :: size] if own.lines else [operation]


def _loop(operation: Operation) -> tuple[str, Sequence[int]]:
    """Returns what is the same in all iterations."""
    return re.sub(r"\[\d+\]", "[]", operation.module), operation.inputs if operation.name == _SLICE else ()


def _iteration(operation: Operation) -> str:
    return f"{operation.module} {operation.constants['index']}" if operation.name == _SLICE else operation.module


def _first_index(exchange: Exchange, takers: Sequence[list[int]]) -> int:
    return next(of.index(taker) for of in takers for taker in exchange.takers or () if taker in of)


def _repeated(value: int, tape: Tape, times: int, here: int) -> list[int]:
    """Returns what a value of the reference is in each of so many iterations; it need not know that it is a loop.

    Args:
        value: of the reference.
        tape: the reference's.
        times: how many iterations there are.
        here: the one that the value is of.
    """
    made_by = tape.producers.get(value)
    if made_by is None:
        return [value] * times
    own = tape.operations[made_by]
    if len(own.outputs) == times and own.outputs.index(value) == here:  # the steps of a sequence, unbound
        return list(own.outputs)
    place, shape = own.outputs.index(value), tape.values[value].shape
    alike = [
        i
        for i, other in enumerate(tape.operations)
        if other.name == own.name and other.lines == own.lines and other.backward == own.backward
        if len(other.outputs) > place and tape.values[other.outputs[place]].shape == shape
    ]
    in_each, rest = divmod(len(alike), times)
    rank = alike.index(made_by) - here * in_each
    if rest or not 0 <= rank < in_each:
        return []
    return [tape.operations[i].outputs[place] for i in alike[rank::in_each]]
