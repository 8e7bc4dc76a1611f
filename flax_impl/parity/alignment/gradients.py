"""Finds where one side stops a gradient that the other lets through."""

import re
from collections.abc import Iterable

from torch_ref.common.tape.tape import Tape

from .partners import Partners
from .place import Place
from .repair import MOVES

_FAR = 60  # values upstream among which a stopped gradient is looked for


def without_gradient(backward: int, port: Place, partners: Partners) -> int | None:
    """Returns the port's operation that no gradient comes back from, where the reference's has one.

    Args:
        backward: number of the reference's operation on the way back.
        port: where the port's gradients differ first.
        partners: the two tapes.
    """
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
    factors = [
        set(partners.of_reference[value])
        for value in dict.fromkeys(of_reference.inputs)
        if value in partners.of_reference and partners.reference.values[value].size > 1
    ]
    if len(factors) > 1:  # with the gradient among them: the port has an operation of the same, or none
        if any(all(twins.intersection(other.inputs) for twins in factors) for other in tape.operations):
            return None
    elif _comes_back(found, port, tape):
        return None
    return next((i for i in reversed(_around(found, tape)) if same.intersection(tape.operations[i].inputs)), found)


def silenced(partners: Partners, theirs: Iterable[int]) -> int | None:
    """Returns the port's operation that stops all gradients to parameters which get none; None where none does.

    Where the port stops a gradient at one place only, and the reference at none, that is the place, too.

    Args:
        partners: the two tapes.
        theirs: numbers of the port's gradients that differ.
    """
    tape = partners.port
    wrong, leaves = set(theirs), {name.partition("/")[2]: number for name, number in tape.leaves.items()}
    named = [(name.partition("/")[2], n) for name, n in tape.results.items() if name.startswith("grad/")]
    silent = [leaves[name] for name, n in named if n in wrong and tape.values[n].scale == 0 and name in leaves]
    stops = [i for i, of in enumerate(tape.operations) if of.name == "stop_gradient" and not of.backward]
    stops = [i for i in stops if not is_largest(tape.operations[i].inputs[0], tape)]
    detached = any(of.name == "aten.detach" and not of.backward for of in partners.reference.operations)
    if len(stops) == 1 and not detached:
        return stops[0]
    for i in stops:
        given = {value for j in tape.upstream(tape.operations[i].inputs) for value in tape.operations[j].inputs}
        if silent and given.issuperset(silent):
            return i
    return None


def detached(partners: Partners, theirs: Iterable[int]) -> tuple[int, int] | None:
    """Returns the reference's `detach` that the port does not have, and the port's operation that gives what it takes.

    All gradients that differ must be of what lies before it: it changes no others.

    Args:
        partners: the two tapes.
        theirs: numbers of the port's gradients that differ.
    """
    reference, port = partners.reference, partners.port
    wrong = {n for n in theirs if port.values[n].scale > 0}
    leaves = {name.partition("/")[2]: number for name, number in port.leaves.items()}
    named = [name.partition("/")[2] for name, n in port.results.items() if n in wrong]
    differing = {leaves[name] for name in named if name in leaves}
    found = []
    for i, operation in enumerate(reference.operations):
        if operation.name != "aten.detach" or operation.backward or not operation.lines:
            continue
        twins = partners.of_reference.get(operation.inputs[0], ())
        made_by = [port.producers[twin] for twin in twins if twin in port.producers]
        takers = [port.operations[taker].name for twin in twins for taker in port.consumers.get(twin, ())]
        if not made_by or "stop_gradient" in takers:
            continue
        before = {n for j in port.upstream(twins) for n in port.operations[j].inputs}
        if differing and differing <= before:
            found.append((i, made_by[0]))
    lines = {reference.operations[i].lines[:1] for i, _ in found}
    return found[-1] if len(lines) == 1 else None  # of several layers the last: nearest to the loss


def stopped(missing: int, reference: Place, port: Place, partners: Partners) -> tuple[Place, Place]:
    """Returns the places for an operation that no gradient comes back from: where the port stops it, if it says so.

    Args:
        missing: number of that operation of the port.
        reference: where the reference's gradients differ first.
        port: the same of the port.
        partners: the two tapes.
    """
    tapes = partners.reference, partners.port
    stop = _stop_before(missing, partners)
    if stop is None:
        return reference, Place(missing, (port.first, *port.others), port.cone)
    twins = [twin for value in tapes[1].operations[stop].inputs for twin in partners.of_port.get(value, ())]
    made = {tapes[0].operations[i].lines for twin in twins if (i := tapes[0].producers.get(twin)) is not None}
    back = [i for i in reference.cone if tapes[0].operations[i].lines in made]
    first = next(iter(back), reference.first)
    return reference.led_by(first), Place(stop, (missing, port.first, *port.others), port.cone)


def _stop_before(operation: int, partners: Partners) -> int | None:
    """Returns the nearest operation, right after or upstream, that stops gradients; those of a softmax do not count."""
    tape = partners.port
    if tape.operations[operation].name == "stop_gradient":
        return operation
    after = list(tape.operations[operation].outputs)
    while after:
        takers = tape.consumers.get(after.pop(), ())
        if stops := [i for i in takers if tape.operations[i].name == "stop_gradient"]:
            return stops[0]
        after += [v for i in takers if tape.operations[i].name in MOVES for v in tape.operations[i].outputs]
    queue, seen = list(tape.operations[operation].inputs), set()
    while queue and len(seen) < _FAR:
        value = queue.pop(0)
        made_by = tape.producers.get(value)
        if value in seen or made_by is None:
            continue
        seen.add(value)
        found = tape.operations[made_by]
        if found.name == "stop_gradient" and not is_largest(found.inputs[0], tape):
            return made_by
        queue += found.inputs
    return None


def is_largest(value: int, tape: Tape) -> bool:
    """Returns whether a value is a maximum over an axis, passed on.

    Args:
        value: its number.
        tape: that it is of.
    """
    while (made_by := tape.producers.get(value)) is not None:
        operation = tape.operations[made_by]
        if operation.name == "reduce_max":
            return True
        if operation.name not in (*MOVES, "max") or not operation.inputs:
            return False
        value = operation.inputs[0]
    return False


def _comes_back(forward: int, port: Place, tape: Tape) -> bool:
    """Whether one of the operations that differ belongs to a forward one."""
    operation = tape.operations[forward]
    taken = {value for value in operation.inputs if tape.values[value].kind == "f"}
    return any(
        taken.intersection(other.inputs)  # a product's derivative takes its other factor
        or (other.lines == operation.lines and _plain_stack(other.module) == _plain_stack(operation.module))
        for other in (tape.operations[i] for i in port.cone)
        if other.backward
    )


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
