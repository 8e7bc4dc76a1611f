"""Recovers the number that a person wrote from what is left of it in a smaller dtype."""

import math
import re
from fractions import Fraction

import numpy as np

_NUMBER = re.compile(r"(?<![\w.])\d+\.\d*(?:[eE][-+]?\d+)?")
_LARGEST_DENOMINATOR = 64
_DIGITS = 6  # that float32 keeps of any decimal number
# Numbers of more digits than float32 holds, that are no root or fraction.
_NAMED = (
    math.pi, math.e, math.log(2), 1 / math.log(2), math.log(10), math.log(2 * math.pi), 0.5 * math.log(2 * math.pi),
    1.0507009873554805, 1.6732632423543772, 1.0507009873554805 * 1.6732632423543772,  # SELU
)  # fmt: skip


def as_written(value: float, source: str = "") -> float:
    """Returns the number that rounds to a float32 number and that a person would have written.

    That is a number in the line of the source, a short decimal, a fraction, a root of one, or one with pi; else the
    shortest decimal there is.

    Args:
        value: a float32 number.
        source: the line that it comes from, where that is known.

    Example:
        >>> as_written(float(np.float32(1e-5))), as_written(float(np.float32(math.sqrt(2 / math.pi))))
        (1e-05, 0.7978845608028654)
    """
    single = np.float32(value)
    shortest = float(str(single))
    digits = len(str(single).lstrip("-").partition("e")[0].replace(".", "").strip("0"))
    if not math.isfinite(shortest) or digits <= _DIGITS or shortest == 0:
        return shortest
    size = abs(shortest)
    for candidate in (*map(float, _NUMBER.findall(source)), *_NAMED, *_roots(size)):
        if np.float32(candidate) == abs(single):
            return math.copysign(candidate, shortest)
    return shortest


def _roots(size: float) -> list[float]:
    """Returns fractions, roots and multiples of pi near a number; a fraction with a small denominator only."""
    found = []
    for unit in (1.0, math.pi, 1 / math.pi):
        for power in (1, 2, 4):
            ratio = size**power / unit
            for near in (Fraction(ratio).limit_denominator(_LARGEST_DENOMINATOR), _inverse(ratio)):
                if near:
                    found.append((float(near) * unit) ** (1 / power))
    return found


def _inverse(ratio: float) -> Fraction:
    near = Fraction(1 / ratio).limit_denominator(_LARGEST_DENOMINATOR)
    return 1 / near if near else Fraction(0)
