"""Recognises differences in the forward pass: within a module, and in the code between two of them."""

from collections.abc import Iterator

import numpy as np

from torch_ref.common.trace import Trace

from ..comparison.activations import ACTIVATIONS, elu, leaky_relu
from ..report.entries import Divergence, Finding
from .norms import buffer_findings, norm_findings
from .numbers import close, constant, factor_between, neat, rounded_to


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
    searches = [
        lambda: _residual(first, actual, expected, reference) if phase == "module_input" else [],
        lambda: _inside(first, actual, ported, reference) if first.phase == "activation" and not first.before else [],
        lambda: _another_entry(first, actual, expected, ported, reference),
        lambda: _activation(first, actual, expected, reference),
        lambda: _rearranged(first, actual, expected, reference),
        lambda: _residual(first, actual, expected, reference),
        lambda: _precision(first, actual, expected, reference),
    ]
    for search in searches:
        if found := search():
            return found
    return []


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


def _activation(first: Divergence, actual: np.ndarray, expected: np.ndarray, reference: Trace) -> list[Finding]:
    """Recognises the activation on both sides by what it does to the output of the module before."""
    before = reference.phase(first.step, "activation").get(first.name)
    if first.phase == "output" and before is None:
        before = _matching_source(first, expected, reference)
    if before is not None and before.shape != actual.shape:  # the outputs of several calls, concatenated
        module = first.name.partition("#")[0]
        calls = [call for call in reference.metadata["calls"] if call.partition("#")[0] == module]
        outputs = reference.phase(first.step, "activation")
        before = np.concatenate([outputs[call] for call in calls], -1)
    if before is None or before.shape != actual.shape:
        return []
    before, dtype = np.asarray(before, np.float64), reference.dtype
    ours, theirs = (_recognised(before, after, dtype) for after in (actual, expected))
    if first.phase == "activation" and not first.before:  # within a module that should not have any
        ours, theirs = _recognised(expected, actual, dtype), "no activation"
    if theirs and not ours:
        function = ACTIVATIONS.get(theirs)
        if function is not None and theirs != "no activation" and close(actual, function(expected), dtype):
            return [Finding(f"the port applies {theirs} once more after `{first.name}`: apply it once")]
    if theirs and ours and ours != theirs:
        text = f"the port applies {ours} after `{first.name}` where the reference applies {theirs}"
        text += f": use {theirs}" if theirs != "no activation" else ": leave it out"
        # Where all numbers are positive, ELU and none at all are the same.
        return [Finding(text, certain=_fitting(before, expected, dtype) == 1)]
    return []


def _matching_source(first: Divergence, expected: np.ndarray, reference: Trace) -> np.ndarray | None:
    for call in reversed(reference.metadata["calls"]):
        output = reference.phase(first.step, "activation").get(call)
        if output is not None and output.shape == expected.shape and _recognised(output, expected, reference.dtype):
            return output
    return None


def _fitting(before: np.ndarray, after: np.ndarray, dtype: str) -> int:
    """Returns how many activations make one array of the other."""
    with np.errstate(all="ignore"):
        return sum(close(after, function(before), dtype) for function in ACTIVATIONS.values())


def _recognised(before: np.ndarray, after: np.ndarray, dtype: str) -> str | None:
    """Returns the name of the activation that makes one array of the other, with its parameter where it has one."""
    with np.errstate(all="ignore"):
        for label, function in ACTIVATIONS.items():
            if close(after, function(before), dtype):
                return label
        negative = before < 0
        if not negative.any() or not close(after[~negative], before[~negative], dtype):
            return None
        alpha = constant(after[negative] / np.expm1(before[negative]), dtype)
        if alpha is not None and neat(alpha) != "1" and close(after, elu(before, alpha), dtype):
            return f"jax.nn.elu(alpha={neat(alpha)})"
        slope = constant(after[negative] / before[negative], dtype)
        if slope is not None and close(after, leaky_relu(before, slope), dtype):
            return f"jax.nn.leaky_relu(negative_slope={neat(slope)})"
    return None


