"""Finds the first divergence, and the module or parameter to blame."""

from collections.abc import Sequence

import numpy as np

from torch_ref.common.call_names import containers
from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Entry
from .activations import ACTIVATIONS


def localise(entries: Sequence[Entry], free: Sequence[Entry], ported: Trace, reference: Trace) -> Divergence | None:
    """Returns the first entry out of bounds, and the module or parameter to blame; None where all agrees.

    A module whose input agrees and whose output does not is to blame. Where an input is the first to disagree, the code
    before it is, which is named after the module whose output it works on.

    Args:
        entries: in the order in which they are computed.
        free: those of the free-running training, which decide only where all others agree.
        ported: the port's trace.
        reference: the reference's.
    """
    if wrong := next((entry for entry in entries if not entry.passed), None):
        return _blame(wrong, ported, reference, wrong.step)
    if wrong := next((entry for entry in free if not entry.passed), None):
        return Divergence(wrong.step, wrong.phase, wrong.name, wrong, free=True)
    return None


def _blame(entry: Entry, ported: Trace, reference: Trace, step: int) -> Divergence:
    name, phase = entry.name, entry.phase
    call = name.partition("[")[0]
    # What only the reference has as a module, such as torch.nn.ELU, belongs to the code between two modules.
    shared = ported.phase(step, "activation")
    calls = [other for other in reference.metadata["calls"] if other in shared or other == call]
    if phase == "module_input":
        source = _source(reference, step, f"{step}/{phase}/{name}", calls[: calls.index(call)])
        return Divergence(step, phase, source or call, entry, before=call if source else "")
    if phase == "activation" and call.partition("#")[0] in containers(calls):
        within = [other for other in calls[: calls.index(call)] if other.startswith(f"{call.partition('#')[0]}.")]
        source = _source(reference, step, f"{step}/{phase}/{name}", within)
        return Divergence(step, phase, source or call, entry, before=f"{call} (its end)" if source else "")
    if phase in ("activation", "cotangent"):
        return Divergence(step, phase, call, entry)
    if phase == "state":
        return Divergence(step, phase, name.rpartition(".")[0], entry)
    return Divergence(step, phase, name, entry)


def _source(reference: Trace, step: int, key: str, calls: Sequence[str]) -> str:
    """Returns the call whose output arrives at an entry, as it is or through an activation; else the last one."""
    target = reference.arrays[key]
    for call in reversed(calls):
        output = reference.arrays.get(f"{step}/activation/{call}")
        if output is None or output.shape != target.shape or output.dtype.kind != "f":
            continue
        for function in ACTIVATIONS.values():
            with np.errstate(all="ignore"):
                if np.allclose(function(output), target, rtol=1e-5, atol=1e-7, equal_nan=True):
                    return call
    return calls[-1] if calls else ""
