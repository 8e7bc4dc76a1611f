"""Says whether two fingerprints are of the same value, whatever its layout."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint

SAME_ORDER, SAME_AXES, SAME_MOMENTS, OTHER = 3, 2, 1, 0
_RELATIVE = 1e-11  # of the largest number: what rounding leaves in float64 after a few hundred operations
SINGLE = 5e-7  # of the largest number: a few roundings of float32
NOISE = 50.0  # times the distance that the reference itself moved when its numbers moved by a rounding


def tolerance(scale: Any, noise: float) -> Any:
    """Returns how far two fingerprints of one value may be apart.

    Args:
        scale: the largest size of a number in either; one, or an array of them.
        noise: how far rounding moves the value.
    """
    return _RELATIVE * scale + NOISE * noise


def likeness(a: Fingerprint, b: Fingerprint, noise: float = 0.0) -> int:
    """Returns how much two values are alike.

    Args:
        a: one fingerprint.
        b: another.
        noise: how far rounding moves one of them.

    Returns:
        3 for the same numbers in the same order, 2 for the same numbers along every axis, 1 for the same moments where
        the axes say nothing, 0 for different values.
    """
    near = tolerance(max(a.scale, b.scale), noise)
    if abs(a.masked - b.masked) > 1e-9 or np.abs(a.moments - b.moments).max() > near:
        return OTHER
    if a.size == b.size and abs(a.order - b.order) <= near:
        return SAME_ORDER
    return _by_axes(a, b, near)


class Pool:
    """Fingerprints of floating values.

    Args:
        values: any; those of integers and masks, and empty ones, are left out.
    """

    def __init__(self, values: Iterable[Fingerprint]) -> None:
        self._values = [value for value in values if value.kind == "f" and value.size]
        self._moments = np.array([value.moments for value in self._values]).reshape(len(self._values), -1)
        self._scales = np.array([value.scale for value in self._values])

    def like(self, value: Fingerprint, noise: float = 0.0) -> Iterator[tuple[int, Fingerprint]]:
        """Yields how much each fingerprint is like a value, and it, where it is at all.

        Args:
            value: what to look for.
            noise: how far rounding moves it.
        """
        if value.kind != "f" or not value.size or not self._values:
            return
        near = tolerance(np.maximum(self._scales, value.scale), noise)
        for i in np.flatnonzero(np.abs(self._moments - value.moments).max(1) <= near):
            if (level := likeness(value, self._values[int(i)], noise)) > OTHER:
                yield level, self._values[int(i)]

    def nearest(self, value: Fingerprint, share: float) -> tuple[float, Fingerprint] | None:
        """Returns the nearest fingerprint that may be of the same value, and how far it is of the largest number.

        Args:
            value: what to look for.
            share: how far it may be at most; None is returned where nothing is so near.
        """
        scale = value.scale or 1.0
        near = [other for _, other in self.like(value, share * scale / NOISE) if other.size == value.size]
        found = [(float(np.abs(other.moments - value.moments).max()) / scale, other) for other in near]
        return min(found, key=lambda pair: pair[0], default=None)


def _by_axes(a: Fingerprint, b: Fingerprint, near: float) -> int:
    if Counter(a.axes) == Counter(b.axes):
        return SAME_AXES if _permuted(_marginals(a), _marginals(b), near) else OTHER
    if a.size == b.size:
        return SAME_AXES if _split(a, b, near) or _split(b, a, near) else OTHER
    ours, theirs = dict(_marginals(a)), dict(_marginals(b))
    lone = [n for n in set(a.axes) & set(b.axes) if a.axes.count(n) == b.axes.count(n) == 1]
    known = [n for n in lone if n in ours and n in theirs]
    wrong = [n for n in known if not _equal(ours[n], theirs[n], near)]
    return OTHER if wrong else SAME_MOMENTS


def _split(whole: Fingerprint, parts: Fingerprint, near: float) -> bool:
    """Whether one value has the numbers of another, whose axes may stand in another order, after a reshape."""
    axes = [i for i, length in enumerate(parts.shape) if length > 1]
    if len(axes) > 5:
        axes_in_order: Iterable[tuple[int, ...]] = [tuple(axes)]
    else:
        axes_in_order = itertools.permutations(axes)
    for order in axes_in_order:
        turned = [parts.shape[i] for i in order]
        common = _refined(whole.axes, turned)
        if common is None:
            continue
        ours = _of_refined(whole.axes, [m for n, m in zip(whole.shape, whole.marginals, strict=True) if n > 1], common)
        theirs = _of_refined(turned, [parts.marginals[i] for i in order], common)
        if all(x is None or y is None or _equal(x, y, near) for x, y in zip(ours, theirs, strict=True)):
            return True
    return False


def _marginals(value: Fingerprint) -> list[tuple[int, np.ndarray]]:
    return [
        (length, marginal)
        for length, marginal in zip(value.shape, value.marginals, strict=True)
        if marginal is not None and length > 1
    ]


def _permuted(a: Sequence[tuple[int, np.ndarray]], b: Sequence[tuple[int, np.ndarray]], near: float) -> bool:
    """Whether the axes of one value are those of the other, in some order."""
    for length in {length for length, _ in a}:
        ours = [marginal for n, marginal in a if n == length]
        theirs = [marginal for n, marginal in b if n == length]
        orders = itertools.permutations(theirs)
        if not any(all(_equal(x, y, near) for x, y in zip(ours, order, strict=True)) for order in orders):
            return False
    return True


def _equal(a: np.ndarray, b: np.ndarray, near: float) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0.0) <= near)


def _refined(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    """Returns the axes of which both shapes are made by merging neighbours; None where there are none."""
    found: list[int] = []
    ours, theirs = list(a), list(b)
    while ours and theirs:
        common = math.gcd(ours[-1], theirs[-1])
        small = min(ours[-1], theirs[-1])
        if common != small:
            return None
        found.append(small)
        for side in (ours, theirs):
            rest = side.pop() // small
            if rest > 1:
                side.append(rest)
    return None if ours or theirs else found[::-1]


def _of_refined(
    shape: Sequence[int], marginals: Sequence[np.ndarray | None], axes: Sequence[int]
) -> list[np.ndarray | None]:
    """Returns the marginals of a value along finer axes than its own; None where nothing is kept."""
    rest = list(axes)
    found: list[np.ndarray | None] = []
    for length, marginal in zip(shape, marginals, strict=True):
        parts: list[int] = []
        while math.prod(parts) < length:
            parts.append(rest.pop(0))
        split = None if marginal is None else marginal.reshape(2, *parts)
        for i in range(len(parts)):
            others = tuple(1 + j for j in range(len(parts)) if j != i)
            found.append(None if split is None else split.mean(others))
    return found
