"""Brings an array into another shape, in every order of its axes that fits."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np


def layouts(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields an array in a shape, for each order of its axes that fits it.

    Args:
        array: the array.
        shape: of as many numbers.
    """
    if array.shape == shape:
        yield array
        if len(shape) < 2 or len(set(shape)) == len(shape):
            return
    seen = set()
    axes = [i for i, length in enumerate(array.shape) if length > 1]
    if len(axes) > 4:
        yield array.reshape(shape)
        return
    wanted = [length for length in shape if length > 1]
    for order in itertools.permutations(axes):
        turned = [array.shape[i] for i in order]
        exact = turned == wanted
        if not exact and sorted(turned) == sorted(wanted):
            continue  # another order of the same axes fits exactly
        if order not in seen and (exact or _mergeable(turned, wanted)):
            seen.add(order)
            rest = tuple(i for i in range(array.ndim) if i not in order)
            yield array.transpose(*order, *rest).reshape(shape)


def _mergeable(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether one shape is another with neighbours merged."""
    ends = [{math.prod(shape[:i]) for i in range(len(shape) + 1)} for shape in (a, b)]
    return ends[0] <= ends[1] or ends[1] <= ends[0]
