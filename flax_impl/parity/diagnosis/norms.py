"""Recognises differences within a normalisation layer: epsilon, statistics, scale and shift."""

from collections.abc import Iterator, Mapping

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Finding
from .numbers import close, constant, neat


def norm_findings(
    module: str,
    kind: str,
    taken: np.ndarray,
    actual: np.ndarray,
    own: Mapping[str, np.ndarray],
    dtype: str,
    reference: Trace,
    step: int,
) -> list[Finding]:
    """Returns what makes the port's output of a normalisation layer.

    Args:
        module: its name.
        kind: torch's class.
        taken: what it was called with, in torch's layout.
        actual: what the port's returned.
        own: its parameters and running statistics.
        dtype: of the training.
        reference: the reference's trace.
        step: of the training.
    """
    x = np.asarray(taken, np.float64)
    expected = np.asarray(reference.phase(step, "activation")[module], np.float64)
    if kind.startswith("Group"):
        return _group_findings(module, x, actual, expected, own, dtype)
    for label, (mean, variance) in _statistics(kind, x, own):
        shape = [1, -1, *[1] * (x.ndim - 2)] if kind.startswith(("Batch", "Group", "Instance")) else [-1]
        scale, shift = (
            own[key].reshape(shape) if key in own else default for key, default in (("weight", 1.0), ("bias", 0.0))
        )
        eps = _epsilon(x, actual, mean, variance, scale, shift, dtype)
        theirs = _epsilon(x, expected, mean, variance, scale, shift, dtype)
        if eps is not None and (label or (theirs is not None and abs(eps - theirs) > 1e-3 * max(eps, theirs, 1e-12))):
            if label:
                return [
                    Finding(f"`{module}` normalises {label} in the port, which the reference's does not: change that")
                ]
            text = f"`{module}` has epsilon {_power(eps)} in the port where the reference has {_power(theirs)}"
            return [Finding(f"{text}: pass epsilon={_power(theirs)}" if theirs else text)]
        if label or theirs is None:
            continue
        normal = (x - mean) / np.sqrt(variance + theirs)
        for predicted, text in (
            (normal + shift, "does not scale: pass use_scale=True"),
            (normal * scale, "does not shift: pass use_bias=True"),
            (normal, "neither scales nor shifts: pass use_scale=True and use_bias=True"),
            (normal * (1 + scale) + shift, "scales by 1 + scale: scale by scale"),
        ):
            if close(actual, np.broadcast_to(predicted, actual.shape), dtype):
                return [Finding(f"`{module}` {text}")]
    if np.abs(actual - expected).max() < 1e-3 * np.abs(expected).max():
        text = f"`{module}` loses digits in the port where means are large: pass use_fast_variance=False"
        return [Finding(text, certain=False, kind="precision")]
    return []


