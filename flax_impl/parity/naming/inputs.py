"""Names another weight or another value that goes in, and operands of a product that are turned or exchanged."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ..alignment.divergence import Divergence
from ..alignment.proof.layouts import layouts
from ..alignment.proof.picks import Picks
from ..alignment.repair import Runnable
from ..alignment.slices import is_joined
from ..report.entries import Finding
from .cut import Cut
from .words import inputs_behind, told

_MOST = 24
_PRODUCTS = ("dot_general", "conv_general_dilated")


def input_causes(cut: Cut) -> Iterator[Finding]:
    """Yields an agreed value of the port in whose place another, which the reference takes, gives its value."""
    taken = set(cut.theirs_given)
    twins = {twin for value in taken for twin in cut.partners.of_port.get(value, ())}
    others = [value for value in cut.ours_given if value not in twins]
    for i in reversed(cut.working[-_MOST:]):
        for value in cut.port.operations[i].inputs:
            own = cut.port.arrays.get(value)
            if own is None or own.dtype.kind != "f" or own.size < 2:
                continue
            for other in others:
                for array in cut.arrays_like(other):
                    if array.shape == own.shape and cut.works({value: array}):
                        yield from _taken(cut, value, other)
                        return


def unused_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a parameter or buffer of the port that is used nowhere, and gives the reference's value when it is."""
    tape = cut.port
    used = {value for i in tape.forward for value in tape.operations[i].inputs}
    unused = [n for name, n in tape.leaves.items() if name.startswith(("param/", "buffer/")) and n not in used]
    values = dict.fromkeys(v for i in cut.working for v in (*tape.operations[i].inputs, *tape.operations[i].outputs))
    for leaf in unused[:_MOST]:
        own = np.asarray(tape.arrays[leaf], np.float64)
        for value in (*values, cut.exchange.port):
            array = tape.arrays.get(value)
            if array is None or array.dtype.kind != "f" or array.ndim == 0 or array.size < 2:
                continue
            for shaped in (own, own.reshape(-1)):
                for function, words in ((np.add, "add"), (np.multiply, "multiply by")):
                    try:
                        made = function(array, shaped)
                    except ValueError:  # shapes that do not go together
                        continue
                    at_end = value == cut.exchange.port
                    if made.shape == array.shape and (cut.gives(made) if at_end else cut.works({value: made})):
                        text = f"the port does not {words} {told(tape, leaf)}, which the reference does: it is unused"
                        yield Finding(text, kind="missing", operation=_taking(cut, value))
                        return


def taken_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that an operation of the port takes another value than the reference's, where both have the two."""
    exchange, partners = cut.exchange, cut.partners
    if exchange.takers is None or cut.further or exchange.port not in partners.of_port:
        return
    if exchange.reference in partners.of_reference and exchange.port not in partners.of_reference[exchange.reference]:
        yield from _taken(cut, exchange.port, exchange.reference)


def weight_causes(divergence: Divergence, port: Runnable) -> Iterator[Finding]:
    """Yields that the port puts a value through another weight than the reference does, as of another layer.

    Args:
        divergence: the place.
        port: runs the product with the other weight.
    """
    partners, reference, place = divergence.partners, divergence.reference, divergence.port
    if partners is None or reference is None or place is None:
        return
    ours, theirs = partners.reference.operations[reference.first], partners.port.operations[place.first]
    arrays, wanted = partners.port.arrays, partners.reference.arrays.get(ours.outputs[0])
    if theirs.name not in _PRODUCTS or wanted is None or len(theirs.inputs) != 2:
        return
    rows = Picks.of(partners.reference).rows.get(ours.outputs[0])

    def of_rows(array: np.ndarray) -> np.ndarray:
        return array if rows is None or len(array) != rows.length else array[rows.numbers]

    for (x, weight), (at, (taken, own)) in itertools.product(_both(ours.inputs), enumerate(_both(theirs.inputs))):
        twins, given = partners.of_reference.get(weight, ()), partners.reference.arrays.get(x)
        if given is None or taken not in arrays or own in twins or not _is_near(given, of_rows(arrays[taken])):
            continue
        if not all(
            told(*of).startswith("the parameter") for of in ((partners.port, own), (partners.reference, weight))
        ):
            continue
        for twin in twins:
            if own in arrays and twin in arrays and arrays[twin].shape == arrays[own].shape:
                operands = [arrays[taken], arrays[twin]][:: -1 if at else 1]
                made = of_rows(port.evaluate(place.first, operands)[0])
                if _is_near(wanted, made):
                    words = told(partners.port, own), told(partners.reference, weight)
                    text = f"the port takes {words[0]} where the reference takes {words[1]}"
                    yield Finding(f"{text}: the two layers are in another order, or swapped", kind="input")
                    return


