"""Says which names are right for a fault that was planted by machine."""

from collections.abc import Mapping

from flax_impl.parity.report.entries import Finding

Right = Mapping[str, tuple[str, ...]]

# Of each kind of fault: the kinds of causes that say it, and words of which one must be in the text.
_RIGHT: dict[str, dict[str, tuple[str, ...]]] = {
    "a constant 1% off": {"constant": (), "factor": ()},
    "a constant ten times as large": {"constant": (), "factor": ()},
    "a factor of 1.1": {"factor": ("1.1 ", "0.909"), "extra": ("multiplies by 1.1",), "constant": ("1.1 ",)},
    "the square root of the factor": {
        "constant": (),
        "factor": (),
        "extra": ("sqrt",),
        "missing": ("multiply", "divide"),
    },
    "operands exchanged": {"operands": (), "sign": ()},
    "sum for difference": {"operation": ("adds",)},
    "the sign": {"sign": (), "operands": ("subtracts",)},
    "tanh for erf": {"function": ("tanh", "approximate")},
    "logistic for tanh": {"function": ("sigmoid",)},
    "tanh for logistic": {"function": ("tanh",)},
    "relu at 0.1": {"constant": ("0.1",), "extra": ("0.1",)},
    "another power": {"constant": ("power",)},
    "sqrt for rsqrt": {"function": ("sqrt",)},
    "mean over one element less": {"constant": ("divides",), "factor": ()},
    "numbers in another order": {"order": ()},
    "shifted by one": {"order": ("shift", "runs backwards")},  # of an axis of two
    "no gradient": {"gradient": (), "stopped": ()},
    "a mask shifted by one": {"mask": ()},
    "a mask inverted": {"mask": (), "extra": ("applies not,",)},
    "a transposed matrix": {"order": ("transposed", "exchange")},
    "clipped": {"extra": ("clips",)},
    "largest for sum": {"reduction": ("largest",)},
    "kept in bfloat16": {"precision": ()},
}  # fmt: skip
_DROPPED = {
    "add": {"missing": ("add",), "input": (), "constant": ("everywhere",)},
    "sub": {"missing": ("subtract",), "input": (), "constant": ("everywhere",)},
    "mul": {"missing": ("multiply",), "factor": (), "function": ()},  # of SiLU a sigmoid is left
    "div": {  # by a number of elements, or what is one over it
        "missing": ("divide", "multiply"),
        "factor": (),
        "extra": ("multiplies by",),
        "reduction": ("takes the mean",),
    },
    "neg": {"sign": (), "missing": ("neg",)},
}


def is_right(kind: str, equation: str, finding: Finding, masks: bool = False) -> bool:
    """Returns whether a name says what was planted.

    Args:
        kind: of the fault, a key of `plant.KINDS`.
        equation: the primitive in which it was planted.
        finding: the first name.
        masks: whether the equation computes a mask: zeros and ones, or what hides a position by its size.
    """
    if masks and getattr(finding, "kind", "") == "mask":
        return True
    return says(finding, _DROPPED.get(equation, {}) if kind.endswith("operand only") else _RIGHT[kind])


def says(finding: Finding, right: Right) -> bool:
    """Returns whether a cause is of a kind that is right, and has one of the words that go with it.

    Args:
        finding: the cause.
        right: the kinds, each with its words; none for any.
    """
    words = right.get(getattr(finding, "kind", ""))
    return words is not None and (not words or any(word in finding.text for word in words))
