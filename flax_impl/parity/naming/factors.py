"""Names what makes the reference's value of the port's as a whole: a sign, a factor, a number added, a reciprocal."""

from collections.abc import Iterator, Sequence

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..alignment.divergence import Divergence
from ..report.entries import Finding
from .cut import HUGE, Cut
from .words import meaning, neat

_ABSURD = 1e6  # a factor that nobody wrote
_ALMOST_ONE = 1e-2
_LEAST = 3  # numbers that a factor must hold for


def sign_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that the sign is another."""
    if not cut.gives(-cut.own):
        return
    takers = {cut.port.operations[i].name for i in cut.exchange.takers or ()}
    if takers == {"add"}:
        yield Finding("the port adds where the reference subtracts: subtract", kind="operation")
    elif takers == {"sub"}:
        yield Finding("the port subtracts where the reference adds: add", kind="operation")
    else:
        yield Finding("the port's value has the other sign: change it", kind="sign")


def factor_causes(cut: Cut) -> Iterator[Finding]:
    """Yields the factor, and what it may be."""
    factor = _factor(cut.counted(cut.own), cut.counted(cut.wanted))
    if factor is None or not 1 / _ABSURD < abs(factor) < _ABSURD or not cut.gives(cut.own * factor):
        return
    if abs(factor - 1) < _ALMOST_ONE:
        for epsilon in (number for number in cut.known_numbers if 0 < number < _ALMOST_ONE):
            if abs(factor - (1 + epsilon) ** -0.5) < 1e-3 * epsilon:  # of fresh statistics, a variance of one
                text = "the port does not add epsilon before its root, which the reference does"
                yield Finding(f"{text}: add {neat(epsilon)}", kind="missing", operation=cut.last)
                return
    words = meaning(1 / factor, _lengths(cut)) or meaning(factor, _lengths(cut))
    shown = f"{neat(1 / factor)} times the reference's"
    what = f", as {words}" if words and not words.startswith("n ") and not words.startswith("(") else ""
    more = f" ({words})" if words and not what else ""
    yield Finding(
        f"the port's value is {shown}{what}{more}: multiply by {neat(factor)}", kind="factor", operation=cut.last
    )


def offset_causes(cut: Cut) -> Iterator[Finding]:
    """Yields the number that is added."""
    if cut.own.size < _LEAST:
        return
    offset = float(np.median(cut.counted(cut.wanted - cut.own)))
    if np.isfinite(offset) and cut.gives(cut.own + offset):
        way = "less" if offset > 0 else "more"
        text = f"the port's value is {neat(abs(offset))} {way} than the reference's everywhere"
        yield Finding(f"{text}: add {neat(offset)}", kind="constant", operation=cut.last)


def reciprocal_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that one is the other's reciprocal."""
    if cut.own.size >= _LEAST and (cut.own != 0).all() and cut.gives(1 / cut.own):
        yield Finding("the port's value is one over the reference's: divide the other way round", kind="operands")


def loss_causes(divergence: Divergence) -> Iterator[Finding]:
    """Yields that the whole loss is a multiple of the reference's, where every gradient is the same multiple.

    Args:
        divergence: of the loss, while all outputs agree.
    """
    partners = divergence.partners
    if partners is None or divergence.backward:
        return
    ours, theirs = (_results(tape, "loss/") for tape in (partners.reference, partners.port))
    if len(ours) != 1 or len(theirs) != 1 or ours[0].size != 1 or not ours[0].any():
        return
    factor = float(theirs[0].item() / ours[0].item())
    sizes = [array.size for tape in (partners.reference, partners.port) for array in _results(tape, "grad/")]
    wanted, own = (_sorted(_results(tape, "grad/")) for tape in (partners.reference, partners.port))
    if not np.isfinite(factor) or len(wanted) != len(own) or len(wanted) < _LEAST or abs(factor - 1) < 1e-9:
        return
    if np.abs(own - abs(factor) * wanted).max() > 1e-7 * np.abs(own).max():
        return
    lengths = {length for name, n in partners.port.results.items() if name.startswith("output/")
               for length in (*partners.port.values[n].shape, partners.port.values[n].size)}  # fmt: skip
    words = {2.0: "twice the reference's", 0.5: "half the reference's, as optax.l2_loss has it"}.get(round(factor, 9))
    if words is None and any(abs(factor - length) < 1e-7 * length for length in lengths | set(sizes)):
        words = f"{neat(factor)} times the reference's: a sum where that is a mean over {neat(factor)}"
    elif words is None and any(abs(factor * length - 1) < 1e-7 for length in lengths | set(sizes)):
        words = f"{neat(factor)} times the reference's: a mean over {neat(1 / factor)} where that is a sum"
    words = words or f"{neat(factor)} times the reference's"
    yield Finding(f"the port's loss is {words}, and so is every gradient: take the factor out", kind="loss")


def _results(tape: Tape, kind: str) -> list[np.ndarray]:
    found = [tape.arrays.get(number) for name, number in tape.results.items() if name.startswith(kind)]
    return [np.asarray(array, np.float64) for array in found if array is not None]


def _sorted(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the sizes of all numbers, whatever the layouts."""
    return np.sort(np.concatenate([np.abs(array).ravel() for array in arrays])) if arrays else np.zeros(0)


def _factor(own: np.ndarray, wanted: np.ndarray) -> float | None:
    """Returns the number that makes the one of the other; numbers that are huge are a mask's."""
    usual = (np.abs(own) < HUGE) & (np.abs(wanted) < HUGE)
    a, b = own[usual], wanted[usual]
    if (np.abs(a) > 0).sum() < _LEAST:
        return None
    factor = float((a * b).sum() / (a * a).sum())
    return None if factor == 0 or abs(factor - 1) < 1e-12 else factor


def _lengths(cut: Cut) -> set[int]:
    """Returns the lengths of all axes around, and how many numbers there are."""
    found: set[int] = set(cut.own.shape)
    for i in cut.theirs:
        for value in (*cut.port.operations[i].inputs, *cut.port.operations[i].outputs):
            found.update(cut.port.values[value].shape)
    return found