def _both(inputs: Sequence[int]) -> list[tuple[int, int]]:
    """Returns two inputs in either order."""
    return [(inputs[0], inputs[1]), (inputs[1], inputs[0])] if len(inputs) == 2 else []


def _is_near(a: np.ndarray, b: np.ndarray) -> bool:
    return any(_are_near(turned, b) for turned in layouts(a, b.shape)) if a.size == b.size else False


def _are_near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max(initial=0.0) <= 1e-9 * np.abs(b).max(initial=0.0))


def doubled_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that the port concatenates a value with itself, where the reference concatenates two."""
    made_by = cut.port.producers.get(cut.exchange.port)
    if made_by is None or cut.port.operations[made_by].name != "concatenate":
        return
    axis = cut.port.operations[made_by].constants.get("dimension")
    if axis is None or cut.own.shape[axis] % 2:
        return
    ours, wanted = np.split(cut.own, 2, axis), np.split(cut.wanted, 2, axis)
    for half, words in ((0, "first"), (1, "second")):
        if np.array_equal(ours[0], ours[1]) and np.allclose(ours[half], wanted[half], rtol=1e-9, atol=0.0):
            text = f"both halves of axis {axis} are the {words} one in the port: concatenate the two"
            yield Finding(text, kind="input", operation=made_by)
            return


def joined_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that the port concatenates another value than the reference does at one of the places."""
    for i in reversed(cut.working[-_MOST:]):
        operation, operands = cut.port.operations[i], cut.operands(i)
        if operation.name != "concatenate" or operands is None:
            continue
        ours = [cut.reference.operations[j] for j in cut.ours]
        joined = [v for of in ours if is_joined(cut.reference, of.outputs[0]) for v in of.inputs]
        for place, own in enumerate(operands):
            for other in dict.fromkeys((*cut.ours_given, *joined)):
                for array in cut.arrays_like(other):
                    if array.shape != own.shape:
                        continue
                    parts = [*operands[:place], array, *operands[place + 1 :]]
                    made = np.concatenate(parts, operation.constants["dimension"])
                    if cut.works({operation.outputs[0]: made}):
                        yield from _taken(cut, operation.inputs[place], other)
                        return


def _taken(cut: Cut, own: int, other: int) -> Iterator[Finding]:
    """Yields in words that the port takes a value of its own where the reference takes another."""
    words = told(cut.port, own), told(cut.reference, other)
    of = inputs_behind(cut.port, own), inputs_behind(cut.reference, other)
    if of[0] != of[1] and not any(text.startswith("the ") for text in words):
        words = tuple(f"{text} for {inputs}" for text, inputs in zip(words, of, strict=True))
    if words[0] != words[1]:  # of what is computed, another fault may be the reason
        given = all(text.startswith("the ") for text in words)
        yield Finding(f"the port takes {words[0]} where the reference takes {words[1]}", certain=given, kind="input")


def _taking(cut: Cut, value: int) -> int | None:
    """Returns the first operation of the cut that takes a value."""
    return next((i for i in cut.working if value in cut.port.operations[i].inputs), None)


def exchanged_causes(cut: Cut) -> Iterator[Finding]:
    """Yields two values that stand in each other's place in the port."""
    products = [i for i in cut.theirs if cut.port.operations[i].name == "dot_general"]
    if not products:
        return
    if cut.exchange.reference in cut.partners.of_reference and not cut.further:
        return
    for a, b in itertools.combinations(cut.theirs_given[:_MOST], 2):
        first, second = cut.port.arrays.get(a), cut.port.arrays.get(b)
        if first is None or second is None or first.shape != second.shape or first.size < 2:
            continue
        if cut.works({a: second, b: first}):
            text = f"the port takes {told(cut.port, a)} and {told(cut.port, b)} the other way round: exchange them"
            yield Finding(text, kind="input")
            return


def product_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a product of the port whose matrix must be transposed, where both axes are as long."""
    for i in reversed(cut.working[-_MOST:]):
        operation = cut.port.operations[i]
        if operation.name not in _PRODUCTS:
            continue
        for value in reversed(operation.inputs):
            array = cut.port.arrays.get(value)
            if array is None or array.ndim < 2:
                continue
            for a in range(array.ndim):
                for b in range(a):
                    turned = np.swapaxes(array, a, b)
                    if turned.shape == array.shape and cut.works({value: turned}):
                        text = f"the port takes {told(cut.port, value)} transposed: exchange its axes {b} and {a}"
                        yield Finding(text, kind="order")
                        return
