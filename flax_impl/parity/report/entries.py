"""Holds what a comparison found: an entry, a divergence, a finding."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One array of the port beside the reference's.

    Args:
        step: of the training.
        phase: of the step, one of `PHASES`.
        name: of the entry within its phase.
        error: the largest difference as a share of the reference's largest value; infinite where NaN or infinity do
            not stand in the same places, or where an array is missing or has another shape.
        bound: how large the error may be.
        rms: the root of the mean squared difference, as a share of the reference's largest value.
        worst: where the difference is largest.
        outside: how many numbers are further off than the bound allows.
        size: how many numbers there are.
        note: what is wrong where it is no number: a missing array, another shape.
        counts: False for what is shown only: a module whose code is cut elsewhere than its twin's, while all that
            comes after agrees.

    Example:
        >>> Entry(step=0, phase="grad", name="fc.weight", error=1e-15, bound=1e-12).passed
        True
        >>> Entry(step=0, phase="grad", name="fc.bias", error=1e-15, bound=1e-12, note="the port has none").passed
        False
    """

    step: int
    phase: str
    name: str
    error: float
    bound: float
    rms: float = 0.0
    worst: tuple[int, ...] = ()
    outside: int = 0
    size: int = 0
    note: str = ""
    counts: bool = True

    @property
    def passed(self) -> bool:
        """Whether the entry is within its bound, or does not count."""
        return not self.counts or (self.error <= self.bound and not self.note)


@dataclass(frozen=True)
class Divergence:
    """Where the port first departs from the reference, in the order in which things happen.

    Args:
        step: of the training.
        phase: one of `PHASES`.
        name: the module, parameter or output to blame. Code between two modules is named after the first of them.
        entry: the first entry that is out of bounds.
        before: the module whose input is wrong, where the fault lies in the code between `name` and it.
        free: whether only the free-running training departs, while each step agrees by itself.

    Example:
        >>> entry = Entry(step=2, phase="module_input", name="fc2", error=0.1, bound=1e-12)
        >>> divergence = Divergence(step=2, phase="module_input", name="fc1", entry=entry, before="fc2")
        >>> divergence.group
        'forward'
        >>> print(divergence)
        step 2, forward, between `fc1` and `fc2`
    """

    step: int
    phase: str
    name: str
    entry: Entry
    before: str = ""
    free: bool = False

    @property
    def group(self) -> str:
        """Which part of a step it is: data, weights, forward, loss, backward or optimiser."""
        return GROUPS[self.phase]

    def __str__(self) -> str:
        where = f"between `{self.name}` and `{self.before}`" if self.before else f"`{self.name}`"
        alone = ", in the free-running training only" if self.free else ""
        return f"step {self.step}, {self.group}, {where}{alone}"


GROUPS = {
    "input": "data",
    "param": "weights",
    "module_input": "forward",
    "activation": "forward",
    "output": "forward",
    "buffer": "forward",
    "loss": "loss",
    "cotangent": "backward",
    "grad": "backward",
    "state": "optimiser",
    "update": "optimiser",
}


@dataclass(frozen=True)
class Finding:
    """A known difference that may be the cause.

    Args:
        text: one sentence: what the port does, what the reference does, and what to change.
        certain: whether applying the difference to the reference gives the port's numbers.
        kind: one word for what differs at an operation: `constant`, `factor`, `missing`, `extra`, `sign`, `operands`,
            `operation`, `function`, `order`, `mask`, `reduction`, `input`, `window`, `loss`, `gradient`, `stopped` or
            `precision`.
        operation: number of the port's operation that it speaks of, where it speaks of one.

    Example:
        >>> print(Finding("the port's batches are not the reference's", certain=False))
        perhaps: the port's batches are not the reference's
    """

    text: str
    certain: bool = True
    kind: str = ""
    operation: int | None = None

    def __str__(self) -> str:
        return self.text if self.certain else f"perhaps: {self.text}"
