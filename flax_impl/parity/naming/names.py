"""Names the cause of a divergence: tries each known difference on the port and sees whether the reference comes out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from torch_ref.common.tape.tape import Operation, Tape

from ..alignment.divergence import Divergence
from ..alignment.partners import Partners
from ..alignment.repair import Runnable
from ..report.entries import Finding
from .constants import constant_causes, epsilon_causes, solved_causes, statistics_causes
from .cut import Cut
from .factors import factor_causes, loss_causes, offset_causes, reciprocal_causes, sign_causes
from .functions import activation_causes, group_causes, reduction_causes, unary_causes, whole_activation_causes
from .inputs import (
    doubled_causes,
    exchanged_causes,
    input_causes,
    joined_causes,
    product_causes,
    taken_causes,
    unused_causes,
    weight_causes,
)
from .masks import chosen_causes, draw_causes, mask_causes, masked_causes, rate_causes, scale_causes
from .operations import extra_causes, lacking_causes, missing_causes, operand_causes
from .orders import (
    flattened_causes,
    hidden_order_causes,
    inner_order_causes,
    order_causes,
    paired_causes,
    same_numbers,
)
from .windows import pool_causes, window_causes
from .words import line_of

_Known = Callable[[Cut], Iterator[Finding]]
# What says most comes first: the first that holds is the name.
_PLAIN: tuple[_Known, ...] = (
    rate_causes,
    scale_causes,
    draw_causes,
    chosen_causes,
    doubled_causes,
    exchanged_causes,
    flattened_causes,
    order_causes,
    window_causes,
    statistics_causes,
    constant_causes,
    extra_causes,
    operand_causes,
    sign_causes,
    mask_causes,
    masked_causes,
    joined_causes,
    epsilon_causes,
    missing_causes,
    unused_causes,
)
_FUNCTIONS: tuple[_Known, ...] = (activation_causes,)
_REST: tuple[_Known, ...] = (
    unary_causes,
    product_causes,
    input_causes,
    pool_causes,
    reduction_causes,
    factor_causes,
    reciprocal_causes,
    solved_causes,
    offset_causes,
    paired_causes,
    hidden_order_causes,
    inner_order_causes,
    taken_causes,
    lacking_causes,
    same_numbers,
)


def name_causes(divergence: Divergence, port: Runnable, *, strict: bool = False) -> tuple[Finding, ...]:
    """Returns what the port does otherwise at a place, best first; nothing where no known difference explains it.

    A cause is certain where the port, changed so, gives the reference's value, and where with that value all that comes
    after agrees.

    Args:
        divergence: the place, with the reference's value that was put in.
        port: runs operations of the port again.
        strict: whether an error in here is raised; else it costs the name.
    """
    try:
        found = next(_found(divergence, port), None)
    except Exception:  # a name that cannot be looked for costs the name, never the report
        if strict:
            raise
        return ()
    if found is None:
        return ()
    # All gradients, too, are the proof for a loss; and a stop_gradient that only one side has says so itself.
    is_sure = divergence.proved or found.kind in ("loss", "stopped")
    if found.kind in ("extra", "missing") and divergence.iterated:
        is_sure = False  # what a loop starts from is often zero
    return (replace(found, certain=found.certain and is_sure),)


def moved(divergence: Divergence, causes: Sequence[Finding]) -> Divergence:
    """Returns a divergence whose place is the operation that its cause speaks of, where that is sure.

    Args:
        divergence: the place.
        causes: of it, the best first.
    """
    named = next((cause.operation for cause in causes if cause.certain), None)
    place = divergence.port
    if named is None or place is None or named == place.first:
        return divergence
    return replace(divergence, port=place.led_by(named))


def _found(divergence: Divergence, port: Runnable) -> Iterator[Finding]:
    if divergence.backward:
        yield from _gradient_causes(divergence)
    elif divergence.exchange is None or _is_loss(divergence.exchange.port, divergence.partners):
        yield from loss_causes(divergence)
    else:
        yield from weight_causes(divergence, port)
    cuts = list(Cut.of(divergence, port))
    first = cuts[:1]
    if first and not first[0].theirs:  # what the port lacks here it may have later, with another number
        for cut in cuts[1:]:
            for known in (constant_causes, mask_causes, masked_causes):
                yield from known(cut)
    # An activation is told as a whole: what comes last of it says most.
    whole = (whole_activation_causes, group_causes)
    for known, where in (
        (whole, cuts[::-1]),
        (_PLAIN, first),
        (_FUNCTIONS, cuts[::-1]),
        (_REST, first),
        ((*_PLAIN, *_REST), cuts[1:]),
    ):
        for cut in where:
            for causes in known:
                yield from causes(cut)


def _is_loss(value: int, partners: Partners | None) -> bool:
    results = {} if partners is None else partners.port.results
    return any(number == value for name, number in results.items() if name.startswith("loss/"))


def _is_kink(divergence: Divergence) -> bool:
    """Whether a gradient differs only where a maximum or minimum is of two equal numbers."""
    partners, port, exchange = divergence.partners, divergence.port, divergence.exchange
    if partners is None or port is None or exchange is None:
        return False
    operation, own = partners.port.operations[port.first], partners.port.arrays.get(exchange.port)
    numbers = [number for name, number in operation.constants.items() if name.startswith("literal")]
    given = [partners.port.arrays.get(value) for value in operation.inputs]
    operands = [array for array in (*given, *numbers) if array is not None]
    if operation.name not in ("max", "min") or own is None or len(operands) != 2:
        return False
    equal, apart = np.equal(*operands), np.abs(own - exchange.array) > 1e-9 * np.abs(exchange.array).max(initial=0.0)
    return equal.shape == apart.shape and bool(apart.any()) and bool((equal | ~apart).all())


def _comes_back(operation: Operation, tape: Tape) -> bool:
    """Whether a gradient other than zero comes back through the lines of an operation."""
    back = (other for other in tape.operations if other.backward and other.lines[:2] == operation.lines[:2])
    return bool(operation.lines) and any(tape.values[v].scale > 0 for other in back for v in other.outputs)


def _gradient_causes(divergence: Divergence) -> Iterator[Finding]:
    """Yields that one side stops a gradient, where its operation says so.

    Args:
        divergence: of gradients, while losses and outputs agree.
    """
    partners, port, reference = divergence.partners, divergence.port, divergence.reference
    if partners is None or port is None:
        return
    operation = partners.port.operations[port.first]
    where = f" at {line_of(operation)}" if operation.lines else ""
    first = None if reference is None else partners.reference.operations[reference.first]
    if first is not None and first.name == "aten.detach" and not first.backward:
        line = f" at {line_of(first)}" if first.lines else ""
        text = f"the reference stops a gradient{line} with detach(), the port does not"
        yield Finding(f"{text}: put it through jax.lax.stop_gradient", kind="gradient")
    elif operation.name == "stop_gradient":
        text = f"no gradient passes{where} in the port, which the reference lets through"
        yield Finding(f"{text}: take the jax.lax.stop_gradient off", kind="stopped")
    elif not operation.backward and _is_kink(divergence):
        text = f"the gradients differ only where `{operation.name}`{where} is at its kink"
        yield Finding(f"{text}: jax.nn.relu has 0 there, as torch has, jnp.maximum(x, 0) 0.5", kind="gradient")
    elif not operation.backward and _comes_back(operation, partners.port):
        text = f"another gradient comes back{where} in the port than in the reference"
        yield Finding(
            f"{text}: look for a detach() or no_grad() there that the port lacks", certain=False, kind="gradient"
        )
    elif not operation.backward:
        text = f"no gradient comes back{where} in the port, where the reference's has one"
        yield Finding(
            f"{text}: look for a jax.lax.stop_gradient, or for an integer or a rounding", certain=False, kind="gradient"
        )
