"""Knows which number of the reference's a port's literal is that has only the digits of bfloat16 or float16."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from torch_ref.common.tape.tape import Tape

HALF = ("bfloat16", "float16")
# How one side writes what the other has: a factor for a divisor, a root of it on both factors of a product.
_POWERS = (1, -1, 2, -2, 0.5, -0.5)
_OF_DERIVATIVES = (2 / math.sqrt(math.pi), math.pi, math.log(2))  # which nobody wrote: erf's has the first

Numbers = Mapping[tuple[str, float], float]


def exact_numbers(reference: Tape) -> Numbers:
    """Returns the reference's numbers by what is left of them in half precision: dtype, and rounded number.

    A port in bfloat16 holds 0.044677734 for 0.044715. In its own precision that is no difference.

    Args:
        reference: the tape.
    """
    written = [value for operation in reference.operations for value in operation.constants.values()]
    held = [array for value, array in reference.arrays.items() if array.size == 1 and value in reference.fixed]
    numbers = [float(value) for value in written if isinstance(value, float)]
    numbers += [float(array.item()) for array in held if array.dtype.kind in "fi"]
    numbers = [*(abs(number) for number in numbers if np.isfinite(number) and number), *_OF_DERIVATIVES]
    found: dict[tuple[str, float], float] = {}
    for power in _POWERS:
        with np.errstate(over="ignore", divide="ignore"):
            exact = np.power(np.array(list(dict.fromkeys(numbers))), power)
            exact = exact[np.isfinite(exact) & (exact < np.finfo(np.float16).max) & (exact > 0)]
            for dtype in HALF:
                for number, rounded in zip(exact, exact.astype(jnp.dtype(dtype)).astype(float), strict=True):
                    found.setdefault((dtype, float(rounded)), float(number))
    return found


def unrounded(value: float, dtype: str, numbers: Numbers) -> float:
    """Returns the number that a literal was before it was rounded, as far as that is known.

    Args:
        value: the literal.
        dtype: its dtype.
        numbers: the reference's.
    """
    found = numbers.get((dtype, abs(value)))
    return value if found is None else float(np.copysign(found, value))
