"""Recognises differences in the first weights: transposed, swapped, left out, drawn anew."""

from itertools import permutations

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Finding
from .numbers import close, factor_between, names_text, neat

_UNKNOWN = ("GRU", "LSTM", "RNN", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


def weight_findings(first: Divergence, ported: Trace, reference: Trace) -> list[Finding]:
    """Returns what makes the port's first parameters of the reference's."""
    got, expected, dtype = ported.phase(0, "param"), reference.phase(0, "param"), reference.dtype
    name = first.name
    if name not in expected:
        text = f"the port has `{name}`, which the reference lacks"
        if name.endswith("bias"):
            return [Finding(f"{text}: leave it out (use_bias=False), as the reference's layer has none")]
        return [Finding(f"{text}: leave the module out that holds it, or say with a rename which one of torch's it is")]
    if name not in got:
        module, _, leaf = name.rpartition(".")
        text, kind = f"the port has no `{name}`", reference.metadata["modules"].get(module, "")
        if kind in _UNKNOWN:
            known = f"the map of the weights knows no {kind}: compare what stands around it"
            return [Finding(f"{text} that the map could find; {known}", certain=False)]
        if leaf == "bias":
            return [Finding(f"{text}: give the layer a bias (use_bias=True), as the reference's has one")]
        return [Finding(f"{text}: give the port the module that holds it, or say with a rename which one it is")]
    actual, target = got[name], expected[name]
    wrong = [n for n in expected if n in got and not close(got[n], expected[n], dtype)]
    found = []
    for axes in permutations(range(target.ndim)):
        turned = target.transpose(axes)
        if list(axes) != sorted(axes) and close(actual, turned, dtype):
            say = "transposed" if target.ndim == 2 else f"with its axes in the order {axes}"
            found.append(
                Finding(
                    f"`{name}` is {say} in the port: a kernel [in, out] is torch's weight [out, in] transposed once, "
                    "square ones too"
                )
            )
    if not found:
        others = [
            n for n in expected if n != name and expected[n].shape == target.shape and close(actual, expected[n], dtype)
        ]
        found += [_swapped(name, other, got, expected, dtype) for other in others[:1]]
    if not found and dtype == "float64" and np.array_equal(actual, target.astype(np.float32)):
        found.append(Finding(f"`{name}` went through float32 in the port: convert in float64 (jax.enable_x64)"))
    if not found and not actual.any():
        found.append(Finding(f"`{name}` is zero in the port, as Flax draws it: copy the reference's"))
    if not found and (factor := factor_between(actual, target, dtype)) is not None:
        found.append(Finding(f"`{name}` is {neat(factor)} times the reference's: copy it as it is"))
    if not found and target.ndim > 2:
        flipped = np.flip(target, axis=tuple(range(2, target.ndim)))
        if close(actual, flipped, dtype):
            found.append(
                Finding(f"the kernel of `{name}` is flipped in the port: torch and Flax both correlate, flip nothing")
            )
    if not found:
        text = f"the port starts from other numbers in {names_text(wrong)}: convert the reference's weights"
        found.append(Finding(f"{text} rather than drawing new ones", certain=False))
    return found


def _swapped(name: str, other: str, got: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> Finding:
    """Says which modules are swapped: the shortest names under which the two differ."""
    parts, others = name.split("."), other.split(".")
    differ = next(i for i, (a, b) in enumerate(zip(parts, others, strict=False)) if a != b)
    one, two = ".".join(parts[: differ + 1]), ".".join(others[: differ + 1])
    whole = [n for n in expected if n.startswith(f"{one}.")]
    theirs = [f"{two}{n.removeprefix(one)}" for n in whole]
    if not all(
        n in got and m in expected and close(got[n], expected[m], dtype) for n, m in zip(whole, theirs, strict=True)
    ):
        one, two = name, other
    mutual = other in got and close(got[other], expected[name], dtype)
    text = f"the port has `{two}`'s weights in `{one}`{', and the other way round: they are swapped' if mutual else ''}"
    return Finding(f"{text}; put each where its name says")
