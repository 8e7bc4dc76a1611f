"""Names an operation that only one side has, and one that is another or takes its operands the other way round."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..alignment.gradients import is_largest
from ..alignment.proof.layouts import layouts
from ..alignment.repair import MOVES
from ..report.entries import Finding
from .cut import HUGE, Cut, apart, literals_of
from .words import neat, plain, told

_MOST = 24  # operations of each side that are looked at
_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
_DOES = {"add": "add", "sub": "subtract", "mul": "multiply by", "div": "divide by"}
_THIRD = {
    "add": "adds", "sub": "subtracts", "mul": "multiplies by", "div": "divides by", "max": "takes the larger of",
    "min": "takes the smaller of", "neg": "changes the sign of", "clamp": "clips", "add_any": "adds",
}  # fmt: skip
_CLIPS = {"max", "min", "clamp"}
_TELLING = 8  # numbers that do not come out by chance
_ALMOST_ONE = 1e-3
_SHAPED = 16  # operations that may all be too many


def extra_causes(cut: Cut) -> Iterator[Finding]:
    """Yields an operation of the port without which the reference's value comes out."""
    for i in reversed(cut.working[-_MOST:]):
        operation = cut.port.operations[i]
        made = operation.outputs[0]
        if operation.name == "select_n" and cut.port.values[made].size == 1:
            continue  # one of two numbers
        if _is_stabiliser(cut, i):
            continue
        for value in operation.inputs:
            array = cut.port.arrays.get(value)
            if array is None or array.shape != cut.port.values[made].shape:
                continue
            if cut.works({made: array}):
                yield replace(_exchanged(cut, i) or _extra(cut, i, value), operation=i)
                return
    given = [value for value in cut.theirs_given if cut.gives(cut.port.arrays.get(value))]
    if given and len(cut.working) <= _SHAPED:
        names = [cut.port.operations[i].name for i in cut.working]
        if names and set(names) <= _CLIPS:
            yield _clipped(cut, cut.working)
        elif names:
            words = ", ".join(dict.fromkeys(map(plain, names)))
            text = f"the port has operations more, which the reference does not: {words}"
            yield Finding(text, certain=len(names) == 1, kind="extra")


def _is_stabiliser(cut: Cut, i: int) -> bool:
    """Whether an operation takes off the largest number, as a softmax does: it is the same without."""
    operation = cut.port.operations[i]
    return operation.name == "sub" and is_largest(operation.inputs[-1], cut.port)


def _exchanged(cut: Cut, i: int) -> Finding | None:
    """Returns that the reference goes on with what an operation gives when its operands are exchanged.

    A softmax is the same with the largest number taken off and without: that the operation can be left out says little.
    """
    operation, operands = cut.port.operations[i], cut.operands(i)
    if operation.name not in ("sub", "div") or operands is None or len(operands) != 2:
        return None
    with np.errstate(all="ignore"):
        other = _BINARY[operation.name](operands[1], operands[0])
    for j in cut.after():
        for value in cut.reference.operations[j].outputs:
            array = cut.reference.arrays.get(value)
            if array is None or array.size != other.size or array.size < _TELLING:
                continue
            for turned in layouts(np.asarray(array, np.float64), other.shape):
                if apart(turned, other) <= 1e-9 * np.abs(other[np.abs(other) < HUGE]).max(initial=0.0):
                    verb = "subtracts" if operation.name == "sub" else "divides"
                    text = f"the port {verb} the other way round: exchange the operands of {operation.name}"
                    return Finding(text, kind="operands")
    return None


