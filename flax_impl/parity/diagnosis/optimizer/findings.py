"""Names why an optimiser's step differs: tries known differences on torch's until one gives the port's step."""

import numpy as np

from torch_ref.common.trace import Trace

from ...report.entries import Finding
from ..numbers import names_text
from .case import EPS, TOLERANCE, Case, Misfit, read_case
from .simulated import Rule, simulate, torch_rule
from .variants import Variant, by_step, estimated, known


def optimizer_findings(ported: Trace, reference: Trace) -> list[Finding]:
    """Returns the differences between optimisers that give the port's steps, best first; none where none does.

    Every step of the port started from the reference's parameters, gradients and state, so it can be redone: torch's
    optimiser is simulated, with one thing changed at a time. One that fits all steps is certain if it is alone.

    Args:
        ported: the port's trace, teacher-forced.
        reference: torch's.
    """
    if moved := _frozen_that_move(ported, reference):
        text = (
            f"the port moves {names_text(moved)}, which the reference has frozen (requires_grad=False): keep the "
            "optimiser off, with optax.multi_transform and optax.set_to_zero"
        )
        return [Finding(text)]
    rule = torch_rule(reference.metadata["optimizer"])
    with np.errstate(all="ignore"):
        case, own = read_case(ported, reference), read_case(reference, reference)
        if rule is None or case is None or own is None or own.misfit(rule).update > 1:
            return []
        base = case.misfit(rule)
        if base.update <= 1 and base.state <= 1:
            return []
        if rounding := _rounding(case, own, rule):
            return [Finding(rounding)]
        best = _best(case, rule, base)
        off = max(base.update, base.state) * TOLERANCE[case.dtype]
        if not best and case.dtype == "float64" and 1e-9 < off < 1e-5:
            text = (
                "the port's step has the digits of float32 only: a gradient, the state, the rate or a bias "
                "correction is float32; torch has float64 throughout: cast none of them"
            )
            return [Finding(text, certain=False)]
    return [Finding(variant.text, certain=len(best) == 1) for variant in best[:4]]


def _frozen_that_move(ported: Trace, reference: Trace) -> list[str]:
    """Returns the parameters that the reference does not train and the port does, by decay perhaps."""
    found = []
    for name in reference.metadata["frozen"]:
        steps = range(min(ported.steps, reference.steps))
        pairs = [(ported.phase(k, "update").get(name), reference.phase(k, "update").get(name)) for k in steps]
        if any(a is not None and b is not None and a.shape == b.shape and np.any(a != b) for a, b in pairs):
            found.append(name)
    return found


def _best(case: Case, rule: Rule, base: Misfit) -> list[Variant]:
    """Returns the variants that fit best: by the state too if any does, then those that are not estimated."""
    found: list[tuple[Misfit, Variant]] = []
    for variants in (known(case, rule), estimated(case, rule), by_step(case, rule)):
        for variant in variants:
            for changed in variant.rules:
                misfit = case.misfit(changed, patience=1)
                # Torch's own rule is off by update or, failing that, by state; the variant must be much nearer there.
                nearer = base.update > 3 * misfit.update
                if base.update <= 1:
                    nearer = misfit.state <= 1 and base.state > 3 * misfit.state
                if misfit.update <= 1 and nearer:
                    found.append((misfit, variant))
                    break
        if by_state := [(misfit, variant) for misfit, variant in found if misfit.state <= 1]:
            found = by_state
            break
    # What is off by much more than another is left out; 0.05 is rounding.
    near = max(10 * min((misfit.update for misfit, _ in found), default=0.0), 0.05)
    found = sorted((pair for pair in found if pair[0].update <= near), key=lambda pair: pair[0].update > 0.05)
    variants = [variant for _, variant in found]
    return [variant for variant in variants if variant.rank == min(other.rank for other in variants)]


def _rounding(case: Case, own: Case, rule: Rule) -> str:
    """Returns what to say where the parameters after the step are rounded to a smaller type, and else agree."""
    if case.dtype != "float64":
        return ""
    actual, torch = np.stack(case.updates), np.stack([update for update, _ in simulate(rule, case.steps, case.parts)])
    for dtype, bits in (("bfloat16", 16), ("float32", 0)):
        eps = EPS[dtype]
        moved = np.abs(actual - np.stack([step.params for step in case.steps]))
        if (
            np.isfinite(actual).all()
            and np.array_equal(_cut(actual, bits), actual)
            and not np.array_equal(_cut(np.stack(own.updates), bits), np.stack(own.updates))
            and np.all(np.abs(actual - torch) <= eps * (np.abs(torch) + 16 * moved) + 1e-30)
        ):
            return (
                f"the port rounds the parameters to {dtype}; torch keeps them in float64: make them with "
                "jax.enable_x64, and cast neither them nor the updates"
            )
    return ""


def _cut(array: np.ndarray, bits: int) -> np.ndarray:
    """Returns float32 without its last bits, in float64."""
    words = array.astype(np.float32).view(np.uint32)
    return (words & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)).view(np.float32).astype(np.float64)
