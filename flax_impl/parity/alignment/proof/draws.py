"""Puts what the reference drew at random in the place of what the port draws: the masks of dropout, noise."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from weakref import WeakKeyDictionary

import numpy as np

from torch_ref.common.tape.tape import Operation, Tape

from ..repair import MOVES, Exchange
from .layouts import layouts

_BELOW = {"lt", "le", "aten.lt", "aten.le"}
_ABOVE = {"gt", "ge", "aten.gt", "aten.ge"}
_MASKS = {"aten.bernoulli", "aten.bernoulli_", "aten.native_dropout"}
_NORMAL = {"aten.randn", "aten.randn_like", "aten.normal_", "aten.normal", "aten.normal_functional"}
_SCALES = {"aten.div", "aten.div_"}  # a mask by what is kept
# Many places of one pair are named.
_KNOWN: "WeakKeyDictionary[Tape, list[Draw]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Draw:
    """Numbers that a step draws.

    Args:
        value: their number on the tape: a mask, or the numbers before anything is made of them.
        kind: `mask`, `normal` or `uniform`.
        operation: the number of the operation that draws.
        size: how many they are, once they are spread.
        share: of a mask, how likely a one is; None where that is not a number of the program.
        spread: where a mask is shared, as by all heads: the value that meets what it hides, and the shape of that.
    """

    value: int
    kind: str
    operation: int
    size: int
    share: float | None = None
    spread: tuple[int, tuple[int, ...]] | None = None

    def place(self, tape: Tape) -> tuple[int, tuple[int, ...]]:
        """Returns the value to put another one in for, and its shape."""
        return self.spread or (self.value, tape.values[self.value].shape)


def draws(tape: Tape) -> list[Draw]:
    """Returns what the forward pass of a step draws, in order.

    Args:
        tape: of either framework.
    """
    if tape not in _KNOWN:
        forward = set(tape.forward)
        _KNOWN[tape] = [draw for draw in _all(tape) if draw.operation in forward]
    return _KNOWN[tape]


def paired(reference: Tape, port: Tape) -> list[tuple[Draw, Draw]]:
    """Returns which draw of the port is which of the reference: those of a kind and size, in order.

    Args:
        reference: one tape.
        port: another.
    """
    ours, theirs = draws(reference), draws(port)
    keys = [[(draw.kind, draw.size) for draw in side] for side in (ours, theirs)]
    blocks = SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks()
    return [(ours[block.a + i], theirs[block.b + i]) for block in blocks for i in range(block.size)]


def forced_draws(reference: Tape, port: Tape) -> list[Exchange]:
    """Returns exchanges that give the port what the reference drew.

    Args:
        reference: one tape, with what it drew kept.
        port: another.
    """
    found: list[Exchange] = []
    again = [draw for draw in _all(port) if draw not in draws(port)]
    for ours, theirs in paired(reference, port):
        drawn = reference.arrays.get(ours.value)
        if drawn is None:
            continue
        number, shape = theirs.place(port)
        if ours.kind == "mask":
            kept = (drawn != 0) != _is_inverted(ours, theirs)
            drawn = kept * float(port.arrays[number].max(initial=0)) if port.values[number].kind == "f" else kept
        array = next(iter(layouts(drawn, shape)), None)
        if array is not None:
            twins = [draw.value for draw in again if _is_same(port, draw.value, number)]
            found += [Exchange(ours.value, twin, None, array) for twin in (number, *twins)]
    return found


def shared_masks(reference: Tape, port: Tape) -> list[str]:
    """Returns where the port hides the same positions in several rows or heads, and the reference draws each anew.

    Args:
        reference: one tape.
        port: another.
    """
    found = []
    for ours, theirs in paired(reference, port):
        if theirs.spread is not None and ours.spread is None:
            lines = [*port.operations[theirs.operation].lines[:2], *reference.operations[ours.operation].lines[:1]]
            drawn, wanted = (list(shape) for shape in (port.values[theirs.value].shape, theirs.spread[1]))
            found.append(
                f"a mask of {drawn} for {wanted}, where the reference draws each: {'; '.join(map(str, lines))}"
            )
    return list(dict.fromkeys(found))


def _is_same(tape: Tape, value: int, other: int) -> bool:
    """Whether two draws gave the same numbers: one is drawn again on the way back."""
    a, b = tape.arrays.get(value), tape.arrays.get(other)
    return a is not None and b is not None and np.array_equal(a, b)


def _is_inverted(ours: Draw, theirs: Draw) -> bool:
    """Whether one side's mask has a one where the other's has a zero: what is kept, or what is dropped."""
    if ours.share is None or theirs.share is None:
        return False
    return abs(1 - theirs.share - ours.share) < abs(theirs.share - ours.share)


def _all(tape: Tape) -> Iterator[Draw]:
    """Yields what a step draws, in order, on the way back, too."""
    for i, operation in enumerate(tape.operations):
        if not operation.random or not operation.outputs:
            continue
        value = operation.outputs[-1]
        if operation.name in _MASKS:
            share = operation.constants.get("p")
            if share is not None and operation.name == "aten.native_dropout":
                share = 1 - share
            yield Draw(value, "mask", i, tape.values[value].size, share)
        elif operation.name in _NORMAL:
            yield Draw(value, "normal", i, tape.values[value].size)
        else:
            yield _followed(tape, i, value)


def _followed(tape: Tape, drawn_by: int, value: int) -> Draw:
    """Returns what is made of uniform bits or numbers: a mask, normal numbers, or uniform ones."""
    last = value
    pure, kind = {value}, "uniform"
    for i in range(drawn_by + 1, len(tape.operations)):
        operation = tape.operations[i]
        if not pure.intersection(operation.inputs) or not pure.union(tape.fixed).issuperset(operation.inputs):
            continue
        made = operation.outputs[0]
        if operation.name in _BELOW | _ABOVE:
            spread = _spread(tape, made)
            size = tape.values[made].size if spread is None else math.prod(spread[1])
            return Draw(made, "mask", drawn_by, size, _share(operation, tape, pure), spread)
        if kind == "normal":
            return Draw(made, kind, drawn_by, tape.values[made].size)
        if operation.name == "max" and tape.framework == "jax":  # the end of jax.random.uniform
            last = made
        if operation.name == "erf_inv":
            kind, last = "normal", made
        pure.add(made)
    return Draw(last, kind, drawn_by, tape.values[last].size)


def _spread(tape: Tape, mask: int) -> tuple[int, tuple[int, ...]] | None:
    """Returns what is made of a mask before more numbers meet it, and the shape of those; None where none do."""
    pure, size = {mask}, tape.values[mask].size
    for i in range(tape.producers[mask] + 1, len(tape.operations)):
        operation = tape.operations[i]
        drawn = pure.intersection(operation.inputs)
        made = operation.outputs[0] if operation.outputs else -1
        alone = pure.union(tape.fixed).issuperset(operation.inputs)
        if drawn and tape.values[made].size > size:
            return made if alone else min(drawn), tape.values[made].shape
        if drawn and alone:
            pure.add(made)
    return None


def _share(operation: Operation, tape: Tape, drawn: set[int]) -> float | None:
    """Returns how likely it is that a uniform number is below, or above, what it is compared with."""
    numbers = [float(tape.arrays[v].reshape(-1)[0]) for v in operation.inputs if v not in drawn and v in tape.arrays]
    numbers += [
        float(number)
        for name, number in operation.constants.items()
        if name.startswith(("literal", "other")) and isinstance(number, int | float)
    ]
    if not numbers:
        return None
    first = operation.inputs[:1] and operation.inputs[0] in drawn and "literal0" not in operation.constants
    return numbers[0] if (operation.name in _BELOW) == bool(first) else 1 - numbers[0]


def is_drawn(tape: Tape, operations: Sequence[int], known: Sequence[Draw]) -> Draw | None:
    """Returns the draw that goes into some operations, past what only moves it; None where none does.

    Args:
        tape: of one side.
        operations: their numbers.
        known: the draws that are meant.
    """
    queue = [value for i in operations for value in (*tape.operations[i].inputs, *tape.operations[i].outputs)]
    seen: set[int] = set()
    by_value = {draw.value: draw for draw in known}
    while queue:
        value = queue.pop()
        if value in by_value:
            return by_value[value]
        made_by = tape.producers.get(value)
        if (
            value not in seen
            and made_by is not None
            and tape.operations[made_by].name in MOVES | {"aten.div_", "aten.div"}
        ):
            queue += tape.operations[made_by].inputs
        seen.add(value)
    return None
