"""What a comparison found: every entry, the first divergence, and what may have caused it."""

from dataclasses import dataclass
from typing import Any


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

    Example:
        >>> print(Finding("the port's batches are not the reference's", certain=False))
        perhaps: the port's batches are not the reference's
    """

    text: str
    certain: bool = True

    def __str__(self) -> str:
        return self.text if self.certain else f"perhaps: {self.text}"


@dataclass(frozen=True)
class Report:
    """The outcome of a comparison; `print` it, or ask it. `compare` makes it.

    Args:
        model: its name.
        dtype: float64 (gate A) or float32 (gate B).
        optimizer: its name.
        steps: how many steps were compared.
        calls: the modules that were called, in order of return; a parent follows its children.
        entries: each step by itself, started from the reference's state.
        free: the training that started from the first weights only.
        first_divergence: None where all agrees.
        diagnosis: what may have caused it, best first.
        unmatched: entries that only one side has, and that are therefore not compared.
        weight_map: which of the reference's weights is which of the port's, in a table.

    Example:
        >>> entry = Entry(step=0, phase="loss", name="y", error=0.25, bound=1e-12)
        >>> first = Divergence(step=0, phase="loss", name="y", entry=entry)
        >>> report = Report("Line", "float64", "SGD", 1, (), entries=(entry,), first_divergence=first)
        >>> report.passed, report.max_scaled_error
        (False, 0.25)
        >>> report.to_json()["first_divergence"]["text"]
        'step 0, loss, `y`'
    """

    model: str
    dtype: str
    optimizer: str
    steps: int
    calls: tuple[str, ...]
    entries: tuple[Entry, ...]
    free: tuple[Entry, ...] = ()
    first_divergence: Divergence | None = None
    diagnosis: tuple[Finding, ...] = ()
    unmatched: tuple[str, ...] = ()
    weight_map: str = ""

    def __str__(self) -> str:
        from .text import text_table

        return text_table([self])

    @property
    def passed(self) -> bool:
        """Whether nothing that counts is out of bounds."""
        return self.first_divergence is None

    @property
    def max_scaled_error(self) -> float:
        """The largest error of an entry that counts, each step by itself."""
        return max((entry.error for entry in self.entries if entry.counts), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON takes it; an infinite error is the text "inf"."""
        first = self.first_divergence
        error = self.max_scaled_error
        return {
            "model": self.model,
            "dtype": self.dtype,
            "optimizer": self.optimizer,
            "steps": self.steps,
            "passed": self.passed,
            "max_scaled_error": error if error < float("inf") else "inf",
            "first_divergence": None
            if first is None
            else {"step": first.step, "phase": first.phase, "name": first.name, "text": str(first)},
            "diagnosis": [str(finding) for finding in self.diagnosis],
        }
