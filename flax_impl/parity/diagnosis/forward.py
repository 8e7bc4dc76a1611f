"""Recognises in the forward pass what operations do not tell: precisions, and modules that stand for one another."""

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Finding
from .numbers import close, rounded_to
from .statistics import buffer_findings


def forward_findings(first: Divergence, ported: Trace, reference: Trace) -> list[Finding]:
    """Returns what makes the port's output of the reference's, where all before it agrees."""
    step, phase, name = first.step, first.phase, first.entry.name
    actual, expected = ported.phase(step, phase).get(name), reference.phase(step, phase)[name]
    if actual is None or actual.shape != expected.shape:
        got = "none" if actual is None else list(actual.shape)
        text = f"`{name}` is expected in shape {list(expected.shape)} and has {got}"
        return [Finding(f"{text}: look at padding, strides, axes and broadcasting", certain=False)]
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if phase == "buffer":
        return buffer_findings(name, actual, expected, reference, step)
    if first.phase == "activation" and not first.before and (found := _in_linear(first, actual, reference)):
        return found
    found = _another_entry(first, actual, expected, ported, reference) or _zeros(first, actual, expected, reference)
    return found or _precision(first, actual, expected, reference)


def _another_entry(
    first: Divergence, actual: np.ndarray, expected: np.ndarray, ported: Trace, reference: Trace
) -> list[Finding]:
    """Looks whether the port has here what the reference has elsewhere."""
    phase, name, dtype = first.phase, first.entry.name, reference.dtype
    everywhere = reference.phase(first.step, phase)
    for other, array in everywhere.items():
        if phase == "module_input" and other not in ported.phase(first.step, phase):
            continue  # a module that the port does not have, such as torch.nn.Dropout
        within = other.startswith(f"{name}.") or name.startswith(f"{other}.")
        if (
            other == name
            or within
            or array.shape != actual.shape
            or close(array, expected, dtype)
            or not close(actual, array, dtype)
        ):
            continue
        back = ported.phase(first.step, phase).get(other)
        swapped = back is not None and close(back, expected, dtype)
        kind = {"output": "output", "module_input": "input of", "activation": "output of"}[phase]
        if phase == "output":
            text = (
                f"outputs {name} and {other} are swapped in the port" if swapped else f"output {name} is output {other}"
            )
            return [Finding(f"{text}: return them in the reference's order")]
        if phase == "module_input":
            text = f"`{name}` gets in the port what `{other}` gets in the reference"
            return [Finding(f"{text}: the two modules are called in another order or on each other's input; swap them")]
        text = f"the port's {kind} `{name}` is the reference's of `{other}`"
        return [Finding(f"{text}: the two modules are swapped; give each its own name")]
    if phase == "module_input":
        for other, array in ported.phase(first.step, phase).items():
            if (
                other != name
                and other in everywhere
                and close(array, expected, dtype)
                and not close(everywhere[other], expected, dtype)
            ):
                text = f"`{other}` gets in the port what `{name}` gets in the reference"
                return [Finding(f"{text}: the modules are called in another order; call `{name}` first")]
    return []


def _zeros(first: Divergence, actual: np.ndarray, expected: np.ndarray, reference: Trace) -> list[Finding]:
    """Finds rows of an embedding that the reference leaves at zero, as those of an unseen level; the others agree."""
    kind = reference.metadata.get("modules", {}).get(first.entry.name.partition("#")[0], "")
    if "Embedding" not in kind or first.before or actual.ndim < 2:
        return []
    left, taken = (np.asarray(side.reshape(len(side), -1).any(axis=1)) for side in (expected, actual))
    rows = taken & ~left
    if not rows.any() or rows.all() or not close(actual[~rows], expected[~rows], reference.dtype):
        return []
    text = f"`{first.entry.name}` is zeros in the reference in {int(rows.sum())} of {len(actual)} rows, not in the port"
    return [Finding(f"{text}: a code that is no level's takes no row of a table; put jnp.where around it")]


def _precision(first: Divergence, actual: np.ndarray, expected: np.ndarray, reference: Trace) -> list[Finding]:
    for kind in ("tf32", "bfloat16", "float16"):
        with np.errstate(over="ignore"):
            if np.array_equal(actual, rounded_to(expected, kind)):
                text = f"`{first.entry.name}` is rounded to {kind} in the port: keep {reference.dtype}"
                return [Finding(text, kind="precision")]
    return []


def _in_linear(first: Divergence, actual: np.ndarray, reference: Trace) -> list[Finding]:
    """Tells in which precision a linear layer multiplies, where that is what differs."""
    call = first.entry.name.partition("[")[0]
    module = call.partition("#")[0]
    taken, params = reference.phase(first.step, "module_input").get(call), reference.params(first.step)
    weight = params.get(f"{module}.weight")
    if taken is None or weight is None or weight.ndim != 2 or taken.shape[-1] != weight.shape[1]:
        return []
    taken, weight = np.asarray(taken, np.float64), np.asarray(weight, np.float64)
    shift = np.asarray(params.get(f"{module}.bias", np.zeros(len(weight))), np.float64)
    size = np.abs(actual).max()
    exact = taken @ weight.T + shift
    error = np.abs(actual - exact).max() / size
    tried = {}
    for kind in ("tf32", "bfloat16", "float16"):
        rounded = rounded_to(taken, kind) @ rounded_to(weight, kind).T
        candidates = [rounded + shift]
        if kind != "tf32":  # there, the sum is float32's; else it and the result may be rounded as well
            small = rounded_to(shift, kind)
            candidates += [rounded_to(rounded + small, kind), rounded_to(rounded, kind) + shift]
            candidates += [rounded_to(rounded_to(rounded, kind) + small, kind)]
        tried[kind] = min(np.abs(actual - candidate).max() / size for candidate in candidates)
    best = min(tried, key=lambda kind: tried[kind])
    text = f"`{module}` multiplies in {best} in the port: {_PRECISIONS[best]}"
    if tried[best] <= 0.25 * error:
        return [Finding(text, kind="precision")]
    return []


_PRECISIONS = {
    "tf32": 'set jax_default_matmul_precision to "highest"',
    "bfloat16": 'leave dtype=jnp.bfloat16 out, or set jax_default_matmul_precision to "highest"',
    "float16": "leave dtype=jnp.float16 out",
}
