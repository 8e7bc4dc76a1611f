"""Names another mask, such as one that is inverted or shifted, and what is drawn otherwise: dropout's masks, noise."""

from collections.abc import Iterator

import numpy as np

from ..alignment.proof.draws import draws, is_drawn, paired
from ..report.entries import Finding
from .constants import constant_causes
from .cut import HUGE, Cut
from .words import neat

_DIAGONALS = (0, -1, 1, -2, 2)


def mask_causes(cut: Cut) -> Iterator[Finding]:
    """Yields what is wrong with the port's mask, where another gives the reference's value."""
    for i in reversed(cut.theirs):
        operation = cut.port.operations[i]
        if operation.name != "select_n":
            continue
        operands = cut.operands(i)
        if operands is None or len(operands) != 3 or operands[0].dtype.kind != "b":
            continue
        made = operation.outputs[0]
        shape = cut.port.values[made].shape
        mask, off, on = (np.broadcast_to(operand, shape) for operand in operands)
        for other, words in _others(mask):
            if not np.array_equal(other, mask) and cut.works({made: np.where(other, on, off)}):
                yield Finding(f"the port's mask {words}", kind="mask", operation=i)
                return
        if made == cut.exchange.port:
            yield from _at_positions(cut, mask, off, on)
            return


def chosen_causes(cut: Cut) -> Iterator[Finding]:
    """Yields what is wrong with a mask that was exchanged itself."""
    own = cut.port.arrays[cut.exchange.port]
    if own.dtype.kind != "b" or cut.further:
        return
    for other, words in _others(own):
        if np.array_equal(other, cut.exchange.array) and not np.array_equal(other, own):
            yield Finding(f"the port's mask {words}", kind="mask")
            return
    wrong = int((own != cut.exchange.array).sum())
    yield Finding(f"the port's mask differs at {wrong} of {own.size} positions", kind="mask")


def masked_causes(cut: Cut) -> Iterator[Finding]:
    """Yields the positions that only one side masks, where the values say so themselves."""
    chosen = _chosen(cut)
    ours, theirs = (~(np.abs(array) < HUGE) & chosen for array in (cut.own, cut.wanted))
    if not (ours != theirs).any() or not (ours.any() or theirs.any()):
        return
    rest = chosen & ~(ours | theirs)
    if rest.any() and np.abs(cut.own - cut.wanted)[rest].max() > 1e-9 * cut.scale:
        return
    for other, words in _others(ours):
        if np.array_equal(other, theirs):
            yield Finding(f"the port's mask {words}", kind="mask")
            return
    yield Finding(f"the port's mask differs at {int((ours != theirs).sum())} of {ours.size} positions", kind="mask")


def rate_causes(cut: Cut) -> Iterator[Finding]:
    """Yields another rate of dropout, where the number that it divides by is the reference's with the other rate."""
    kept, own = _shares(cut)
    if kept is None or own is None:
        return
    rates = [1 - kept, min(own, 1 - own, key=lambda rate: abs(1 - rate - kept))]
    if abs(rates[0] - rates[1]) > 1e-6 and (
        any(True for _ in constant_causes(cut)) or cut.gives(cut.own * (1 - rates[1]) / kept)
    ):
        text = f"the rate of dropout is {neat(rates[1])} in the port, {neat(rates[0])} in the reference"
        operation = cut.theirs[-1] if cut.theirs else None
        yield Finding(f"{text}: pass rate={neat(rates[0])}", kind="constant", operation=operation)


