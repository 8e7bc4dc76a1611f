"""Names the cause: tries each known difference on the reference's numbers and sees whether it gives the port's."""

from collections.abc import Callable

from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Finding
from .backward import backward_findings
from .batches import data_findings
from .forward import forward_findings
from .losses import loss_findings
from .optimizer.findings import optimizer_findings
from .weights import weight_findings

_KNOWN: dict[str, Callable[[Divergence, Trace, Trace], list[Finding]]] = {
    "data": data_findings,
    "weights": weight_findings,
    "forward": forward_findings,
    "loss": loss_findings,
    "backward": backward_findings,
    "optimiser": lambda first, ported, reference: optimizer_findings(ported, reference),
}


def diagnose(first: Divergence, ported: Trace, reference: Trace) -> list[Finding]:
    """Returns the known differences that explain the first divergence, best first; none where none does.

    Args:
        first: where the traces part.
        ported: the port's trace.
        reference: the reference's.
    """
    if first.free:
        return []
    found = _KNOWN[first.group](first, ported, reference)
    return sorted(dict.fromkeys(found), key=lambda finding: not finding.certain)
