"""Holds the outcome of a comparison, and shows it: a line for each pair, and more where one diverges."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .entries import Divergence, Entry, Finding
from .text import WIDTH, aligned, counted, described, number, plain, short, wrapped

_FIRST = 5
_HEAD = ("model", "dtype", "optimizer", "steps", "largest error", "bound", "")


class Places(Protocol):
    """What is known of the operations of a step."""

    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON takes it."""
        ...

    def _repr_html_(self) -> str: ...


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
        in_float32: lines of the port that compute in float32, beside a float64 reference; they were run in float64, as
            in a float32 training they would be no difference.
        operations: the step of the first divergence, operation by operation: a `StepReport`; None where the reference
            has no tape of it.
        port: which side is the port, `jax` or `torch`.

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
    in_float32: tuple[str, ...] = ()
    operations: Places | None = None
    port: str = "jax"

    def __str__(self) -> str:
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
            "in_float32": list(self.in_float32),
            **({} if self.operations is None else {"operations": self.operations.to_json()}),
        }


def text_table(reports: Sequence[Report]) -> str:
    """Returns an aligned line for each report, and below them what is known of those that diverge.

    Args:
        reports: of any pairs of trainings.

    Returns:
        The text, without a line break at its end.

    Example:
        >>> entry = Entry(step=0, phase="loss", name="y", error=0.0, bound=1e-12)
        >>> print(text_table([Report("Line", "float64", "SGD", steps=1, calls=(), entries=(entry,))]))
        model  dtype    optimizer  steps  largest error  bound
        Line   float64  SGD            1              0  1e-12  agrees
    """
    lines = aligned([_HEAD, *map(_line, reports)], right=(3, 4, 5))
    for report in reports:
        if not report.passed:
            lines += ["", *_block(report)]
        if report.in_float32:
            lines += ["", *_of_precision(report)]
    return "\n".join(lines)


def out_of_bounds(report: Report) -> list[Entry]:
    """Returns what counts and is out of bounds: the first divergence, then the others in the report's order."""
    first = report.first_divergence
    others = [entry for entry in report.free if not entry.passed] if first is not None and first.free else []
    others += [entry for entry in report.entries if not entry.passed]
    return others if first is None else [first.entry, *(entry for entry in others if entry != first.entry)]


def largest_entry(report: Report) -> Entry | None:
    """Returns the entry that `Report.max_scaled_error` is of."""
    entries = [entry for entry in report.entries if entry.counts]
    return max(entries, key=lambda entry: math.inf if math.isnan(entry.error) else entry.error, default=None)


def title(report: Report) -> str:
    """Returns which pair a report is of."""
    return plain(f"{report.model}, {report.dtype}, {report.optimizer}, {counted(report.steps, 'step', 'steps')}")


def _line(report: Report) -> tuple[str, ...]:
    entry = largest_entry(report)
    error, bound = ("-", "-") if entry is None else (number(entry.error), number(entry.bound))
    outcome = "agrees" if report.passed else "diverges"
    return (
        short(report.model, 30), report.dtype, short(report.optimizer, 16), str(report.steps), error, bound, outcome
    )  # fmt: skip


def _block(report: Report) -> list[str]:
    first = report.first_divergence
    assert first is not None
    wrong = out_of_bounds(report)
    head = ("step", "phase", "entry", "error", "bound", "worst at", "outside")
    rows = [
        (
            str(entry.step),
            entry.phase,
            short(entry.name, 36),
            number(entry.error),
            number(entry.bound),
            str(list(entry.worst)) if entry.worst else "",
            short(entry.note, 20) or f"{entry.outside} of {entry.size}",
        )
        for entry in wrong[:_FIRST]
    ]
    lines = wrapped(title(report), "")
    lines += wrapped(f"first divergence at {first}", "  ")
    lines += wrapped(
        f"{first.entry.phase} `{first.entry.name}`: {plain(first.entry.note) or described(first.entry)}", "  "
    )
    lines += ["", *(f"  {short(line, WIDTH - 2)}" for line in aligned([head, *rows], right=(0, 3, 4)))]
    if len(wrong) > _FIRST:
        lines.append(f"  and {len(wrong) - _FIRST} more out of bounds")
    lines += ["", "  diagnosis:"]
    for finding in report.diagnosis:
        lines += wrapped(str(finding), "  - ")
    lines = lines if report.diagnosis else [*lines[:-1], "  diagnosis: no known difference explains it"]
    told = [part for line in _of_operations(report) for part in _folded(line)]
    return [*lines, "", *told] if told else lines


def _of_precision(report: Report) -> list[str]:
    """Returns which lines of the port compute in float32."""
    count = len(report.in_float32)
    side = "port" if report.port == "jax" else "reference"
    head = f"the {side} computes in float32 at {counted(count, 'line', 'lines')}, and was run in float64 there:"
    more = [f"and {count - _FIRST} more"] if count > _FIRST else []
    return [
        *wrapped(head, ""),
        *(f"  {short(plain(line), WIDTH - 2)}" for line in [*report.in_float32[:_FIRST], *more]),
    ]


def _folded(line: str) -> list[str]:
    """Returns a line in as many as it takes, each with its indentation."""
    indent = " " * (2 + len(line) - len(line.lstrip()))
    text = plain(line.strip())
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ") or [""]


def _of_operations(report: Report) -> list[str]:
    """Returns at which lines of the source the two part."""
    first = report.first_divergence
    if report.operations is None:
        if first is None or first.free or first.group in ("data", "weights", "optimiser"):
            return []
        return [f"torch_ref.record(..., tapes=[{first.step}]) writes down the operations of this step, and their lines"]
    computed = (entry for entry in report.entries if first and entry.step == first.step)
    if report.operations.passed and all(entry.passed for entry in computed if entry.phase in ("loss", "grad")):
        return ["losses and gradients of the step agree, operation by operation"]
    if report.operations.passed:
        head = "in float64 the step agrees, operation by operation: what differs is the precision it is computed in"
        return [head, *str(report.operations).splitlines()[1:]]
    return str(report.operations).splitlines()
