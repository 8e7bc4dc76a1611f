"""Names what makes the reference's value of the port's as a whole: a sign, a factor, a number added, a reciprocal."""

from collections.abc import Iterator

import numpy as np

from ..report.entries import Finding
from .cut import Cut
from .words import meaning, neat

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
    factor = _factor(cut.own, cut.wanted)
    if factor is None or not cut.gives(cut.own * factor):
        return
    words = meaning(1 / factor, _lengths(cut)) or meaning(factor, _lengths(cut))
    shown = f"{neat(1 / factor)} times the reference's"
    what = f", as {words}" if words and not words.startswith("n ") and not words.startswith("(") else ""
    more = f" ({words})" if words and not what else ""
    yield Finding(f"the port's value is {shown}{what}{more}: multiply by {neat(factor)}", kind="factor")


def offset_causes(cut: Cut) -> Iterator[Finding]:
    """Yields the number that is added."""
    if cut.own.size < _LEAST:
        return
    offset = float(np.median(cut.wanted - cut.own))
    if np.isfinite(offset) and cut.gives(cut.own + offset):
        yield Finding(f"the port's value is {neat(-offset)} more than the reference's everywhere", kind="constant")


def reciprocal_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that one is the other's reciprocal."""
    if cut.own.size >= _LEAST and (cut.own != 0).all() and cut.gives(1 / cut.own):
        yield Finding("the port's value is one over the reference's: divide the other way round", kind="operands")


def _factor(own: np.ndarray, wanted: np.ndarray) -> float | None:
    """Returns the number that makes the one of the other; numbers that are huge are a mask's."""
    usual = (np.abs(own) < 1e8) & (np.abs(wanted) < 1e8)
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