def _extra(cut: Cut, i: int, passed: int) -> Finding:
    operation = cut.port.operations[i]
    if operation.name == "neg":
        return Finding("the port changes the sign, which the reference does not", kind="sign")
    if operation.name in _CLIPS:
        near = [j for j in cut.working if cut.port.operations[j].name in _CLIPS]
        return _clipped(cut, near)
    if any(_hides(cut.port.arrays.get(value)) for value in operation.inputs if value != passed):
        return Finding("the port's mask hides what the reference takes: it has none here", kind="mask")
    literals = [neat(number) for number in literals_of(cut.port, i).values()]
    others = [_number(cut, value) or told(cut.port, value) for value in operation.inputs if value != passed]
    verb = _THIRD.get(operation.name)
    if verb is None or not (literals or others):
        return Finding(f"the port applies {plain(operation.name)}, which the reference does not", kind="extra")
    return Finding(
        f"the port {verb} {(literals or others)[0]}, which the reference does not: leave it out", kind="extra"
    )


def _hides(array: np.ndarray | None) -> bool:
    """Whether numbers are so large that they hide a position in a softmax."""
    return array is not None and array.dtype.kind == "f" and bool((np.abs(array) > HUGE).any())


def _number(cut: Cut, value: int) -> str:
    array = cut.port.arrays.get(value)
    return neat(float(array.item())) if array is not None and array.size == 1 else ""


def _clipped(cut: Cut, operations: list[int]) -> Finding:
    operands = [operand for i in operations for operand in cut.operands(i) or ()]
    bounds = sorted(float(operand.item()) for operand in operands if operand.size == 1)
    where = f" to {neat(bounds[0])} and {neat(bounds[-1])}" if len(bounds) > 1 else ""
    return Finding(f"the port clips{where}, which the reference does not: leave it out", kind="extra")


def missing_causes(cut: Cut) -> Iterator[Finding]:
    """Yields an operation that the reference has, and that gives its value when the port has it, too."""
    applied = [(cut.exchange.port, cut.own)]
    for i in cut.working[-_MOST:]:
        for value in (*cut.port.operations[i].inputs, *cut.port.operations[i].outputs):
            array = cut.port.arrays.get(value)
            if array is not None and array.dtype.kind == "f" and array.size > 1:
                applied.append((value, np.asarray(array, np.float64)))
    applied = list({value: (value, array) for value, array in applied}.values())
    for j in reversed(cut.ours[-_MOST:]):
        operation = cut.reference.operations[j]
        name = plain(operation.name)
        if name not in _DOES:
            continue
        for words, other, what in _operands_of(cut, j):
            if name in ("mul", "div") and np.abs(other - 1).max(initial=0.0) < _ALMOST_ONE:
                continue  # the epsilon in a norm of fresh statistics: its factor is there, and is one
            for value, array in applied:
                if _does_so(cut, value, name):
                    continue  # with another number, which says more
                for made in _applied(name, array, other):
                    fits = cut.gives(made) if value == cut.exchange.port else cut.works({value: made})
                    if fits:
                        yield _missing(name, words, what)
                        return


def _does_so(cut: Cut, value: int, name: str) -> bool:
    """Whether the port goes on from a value with an operation of that name."""
    takers = (cut.port.operations[i] for i in cut.working if value in cut.port.operations[i].inputs)
    return any(plain(operation.name) == name for operation in takers)