def _group_findings(
    module: str,
    x: np.ndarray,
    actual: np.ndarray,
    expected: np.ndarray,
    own: Mapping[str, np.ndarray],
    dtype: str,
) -> list[Finding]:
    """Returns with how many groups, and which epsilon, each side's output comes of the input."""
    channels = x.shape[1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale, shift = (own[key].reshape(shape) if key in own else d for key, d in (("weight", 1.0), ("bias", 0.0)))
    found: list[tuple[int, float] | None] = []
    for side in (actual, expected):
        fitting = None
        for groups in (n for n in range(1, channels + 1) if channels % n == 0):
            grouped = x.reshape(len(x), groups, -1)
            statistics = (np.repeat(of(grouped, 2), channels // groups, 1) for of in (np.mean, np.var))
            mean, variance = (array.reshape(*array.shape, *[1] * (x.ndim - 2)) for array in statistics)
            eps = _epsilon(x, side, mean, variance, scale, shift, dtype)
            fitting = fitting or (None if eps is None else (groups, eps))
        found.append(fitting)
    ours, theirs = found
    if ours is None or theirs is None:
        return []
    if ours[0] != theirs[0]:
        text = f"`{module}` has {ours[0]} groups in the port where the reference has {theirs[0]}"
        return [Finding(f"{text}: pass num_groups={theirs[0]}")]
    text = f"`{module}` has epsilon {_power(ours[1])} in the port where the reference has {_power(theirs[1])}"
    return [Finding(f"{text}: pass epsilon={_power(theirs[1])}")]


def buffer_findings(name: str, actual: np.ndarray, expected: np.ndarray, reference: Trace, step: int) -> list[Finding]:
    """Returns what makes the port's running statistic of a batch norm of the reference's.

    Args:
        name: of the buffer.
        actual: the port's, after the step.
        expected: the reference's.
        reference: its trace.
        step: of the training.
    """
    module, _, leaf = name.rpartition(".")
    taken, before = reference.phase(step, "module_input").get(module), reference.params(step).get(name)
    if taken is None or before is None or leaf not in ("running_mean", "running_var"):
        return []
    if np.array_equal(actual, before):
        return [
            Finding(
                f"`{name}` stays as it was in the port: apply with mutable=['batch_stats'], and keep what comes out"
            )
        ]
    x = np.asarray(taken, np.float64)
    axes = (0, *range(2, x.ndim))
    kinds = {"": x.mean(axes)} if leaf == "running_mean" else {"unbiased": x.var(axes, ddof=1), "biased": x.var(axes)}
    shares: dict[str, dict[str, float]] = {"port": {}, "torch": {}}
    for side, after in (("port", actual), ("torch", expected)):
        for kind, statistic in kinds.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                share = constant((after - before) / (statistic - before), reference.dtype)
            if share is not None and close(after, before + share * (statistic - before), reference.dtype):
                shares[side][kind] = share
    if not all(shares.values()):
        return []
    # In float32 both kinds may fit: the pair with the most alike shares is it.
    pairs = [(a, b) for a in shares["port"].items() for b in shares["torch"].items()]
    (ours, share), (theirs, right) = min(pairs, key=lambda pair: abs(pair[0][1] - pair[1][1]))
    if ours != theirs:
        text = f"`{name}` moves with the {ours} variance of the batch in the port, torch's with the {theirs} one"
        return [Finding(f"{text}: multiply it by n / (n - 1), n = {x.size // x.shape[1]} here, before it is averaged")]
    text = f"`{name}` takes {neat(share)} of each batch in the port where the reference's takes {neat(right)}"
    return [Finding(f"{text}: pass momentum={neat(1 - right)}, as Flax names the share that is kept")]


def _statistics(
    kind: str, x: np.ndarray, own: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Yields mean and variance in the ways there are, the usual one first, with what is unusual about the others."""

    def of(axes: tuple[int, ...], ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
        return x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)

    if kind.startswith("Batch"):
        axes = (0, *range(2, x.ndim))
        shape = [1, -1, *[1] * (x.ndim - 2)]
        running = [own[name].reshape(shape) for name in ("running_mean", "running_var") if name in own]
        yield "", of(axes)
        yield "by the unbiased variance of the batch", of(axes, 1)
        if len(running) == 2:
            yield "by its running statistics, use_running_average=True,", (running[0], running[1])
        yield "over the features, as a layer norm does,", of(tuple(range(1, x.ndim)))
    elif kind.startswith("RMS"):
        yield "", (np.zeros(1), (x**2).mean(-1, keepdims=True))
        yield "around the mean, as a layer norm does,", of((-1,))
    else:
        yield "", of((-1,)) if kind.startswith("Layer") else of(tuple(range(2, x.ndim)))
        yield "by the unbiased variance", of((-1,), 1)
        yield "without taking off the mean, as an RMS norm does,", (np.zeros(1), (x**2).mean(-1, keepdims=True))
        yield "over the batch", of((0,))


def _epsilon(
    x: np.ndarray, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, scale: object, shift: object, dtype: str
) -> float | None:
    """Returns the epsilon with which the output comes of the input; None where none does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        root = (x - mean) * scale / (y - shift)
        estimates = root**2 - variance
        weights = np.abs(y - shift)
    good = np.isfinite(estimates) & (weights > 0.3 * np.nanmax(weights))
    if not good.any():
        return None
    eps = float(np.median(estimates[good]))
    eps = 0.0 if abs(eps) < (1e-13 if dtype == "float64" else 1e-7) else eps
    if eps < 0:
        return None
    predicted = (x - mean) * scale / np.sqrt(variance + eps) + shift
    return eps if constant(predicted - y + 1.0, dtype) is not None and close(y, predicted, dtype) else None


def _power(eps: float | None) -> str:
    """Returns an epsilon as people write it."""
    if not eps:
        return "0"
    exponent = round(np.log10(eps))
    return (
        f"1e{exponent:+03d}".replace("e+0", "e").replace("e-0", "e-")
        if abs(eps / 10**exponent - 1) < 0.02
        else neat(eps)
    )
