"""Names another padding, stride or dilation, and a pool that counts its padding otherwise."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..report.entries import Finding
from .cut import Cut

_POOLS = ("reduce_window_sum", "reduce_window")


def window_causes(cut: Cut) -> Iterator[Finding]:
    """Yields what a convolution of the port is given otherwise, where the reference's comes out with its own."""
    for i in cut.theirs:
        operation = cut.port.operations[i]
        if operation.name != "conv_general_dilated":
            continue
        for j in cut.ours:
            other = cut.reference.operations[j]
            if other.name != "aten.convolution":
                continue
            changes = _changes(operation.constants, other.constants)
            for count in range(1, len(changes) + 1):
                for chosen in itertools.combinations(changes, count):
                    params = {name: value for _, name, value in chosen}
                    if cut.gives(cut.replay({}, params={i: params})):
                        given = [(words, operation.constants[name], value) for words, name, value in chosen]
                        said = [f"{w} is {_listed(a)} in the port, {_listed(b)} in the reference" for w, a, b in given]
                        yield Finding(f"{'; '.join(said)}: pass that", kind="window")
                        return


def _changes(ours: Any, theirs: Any) -> list[tuple[str, str, Any]]:
    """Returns the words, the name and the reference's value of each parameter of a convolution that differs."""
    padding = tuple((int(side), int(side)) for side in theirs.get("padding", ()))
    dilation = tuple(theirs.get("dilation", ()))
    wanted = (
        ("padding", "padding", padding),
        ("stride", "window_strides", tuple(theirs.get("stride", ()))),
        ("dilation", "rhs_dilation", dilation),
    )
    return [
        (words, name, value)
        for words, name, value in wanted
        if name in ours and len(value) == len(ours[name]) and tuple(ours[name]) != value
    ]


def pool_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that an average counts the padding on one side only."""
    for i in cut.theirs:
        operation = cut.port.operations[i]
        operands = cut.operands(i)
        if operation.name != "div" or operands is None or len(operands) != 2:
            continue
        pool = next((j for j in cut.theirs if cut.port.operations[j].name in _POOLS), None)
        if pool is None or "window_dimensions" not in cut.port.operations[pool].constants:
            continue
        sums, counts = operands
        size = math.prod(cut.port.operations[pool].constants["window_dimensions"])
        made = operation.outputs[0]
        if np.ptp(counts) > 0 and cut.works({made: sums / size}):
            text = "the port's average leaves the padding out, the reference's counts it"
            yield Finding(f"{text}: pass count_include_pad=True, or divide by {size}", kind="window")
            return
        shape = cut.port.values[cut.port.operations[pool].inputs[0]].shape
        within = cut.run(pool, np.ones(shape))
        if within is not None and within.shape == sums.shape and cut.works({made: sums / within}):
            text = "the port's average counts the padding, the reference's leaves it out"
            yield Finding(f"{text}: pass count_include_pad=False", kind="window")
            return


def _listed(value: Any) -> str:
    return str([list(part) if isinstance(part, tuple) else part for part in value])
