"""Compares two traces and gives the verdict: where the first divergence is, and what may have caused it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch_ref.common.tape.tape import Tape
from torch_ref.common.trace import Trace

from .alignment.divergence import first_divergence
from .alignment.partners import find_partners
from .alignment.proof.draws import draws
from .comparison.bounds import Bounds
from .comparison.entries import OF_MODULES, entries_in_order, free_entries, unmatched
from .comparison.localise import localise
from .diagnosis import diagnose
from .report.entries import Entry
from .report.report import Report
from .report.step_report import StepReport, check_tape

_OF_A_STEP = ("forward", "loss", "backward")
_ROUNDED = 1e-5


def compare(
    ported: Trace, reference: Trace, free: Trace | None = None, *, operations: Callable[[int], Any] | None = None
) -> Report:
    """Compares two traces, finds the first divergence, and names what may have caused it.

    A float64 reference is gate A: every entry within 1e-12 of the reference's largest value. A float32 one is gate B,
    step by step: the port's distance to the float64 reference may be three times the reference's own, taken over some
    orders of the rows, plus one epsilon of the largest value.

    Args:
        ported: the port's trace, under the reference's names; forced, as `replay` gives it by default.
        reference: the trace of `torch_ref.record`.
        free: the port's trace from the first weights only; in float32 it is shown, and does not count.
        operations: compares the operations of a step, where the traces part in it; it returns a `StepReport`, or None.
            Where all operations of a step agree, what modules take and return in it does not count.

    Returns:
        Every entry with its error and its bound, the first divergence, and its diagnosis; see `Report`.

    Raises:
        ValueError: the traces differ in dtype or in the number of steps.

    Example:
        >>> import numpy as np
        >>> metadata = {"dtype": "float64", "model": "Line", "optimizer": {"name": "SGD"}, "calls": [], "buffers": []}
        >>> reference = Trace({"0/loss/y": np.array(0.5)}, metadata)
        >>> compare(reference, reference).passed
        True
        >>> print(compare(Trace({"0/loss/y": np.array(0.6)}, metadata), reference).first_divergence)
        step 0, loss, `y`
    """
    for what in ("dtype", "steps"):
        expected, got = getattr(reference, what), getattr(ported, what)
        if expected != got:
            hint = "; cast the port's parameters" if what == "dtype" else ""
            raise ValueError(f"ported: expected a trace with {what} {expected}, got {got}{hint}")
    bounds = Bounds(reference)
    entries = entries_in_order(ported, reference, bounds)
    loose = free_entries(free, reference, bounds)
    first = localise(entries, loose, ported, reference)
    step = operations(first.step) if operations and first and not first.free and first.group in _OF_A_STEP else None
    # Of what a port returns that its reference computes on the way, as logits for probabilities, the loss decides.
    elsewhere = ("output",) if step is not None and step.returned else ()
    of_step = (*OF_MODULES, *elsewhere)
    if first and step is not None and step.passed and first.phase in of_step:
        others = [entry.phase not in (of_step if entry.step == first.step else elsewhere) for entry in entries]
        kept = [replace(e, counts=e.counts and counts) for e, counts in zip(entries, others, strict=True)]
        after = localise(kept, loose, ported, reference)
        if after is None or after.step != first.step or after.group not in _OF_A_STEP:  # the models are cut elsewhere
            entries, first = kept, after
    diagnosis = diagnose(first, ported, reference) if first else []
    if first and step is not None and step.passed and first.phase != "buffer" and _only_rounds(entries, first.step):
        diagnosis = [finding for finding in diagnosis if finding.kind == "precision"]
    if step is not None and (first is None or first.phase != "buffer"):
        certain = [cause for causes in step.causes[:1] for cause in causes if cause.certain]
        if certain and (not diagnosis or (first is not None and first.group == "forward")):
            diagnosis = certain
    return Report(
        model=reference.metadata["model"],
        dtype=reference.dtype,
        optimizer=str(reference.metadata["optimizer"].get("name", "")),
        steps=reference.steps,
        calls=tuple(reference.metadata["calls"]),
        entries=tuple(entries),
        free=tuple(loose),
        first_divergence=first,
        diagnosis=tuple(diagnosis),
        unmatched=tuple(unmatched(ported, reference)),
        weight_map=str(ported.metadata.get("weight_map", "")),
        in_float32=tuple(ported.metadata.get("in_float32", ())),
        operations=step if first else None,
    )


def _only_rounds(entries: Sequence[Entry], step: int) -> bool:
    """Whether what a step computes is off by so little that it is the precision, where all operations agree."""
    computed = (entry for entry in entries if entry.step == step and entry.phase in ("output", "loss", "grad"))
    return all(entry.error < _ROUNDED for entry in computed)


def assert_parity(ported: Trace, reference: Trace, free: Trace | None = None) -> Report:
    """Returns the report of `compare`, for a test to go on with.

    Args:
        ported: the port's trace, under the reference's names.
        reference: the trace of `torch_ref.record`.
        free: the port's trace from the first weights only, or None.

    Returns:
        The report, in which all agrees.

    Raises:
        AssertionError: the port diverges; the message has the first divergence, its numbers and the diagnosis.
        ValueError: the traces differ in dtype or in the number of steps.

    Example:
        >>> import numpy as np
        >>> metadata = {"dtype": "float64", "model": "Line", "optimizer": {"name": "SGD"}, "calls": [], "buffers": []}
        >>> trace = Trace({"0/loss/y": np.array(0.5)}, metadata)
        >>> assert_parity(trace, trace).max_scaled_error
        0.0
    """
    report = compare(ported, reference, free)
    if not report.passed:
        raise AssertionError(f"the port diverges from its reference\n{report}")
    return report


def compare_tapes(reference: Tape, port: Tape) -> StepReport:
    """Compares two tapes of one step; either may be of either framework.

    Nothing is run again, so only the first place is found, and it is not proved.

    Args:
        reference: one tape.
        port: another.

    Returns:
        The report: `passed`, `places`; `print` shows it.

    Raises:
        ValueError: one of the two is no tape, or draws at random.

    Example:
        >>> import torch_ref
        >>> model, batch = torch_ref.TwoInTwoOut(hidden_features=2), torch_ref.data.curves(points=5)
        >>> tape = torch_ref.recording.record_tape(model, batch, torch_ref.JointLoss())
        >>> compare_tapes(tape, tape).passed
        True
    """
    check_tape("reference", reference)
    check_tape("port", port)
    if drawn := [*draws(reference), *draws(port)]:
        raise ValueError(
            f"reference: expected nothing drawn at random, as nothing is run again here, got {len(drawn)} draws; "
            "check_step gives the port what the reference drew"
        )
    partners = find_partners(reference, port)
    first = first_divergence(partners)
    return StepReport(partners, () if first is None else (first,))