def scale_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that what dropout keeps is not divided by the share that it keeps."""
    share, _ = _shares(cut)
    if share is not None and cut.gives(np.where(cut.wanted == 0, 0, cut.own / share)):
        text = f"the port does not divide what dropout keeps by {neat(share)}, the share that it keeps"
        yield Finding(f"{text}, which the reference does: divide it", kind="factor")


def _shares(cut: Cut) -> tuple[float | None, float | None]:
    """Returns how much the mask that is used here keeps in the reference, and in the port; None where none is known."""
    pairs, around = paired(cut.reference, cut.port), [*cut.theirs, *(cut.exchange.takers or ())]
    theirs = is_drawn(cut.port, around, [port for _, port in pairs])
    return next(((ours.share, port.share) for ours, port in pairs if port == theirs), (None, None))


def draw_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that one side draws at random where the other does not."""
    pairs = paired(cut.reference, cut.port)
    ours = [draw for draw in draws(cut.reference) if draw not in [reference for reference, _ in pairs]]
    theirs = [draw for draw in draws(cut.port) if draw not in [port for _, port in pairs]]
    if (draw := is_drawn(cut.port, cut.theirs, theirs)) is not None:
        text = "the port draws at random here, which the reference does not: take the dropout out, or pass "
        yield Finding(f"{text}deterministic=True", kind="extra", operation=draw.operation)
    elif is_drawn(cut.reference, cut.ours, ours) is not None:
        text = "the reference draws at random here, as dropout does, and the port does not: add it, or call eval() on "
        yield Finding(f"{text}the reference", kind="missing")


def _chosen(cut: Cut) -> np.ndarray:
    """Returns where a value is taken that goes into a selection; everywhere if it goes into none."""
    everywhere = np.ones(cut.own.shape, bool)
    for i in cut.exchange.takers or ():
        operands = cut.operands(i) if cut.port.operations[i].name == "select_n" else None
        if operands is not None and len(operands) == 3 and operands[0].dtype.kind == "b":
            inputs = cut.port.operations[i].inputs
            if inputs[0] != cut.exchange.port and operands[0].shape == everywhere.shape:
                own = cut.port.arrays[cut.exchange.port]
                return operands[0] == bool(operands[2] is own)
    return everywhere


def _diagonal(mask: np.ndarray) -> int | None:
    """Returns up to which diagonal a mask is true; None where it is no such mask."""
    if mask.ndim < 2 or min(mask.shape[-2:]) < 2:
        return None
    ones = np.ones(mask.shape[-2:], bool)
    return next((k for k in _DIAGONALS if np.array_equal(mask, np.broadcast_to(np.tril(ones, k), mask.shape))), None)


def _others(mask: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """Yields other masks, and what is wrong with this one if it should be that."""
    yield ~mask, "is the other way round: invert it"
    for sign in (False, True):
        own = _diagonal(mask ^ sign)
        for other in _DIAGONALS if own is not None else ():
            moved = np.broadcast_to(np.tril(np.ones(mask.shape[-2:], bool), other), mask.shape)
            yield moved ^ sign, f"ends at diagonal {own} where the reference's ends at {other}: jnp.tril(..., {other})"
    axes = [axis for axis, length in enumerate(mask.shape) if length > 1]
    for axis in reversed(axes):
        for by in (1, -1):
            yield np.roll(mask, by, axis), f"is shifted by {-by} along axis {axis}: shift it by {by}"
    for axis in reversed(axes):
        for by in (1, -1):
            for fill in (False, True):
                moved = np.roll(mask, by, axis)
                edge = [slice(None)] * mask.ndim
                edge[axis] = slice(0, 1) if by > 0 else slice(-1, None)
                moved[tuple(edge)] = fill
                yield moved, f"is off by one along axis {axis}: shift it by {by}"
    if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
        yield mask.swapaxes(-1, -2), "is transposed: exchange its last two axes"
    yield np.ones_like(mask), "hides what the reference takes: it has none here"
    yield np.zeros_like(mask), "lets nothing through that the reference takes: it has none here"


def _at_positions(cut: Cut, mask: np.ndarray, off: np.ndarray, on: np.ndarray) -> Iterator[Finding]:
    """Yields how many positions differ, where the reference takes one branch or the other everywhere."""
    near = 1e-9 * cut.scale
    with np.errstate(all="ignore"):
        is_on = (np.abs(cut.wanted - on) <= near) | ((np.abs(cut.wanted) > HUGE) & (np.abs(on) > HUGE))
        is_off = (np.abs(cut.wanted - off) <= near) | ((np.abs(cut.wanted) > HUGE) & (np.abs(off) > HUGE))
    if not (is_on | is_off).all():
        return
    wrong = np.where(mask, ~is_on, ~is_off)
    if wrong.any():
        yield Finding(f"the port's mask differs at {int(wrong.sum())} of {mask.size} positions", kind="mask")
