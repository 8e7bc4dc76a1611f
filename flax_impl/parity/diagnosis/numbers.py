"""Compares arrays for the searches: equal, off by a factor, rounded."""

from collections.abc import Iterable

import numpy as np

# How close what a known difference predicts must come, as a share of the largest value.
_CLOSE = {"float64": 1e-10, "float32": 2e-5}


def close(actual: np.ndarray, predicted: np.ndarray, dtype: str) -> bool:
    """Returns whether an array is what was predicted, up to rounding in `dtype`."""
    if actual.shape != predicted.shape:
        return False
    actual, predicted = np.asarray(actual, np.float64), np.asarray(predicted, np.float64)
    if not (np.isfinite(actual).all() and np.isfinite(predicted).all()):
        return False
    with np.errstate(over="ignore"):
        apart = float(np.abs(actual - predicted).max(initial=0))
    return apart <= _CLOSE[dtype] * float(np.abs(predicted).max(initial=0))


def factor_between(actual: np.ndarray, expected: np.ndarray, dtype: str) -> float | None:
    """Returns the number that makes the actual of the expected; None where there is none, or it is 0 or 1."""
    if actual.shape != expected.shape or not np.isfinite(actual).all() or not np.isfinite(expected).all():
        return None
    square = float((np.asarray(expected, np.float64) ** 2).sum())
    if square == 0:
        return None
    factor = float((np.asarray(actual, np.float64) * expected).sum()) / square
    if factor == 0 or abs(factor - 1) <= 1e-4 or not close(actual, factor * expected, dtype):
        return None
    return factor


def constant(values: np.ndarray, dtype: str) -> float | None:
    """Returns the number that all values are, up to rounding; None where they differ or there are none."""
    values = np.asarray(values, np.float64).ravel()
    if not len(values) or not np.isfinite(values).all():
        return None
    middle = float(np.median(values))
    tolerance = {"float64": 1e-7, "float32": 1e-3}[dtype] * max(abs(middle), 1e-12)
    return middle if float(np.abs(values - middle).max()) <= tolerance else None


def neat(number: float) -> str:
    """Returns a number in few digits, where few say it: 0.5 for 0.4999999999."""
    for digits in range(1, 7):
        text = f"{number:.{digits}g}"
        if abs(float(text) - number) <= 1e-6 * abs(number):
            return text
    return f"{number:.6g}"


def rounded_to(array: np.ndarray, kind: str) -> np.ndarray:
    """Returns numbers as float16, bfloat16 or TF32 hold them."""
    if kind == "float16":
        return array.astype(kind).astype(np.float64)
    kept = {"bfloat16": 16, "tf32": 13}[kind]  # bits of float32 that fall off
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    half = np.uint32((1 << (kept - 1)) - 1) + ((bits >> np.uint32(kept)) & np.uint32(1))  # to even
    return ((bits + half) & ~np.uint32((1 << kept) - 1)).view(np.float32).astype(np.float64)


def names_text(names: Iterable[str]) -> str:
    """Returns names in a text, the first few."""
    names = [f"`{name}`" for name in names]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
