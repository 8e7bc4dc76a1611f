"""Recognises differences that only the gradients show: stopped, poisoned, another derivative at a kink."""

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Finding
from .numbers import close, factor_between, names_text, neat


def backward_findings(first: Divergence, ported: Trace, reference: Trace) -> list[Finding]:
    """Returns what makes the port's gradients of the reference's, where all before them agrees."""
    step, phase, name = first.step, first.phase, first.entry.name
    actual = ported.phase(step, phase).get(name)
    expected = reference.phase(step, phase)[name]
    if actual is None or actual.shape != expected.shape:
        return [Finding(f"the port has no gradient by `{name}`: take it by all parameters", certain=False)]
    if phase == "grad":
        return _of_parameter(name, actual, expected, ported, reference, step)
    return _of_output(name, actual, expected, reference, step)


def _of_parameter(
    name: str, actual: np.ndarray, expected: np.ndarray, ported: Trace, reference: Trace, step: int
) -> list[Finding]:
    dtype = reference.dtype
    if name in reference.metadata["inputs"] and not actual.any():
        return [Finding(f"no gradient reaches the input `{name}` in the port: take the jax.lax.stop_gradient off it")]
    if not actual.any():
        grads = ported.phase(step, "grad")
        still = [n for n, g in reference.phase(step, "grad").items() if g.any() and n in grads and not grads[n].any()]
        return [
            Finding(
                f"the port's gradient by {names_text(still)} is zero although one arrives at the module's output: "
                "take jax.lax.stop_gradient off the parameter"
            )
        ]
    if (factor := factor_between(actual, expected, dtype)) is not None:
        return [
            Finding(f"the gradient by `{name}` is {neat(factor)} times the reference's: scale nothing on the way back")
        ]
    params = reference.params(step)
    if name in params:
        decay = factor_between(actual - expected, params[name].astype(np.float64), dtype)
        if decay is not None:
            text = f"the port adds {neat(decay)} times the parameter to the gradient by `{name}`"
            return [Finding(f"{text}: there is a penalty in its loss that the reference's does not have")]
    return []


def _of_output(name: str, actual: np.ndarray, expected: np.ndarray, reference: Trace, step: int) -> list[Finding]:
    dtype = reference.dtype
    poisoned = ~np.isfinite(actual) & np.isfinite(expected)
    if poisoned.any():
        return [
            Finding(
                f"the gradient that arrives at `{name}` is NaN or infinite in {int(poisoned.sum())} places while the "
                "loss is finite: a jnp.where hides a bad value in the forward pass only; clean what goes into the "
                "branch that is not taken, not what comes out of it (the double where)"
            )
        ]
    if not actual.any():
        return [
            Finding(
                f"no gradient arrives at `{name}` in the port: take the jax.lax.stop_gradient off its output, "
                "which the reference does not have (detach)"
            )
        ]
    if (factor := factor_between(actual, expected, dtype)) is not None:
        return [
            Finding(f"the gradient at `{name}` is {neat(factor)} times the reference's: scale nothing on the way back")
        ]
    output = reference.phase(step, "activation").get(name)
    apart = ~np.isclose(actual, expected, rtol=1e-7 if dtype == "float64" else 1e-4, atol=0)
    if output is not None and output.shape == apart.shape and apart.any() and (output[apart] == 0).all():
        text = f"the gradients at `{name}` differ only where its output is exactly 0: another derivative at the kink"
        return [Finding(f"{text}; torch's ReLU has 0 there, as jax.nn.relu has, while jnp.maximum(x, 0) has 0.5")]
    return _partly_stopped(name, actual, expected, reference, step)


def _partly_stopped(name: str, actual: np.ndarray, expected: np.ndarray, reference: Trace, step: int) -> list[Finding]:
    """Finds out whether one of the modules that an output feeds sends nothing back."""
    sources = _consumers(name, reference, step)
    dtype = reference.dtype
    for consumer, back in sources.items():
        if close(actual, expected - back, dtype) or (
            np.abs(actual - (expected - back)).max() < 1e-6 * np.abs(expected).max()
        ):
            text = f"what `{consumer}` sends back does not reach `{name}` in the port"
            return [Finding(f"{text}: take the jax.lax.stop_gradient off that module's input")]
    rows = [i for i in range(len(actual)) if actual.ndim and actual[i].any() != expected[i].any()]
    if rows:
        text = f"the gradient reaches `{name}` in other rows ({len(rows)} of {len(actual)}): another mask"
        return [Finding(text + "; mask the rows that the reference leaves out, and no others", certain=False)]
    return []


def _consumers(name: str, reference: Trace, step: int) -> dict[str, np.ndarray]:
    """Returns what each linear layer that takes the output, through an activation, sends back to it."""
    found = {}
    output = reference.phase(step, "activation").get(name)
    if output is None:
        return found
    # The derivative of whatever lies between is the same for all of them: it is what is left over in the sum.
    backs, params = {}, reference.params(step)
    shape = output.shape
    for call in reference.metadata["calls"]:
        taken = reference.phase(step, "module_input").get(call)
        weight = params.get(f"{call.partition('#')[0]}.weight")
        arrived = reference.phase(step, "cotangent").get(call)
        if (
            call == name
            or taken is None
            or weight is None
            or arrived is None
            or taken.shape != shape
            or weight.ndim != 2
        ):
            continue
        backs[call] = arrived @ weight.astype(np.float64), taken
    for call, (back, taken) in backs.items():
        peers = [other for other, seen in backs.values() if np.array_equal(seen, taken)]
        total = sum(peers[1:], peers[0])
        expected = reference.phase(step, "cotangent")[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(total != 0, expected / total, 0)
        found[call] = back * slope
    return found
