"""Recognises differences in the running statistics that a batch norm leaves behind."""

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Finding
from .numbers import close, constant, neat


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