def _operands_of(cut: Cut, j: int) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yields what goes into an operation of the reference: in words, as the port has it, and what it is."""
    operation = cut.reference.operations[j]
    numbers = [v for n, v in operation.constants.items() if n in ("other", "self") and isinstance(v, int | float)]
    for number in numbers:
        yield neat(float(number)), np.asarray(float(number)), "constant"
    for value in reversed(operation.inputs):
        words = told(cut.reference, value)
        kind = words.split(" ")[1] if words.startswith("the ") else "value"
        for array in cut.arrays_like(value):
            yield words, array, kind


def _applied(name: str, array: np.ndarray, other: np.ndarray) -> Iterator[np.ndarray]:
    with np.errstate(all="ignore"):
        try:
            made = _BINARY[name](array, other)
        except ValueError:  # shapes that do not go together
            return
    if made.shape == array.shape:
        yield made


def _missing(name: str, words: str, what: str) -> Finding:
    does = _DOES[name]
    text = f"the port does not {does} {words}, which the reference does"
    if name == "add" and what == "parameter":
        return Finding(f"{text}: add it, as with use_bias=True", kind="missing")
    if name == "mul" and what == "parameter":
        return Finding(f"{text}: multiply by it, as with use_scale=True", kind="missing")
    if name == "add" and what == "value":
        return Finding(f"{text}: add it (a skip connection, a position, a bias)", kind="missing")
    return Finding(text, kind="missing")


def lacking_causes(cut: Cut) -> Iterator[Finding]:
    """Yields what the reference does between two values that the port has one after the other."""
    working = [i for i in cut.ours if cut.reference.operations[i].name not in MOVES]
    if cut.theirs or not working or len(working) > _SHAPED:
        return
    passed = set(cut.partners.of_port.get(cut.exchange.port, ()))
    leaves = set(cut.reference.leaves.values())
    if not passed.intersection(cut.ours_given) or set(cut.ours_given) - passed - leaves:
        return  # it is made of other values, too
    modules = {cut.reference.operations[i].module for i in working}
    classes = cut.reference.metadata.get("modules", {})
    module = modules.pop() if len(modules) == 1 else ""
    if (
        len(working) > 1
        and module in classes
        and not any(name.startswith(f"{module}.") for name in classes)
        and not _goes_on(cut, working[0], module)
    ):
        yield Finding(
            f"the port does not apply `{module}` ({classes[module]}), which the reference does", kind="missing"
        )
        return
    names = [plain(cut.reference.operations[i].name) for i in working]
    if len(working) == 1 and names[0] in ("neg", "reciprocal"):
        return
    words = ", ".join(dict.fromkeys(names))
    if "rsqrt" in names and {"sum", "mean"} & set(names):
        words = f"a normalisation ({words})"
    text = f"the port does not do what the reference does here: {words}"
    yield Finding(text, certain=len(working) == 1, kind="missing")


def _goes_on(cut: Cut, first: int, module: str) -> bool:
    """Whether a module of the reference has computed something right before an operation of its own."""
    before = itertools.takewhile(lambda i: cut.reference.operations[i].module == module, range(first - 1, -1, -1))
    return any(cut.reference.operations[i].name not in MOVES for i in before)


def operand_causes(cut: Cut) -> Iterator[Finding]:
    """Yields an operation of the port that takes its operands the other way round, or that is another one."""
    known = list(_of_two(cut))
    for i, a, b in known:
        operation = cut.port.operations[i]
        with np.errstate(all="ignore"):
            if operation.name in ("sub", "div") and cut.works({operation.outputs[0]: _BINARY[operation.name](b, a)}):
                verb = "subtracts" if operation.name == "sub" else "divides"
                text = f"the port {verb} the other way round: exchange the operands of {operation.name}"
                yield Finding(text, kind="operands", operation=i)
                return
    ours = {plain(cut.reference.operations[i].name) for i in cut.ours}
    for i, a, b in known:
        operation = cut.port.operations[i]
        is_told = cut.port.values[operation.outputs[0]].size >= _TELLING
        if operation.name in ("add", "sub") and min(np.size(a), np.size(b)) == 1:
            continue  # another number says the same
        for name, function in _BINARY.items():
            if name == operation.name or not (is_told or plain(_TORCH.get(name, name)) in ours):
                continue
            with np.errstate(all="ignore"):
                made = function(a, b)
            if cut.works({operation.outputs[0]: made}):
                text = f"the port {_THIRD[operation.name]} where the reference {_THIRD[name]}"
                yield Finding(text, kind="operation", operation=i)
                return


def _of_two(cut: Cut) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields the port's operations of two operands, the last first, and their operands."""
    for i in reversed(cut.working[-_MOST:]):
        operation, operands = cut.port.operations[i], cut.operands(i)
        if operation.name not in _BINARY or operands is None or len(operands) != 2 or _is_stabiliser(cut, i):
            continue
        if cut.port.values[operation.outputs[0]].size > 1:
            yield i, operands[0], operands[1]


_TORCH = {"max": "maximum", "min": "minimum"}
