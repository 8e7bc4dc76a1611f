"""Puts values, numbers and factors into words."""

import math
from collections.abc import Iterable

from torch_ref.common.tape.tape import Operation, Tape

from ..alignment.proof.picks import PICKS
from ..alignment.repair import MOVES

_CLOSE = 1e-8
_LONGEST = 80  # characters of a line
_WHOLE = 1e6  # whole numbers below are written out


def neat(number: float) -> str:
    """Returns a number in as few digits as say it.

    Args:
        number: any.

    Example:
        >>> neat(0.49999999999), neat(1 / 3)
        ('0.5', '0.33333333')
    """
    for digits in range(1, 9):
        text = f"{number:.{digits}g}"
        if abs(float(text) - number) <= _CLOSE * abs(number):
            return f"{number:g}" if number == round(number) and abs(number) < _WHOLE else text.replace("e-0", "e-")
    return f"{number:.6g}"


def is_neat(number: float, digits: int = 4) -> bool:
    """Returns whether a number has few digits, as people write them."""
    return abs(float(f"{number:.{digits}g}") - number) <= _CLOSE * abs(number)


def told(tape: Tape, value: int) -> str:
    """Returns what a value is: a parameter, an input, or what a line gives."""
    names = {number: name for name, number in tape.leaves.items()}
    while value not in names:
        made_by = tape.producers.get(value)
        if made_by is None:
            return "a constant"
        operation = tape.operations[made_by]
        if (operation.name not in MOVES | PICKS and not _is_masked(tape, operation)) or not operation.inputs:
            return f"what {line_of(operation)} gives" if operation.lines else f"the {plain(operation.name)}"
        value = operation.inputs[0] if operation.name != "select_n" else operation.inputs[-1]
    kind, _, name = names[value].partition("/")
    words = {"param": "the parameter", "buffer": "the buffer", "input": "the input"}
    return f"{words.get(kind, 'the')} `{name}`"


def inputs_behind(tape: Tape, value: int) -> str:
    """Returns the names of the floating inputs that a value comes from."""
    behind = {value, *(v for i in tape.upstream([value]) for v in tape.operations[i].inputs)}
    inputs = {n: name.partition("/")[2] for name, n in tape.leaves.items() if name.startswith("input/")}
    names = [name for n, name in inputs.items() if n in behind and tape.values[n].kind == "f"]
    return " and ".join(f"`{name}`" for name in sorted(names)) or "no input"


def _is_masked(tape: Tape, operation: Operation) -> bool:
    """Whether an operation only replaces some numbers of a value by one number."""
    if operation.name != "select_n" or len(operation.inputs) < 2:
        return False
    return all(tape.values[value].constant or tape.values[value].kind == "b" for value in operation.inputs[:-1])


def line_of(operation: Operation) -> str:
    """Returns the text of an operation's line, the beginning of a long one."""
    line = operation.lines[0] if operation.lines else None
    text = "" if line is None else line.text or f"{line.file}:{line.number}"  # where there is no source to be read
    return f"`{text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}`"


def plain(name: str) -> str:
    """Returns the name of an operation without what torch or JAX put around it."""
    name = name.removeprefix("aten.").removeprefix("prims.").removeprefix("reduce_").strip("_")
    return _PLAIN.get(name, name)


def meaning(factor: float, lengths: Iterable[int]) -> str:
    """Returns what a factor may be, in words; an empty text where that is open.

    Args:
        factor: that the port's value is too large by.
        lengths: of the axes around.
    """
    for length in sorted({length for length in lengths if length > 1}):
        for number, text in (
            (math.sqrt(length), f"the square root of {length}"),
            (1 / math.sqrt(length), f"one over the square root of {length}"),
            (length, f"{length}, the length of an axis"),
            (1 / length, f"one over {length}, the length of an axis"),
            (length / (length - 1), f"n / (n - 1) for n = {length}, an unbiased variance for a biased one"),
            ((length - 1) / length, f"(n - 1) / n for n = {length}, a biased variance for an unbiased one"),
        ):
            if abs(factor - number) <= _CLOSE * number and not is_neat(factor, 1):
                return text
    return ""


_PLAIN = {
    "logistic": "sigmoid",
    "log_softmax": "log of a softmax",
    "amax": "maximum",
    "max": "maximum",
    "min": "minimum",
    "clamp": "clip",
    "integer_pow": "power",
    "pow": "power",
    "rev": "reversal",
    "permute": "transpose",
    "dot_general": "product",
    "mm": "product",
    "bmm": "product",
}
