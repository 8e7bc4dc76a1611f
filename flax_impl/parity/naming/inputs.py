"""Names another weight or another value that goes in, and operands of a product that are turned or exchanged."""

import itertools
from collections.abc import Iterator

import numpy as np

from ..alignment.slices import is_joined
from ..report.entries import Finding
from .cut import Cut
from .words import inputs_behind, told

_MOST = 24


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
        if operation.name not in ("dot_general", "conv_general_dilated"):
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
