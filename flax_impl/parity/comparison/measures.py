"""Measures how far two arrays, or two sets of them, are apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float


def scaled_difference(actual: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*shape"]) -> float:
    """Returns the largest difference, as a share of the largest value of the reference.

    NaN and infinity must stand in the same places; if they do not, the difference is infinite.

    Args:
        actual: what is compared, of any shape.
        reference: what it is compared to, of the same shape.

    Returns:
        0 where all is equal, or there are no numbers; infinite where the reference is all 0 and the other is not.

    Raises:
        ValueError: the shapes differ, or the values are no numbers.

    Example:
        >>> scaled_difference(np.array([4.0, 1.5]), reference=np.array([4.0, 1.0]))
        0.125
        >>> scaled_difference(np.array([np.nan, 1.0]), reference=np.array([1.0, np.nan]))
        inf
    """
    apart, size = apart_and_size(actual, reference)
    return _share(apart.max(initial=0.0), size.max(initial=0.0))


def relative_difference(actual: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*shape"]) -> float:
    """Returns the largest difference as a share of the very number that it is a difference from.

    This is for numbers that each have a size of their own, such as the losses of a training, which shrink by decades.

    Args:
        actual: what is compared, of any shape.
        reference: what it is compared to, of the same shape.

    Returns:
        0 where all is equal, or there are no numbers; infinite where a number differs from 0.

    Raises:
        ValueError: the shapes differ, or the values are no numbers.

    Example:
        >>> relative_difference(np.array([4.0, 1.5]), reference=np.array([4.0, 1.0]))
        0.5
    """
    return max(map(_share, *apart_and_size(actual, reference)), default=0.0)


def largest_difference(actual: Mapping[Any, np.ndarray], reference: Mapping[Any, np.ndarray]) -> float:
    """Returns the largest scaled difference over arrays of the same names.

    Args:
        actual: what is compared, arrays by name.
        reference: what it is compared to, arrays by the same names.

    Returns:
        A share of at least 0, which it is where there are no arrays; infinite where `scaled_difference` is.

    Raises:
        ValueError: the names or the shapes differ.

    Example:
        >>> reference = {"weight": np.array([4.0, 1.0]), "bias": np.array([2.0])}
        >>> largest_difference({"weight": np.array([4.0, 1.5]), "bias": np.array([2.5])}, reference)
        0.25
    """
    if actual.keys() != reference.keys():
        raise ValueError(f"actual: expected the arrays {list(reference)}, got {list(actual)}")
    return max((scaled_difference(actual[name], reference[name]) for name in reference), default=0.0)


def apart_and_size(actual: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each number, how far it is from the reference and how large that is, in one dimension.

    NaN and infinity must stand in the same places; where they do not, the distance is infinite.

    Raises:
        ValueError: the shapes differ.
    """
    actual, reference = np.asarray(actual, np.float64), np.asarray(reference, np.float64)
    if actual.shape != reference.shape:
        raise ValueError(f"actual: expected shape {list(reference.shape)}, got {list(actual.shape)}")
    finite = np.isfinite(actual) & np.isfinite(reference)
    same = finite | (actual == reference) | (np.isnan(actual) & np.isnan(reference))
    actual, reference = np.where(finite, actual, 0), np.where(finite, reference, 0)
    with np.errstate(over="ignore"):
        return np.where(same, np.abs(actual - reference), np.inf).ravel(), np.abs(reference).ravel()


def largest(array: np.ndarray) -> float:
    """Returns the largest size of a finite number in an array, or 0."""
    finite = np.abs(array[np.isfinite(array)], dtype=np.float64) if array.dtype.kind == "f" else np.abs(array)
    return float(finite.max(initial=0.0))


def _share(apart: float, size: float) -> float:
    if apart == 0:
        return 0.0
    return float(apart / size) if size > 0 else np.inf