def _rearranged(first: Divergence, actual: np.ndarray, expected: np.ndarray, reference: Trace) -> list[Finding]:
    """Looks for the same numbers in other places, or times a factor."""
    dtype, name = reference.dtype, first.entry.name
    found = []
    if (factor := factor_between(actual, expected, dtype)) is not None:
        return [
            Finding(f"`{name}` is {neat(factor)} times the reference's in the port: take the factor {neat(factor)} out")
        ]
    half = expected.shape[-1] // 2 if expected.ndim else 0
    if half and expected.shape[-1] == 2 * half:
        left, right = expected[..., :half], expected[..., half:]
        if close(actual, np.concatenate((right, left), -1), dtype):
            return [Finding(f"the halves of `{name}` are swapped in the port: concatenate in the reference's order")]
        for part, twice in (("first", left), ("second", right)):
            if close(actual, np.concatenate((twice, twice), -1), dtype):
                return [Finding(f"both halves of `{name}` are the {part} in the port: concatenate the two codes")]
    if expected.ndim == 2:
        for output in reference.phase(first.step, "activation").values():
            if output.ndim == 4 and len(output) == len(expected) and output.shape[1] > 1:
                for pool in (1, 2, 4, 8):
                    shape = (len(output), output.shape[1], output.shape[2] // pool, output.shape[3] // pool)
                    if 0 in shape or np.prod(shape[1:]) != expected.shape[1]:
                        continue
                    turned = expected.reshape(shape).transpose(0, 2, 3, 1).reshape(expected.shape)
                    if close(actual, turned, dtype):
                        text = "the port flattens [height, width, channels], torch [channels, height, width]"
                        return [Finding(f"{text}: x.transpose(0, 3, 1, 2) before the reshape")]
    for axes in ((0, 2, 1), (1, 0, 2)):
        if expected.ndim == 3 and close(actual, expected.transpose(axes), dtype):
            return [Finding(f"`{name}` has its axes in the order {axes} in the port: transpose them back")]
    return found


def _residual(first: Divergence, actual: np.ndarray, expected: np.ndarray, reference: Trace) -> list[Finding]:
    """Looks whether the difference is something computed before: a skip connection left out, or one too many."""
    apart = expected - actual
    small = not np.isfinite(apart).all() or np.abs(apart).max() < 1e-3 * np.abs(expected).max()
    if small or factor_between(actual, expected, reference.dtype) is not None:
        return []
    for phase in ("activation", "module_input"):
        for other, array in reference.phase(first.step, phase).items():
            itself = other == first.name and phase == "activation"  # relu(-x) is relu(x) - x
            if itself or array.shape != apart.shape or array.dtype.kind != "f":
                continue
            what = f"the {'output' if phase == 'activation' else 'input'} of `{other}`"
            where = f"between `{first.name}` and `{first.before}`" if first.before else f"in `{first.name}`"
            if close(apart, array, reference.dtype):
                return [
                    Finding(f"the port does not add {what} {where}, which the reference does: add the skip connection")
                ]
            if close(-apart, array, reference.dtype):
                return [Finding(f"the port adds {what} {where}, which the reference does not: leave it out")]
    return []


def _precision(first: Divergence, actual: np.ndarray, expected: np.ndarray, reference: Trace) -> list[Finding]:
    for kind in ("tf32", "bfloat16", "float16"):
        with np.errstate(over="ignore"):
            if np.array_equal(actual, rounded_to(expected, kind)):
                text = f"`{first.entry.name}` is rounded to {kind} in the port: keep {reference.dtype}"
                return [Finding(text, kind="precision")]
    return []


def _inside(first: Divergence, actual: np.ndarray, ported: Trace, reference: Trace) -> list[Finding]:
    """Tries what may be wrong within a module, by its kind."""
    call = first.entry.name.partition("[")[0]
    module = call.partition("#")[0]
    kind = reference.metadata["modules"].get(module, "")
    taken = reference.phase(first.step, "module_input").get(call)
    params = reference.params(first.step)
    if taken is None:
        return []
    own = {
        name.removeprefix(f"{module}."): np.asarray(a, np.float64)
        for name, a in params.items()
        if name.startswith(f"{module}.")
    }
    if "Norm" in kind:
        return norm_findings(module, kind, taken, actual, own, reference.dtype, reference, first.step)
    weight = own.get("weight")
    if weight is None or weight.ndim != 2 or kind == "Embedding" or taken.shape[-1] != weight.shape[1]:
        return []
    return _in_linear(module, taken, actual, weight, own.get("bias"), params, reference.dtype)


def _in_linear(
    module: str,
    taken: np.ndarray,
    actual: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    params: dict[str, np.ndarray],
    dtype: str,
) -> list[Finding]:
    taken = np.asarray(taken, np.float64)
    shift = np.zeros(len(weight)) if bias is None else bias
    for predicted, text in _linear_variants(module, taken, weight, shift, params):
        if close(actual, predicted, dtype):
            return [Finding(text)]
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


def _linear_variants(
    module: str, taken: np.ndarray, weight: np.ndarray, bias: np.ndarray, params: dict[str, np.ndarray]
) -> Iterator[tuple[np.ndarray, str]]:
    """Yields what a linear layer would give with each known fault, and what to say of it."""
    product = taken @ weight.T
    if bias.any():
        yield product, f"`{module}` does not add its bias in the port: add it, as torch.nn.Linear does"
        yield product + 2 * bias, f"`{module}` adds its bias twice in the port: add it once"
        yield product - bias, f"`{module}` subtracts its bias in the port: add it"
    if weight.shape[0] == weight.shape[1]:
        turned = f"the kernel of `{module}` is transposed in the port"
        yield taken @ weight + bias, f"{turned}: flax's kernel [in, out] is torch's weight [out, in] transposed once"
    for name, other in params.items():
        owner = name.rpartition(".")[0]
        if name.endswith(".weight") and owner != module and other.shape == weight.shape:
            shift = np.asarray(params.get(f"{owner}.bias", np.zeros(len(weight))), np.float64)
            text = f"`{module}` computes with the weights of `{owner}` in the port: the two are swapped"
            yield taken @ np.asarray(other, np.float64).T + shift, f"{text}; give each module its own name"
