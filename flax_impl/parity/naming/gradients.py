"""Names a gradient that is stopped or scaled on the way back."""

from collections.abc import Iterator

from ..alignment.divergence import Divergence
from ..report.entries import Finding


def gradient_causes(divergence: Divergence) -> Iterator[Finding]:
    """Yields that one side stops a gradient, where its operation says so.

    Args:
        divergence: of gradients, while losses and outputs agree.
    """
    partners, port, reference = divergence.partners, divergence.port, divergence.reference
    if partners is None or port is None:
        return
    operation = partners.port.operations[port.first]
    where = f" at `{operation.lines[0].text}`" if operation.lines else ""
    if operation.name == "stop_gradient":
        text = f"no gradient passes{where} in the port, which the reference lets through"
        yield Finding(f"{text}: take the jax.lax.stop_gradient off", kind="gradient")
    elif not operation.backward:
        text = f"no gradient comes back{where} in the port, where the reference's has one"
        yield Finding(
            f"{text}: look for a jax.lax.stop_gradient, or for an integer or a rounding", certain=False, kind="gradient"
        )
    elif reference is not None:
        first = partners.reference.operations[reference.first]
        if first.name == "aten.detach" and not first.backward:
            line = f" at `{first.lines[0].text}`" if first.lines else ""
            text = f"the reference stops a gradient{line} with detach(), the port does not"
            yield Finding(f"{text}: put it through jax.lax.stop_gradient", kind="gradient")
