"""Bad input gets one clear error: which argument, what was expected, what came.

Shapes can be checked anywhere, under `jit` too. Values need arrays that hold numbers already, so they are checked at
the doors: `fit`, `train_step` and `predict`.
"""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raises ValueError, listing what is allowed, unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{argument}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_number(
    argument: str, value: Any, *, at_least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> None:
    """Raises ValueError unless `value` is a finite number within the bounds.

    Arrays pass unseen: inside `jit` a hyper-parameter is a traced value that holds no number yet.
    """
    if hasattr(value, "dtype") and not isinstance(value, np.generic):
        return
    bounds = [f"at least {at_least:g}"] * (at_least > -math.inf)
    bounds += [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"below {below:g}"] * (below < math.inf)
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and number >= at_least and above < number < below):
        raise ValueError(f"{argument}: expected a number {' and '.join(bounds)}, got {value!r}".replace("  ", " "))


def check_integer(argument: str, value: object, *, at_least: int) -> None:
    """Raises ValueError unless `value` is a whole number of at least `at_least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{argument}: expected a whole number of at least {at_least}, got {value!r}")


def check_widths(argument: str, widths: object) -> tuple[int, ...]:
    """Returns the layer widths as a tuple; raises ValueError unless they are whole numbers of at least 1."""
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise ValueError(f"{argument}: expected a sequence of layer widths, got {widths!r}")
    for width in widths:
        check_integer(argument, width, at_least=1)
    return tuple(int(width) for width in widths)


def check_shape(argument: str, array: Any, expected: tuple[int | str, ...]) -> None:
    """Raises ValueError unless the array has the expected shape; a name stands for any length."""
    shape: tuple[int | str, ...] = tuple(array.shape)
    if len(shape) == len(expected):
        shape = tuple(want if isinstance(want, str) else got for got, want in zip(shape, expected, strict=True))
    if shape != expected:
        raise ValueError(f"{argument}: expected shape {_brackets(expected)}, got {_brackets(shape)}")


def check_binary(argument: str, array: np.ndarray) -> None:
    """Raises ValueError, naming the first row, where the array holds something beside 0 and 1, of whatever dtype."""
    wrong = np.argwhere((array != 0) & (array != 1))
    if len(wrong):
        got = f"{array[tuple(wrong[0])]} in row {wrong[0][0]}{_more(len(wrong))}"
        raise ValueError(f"{argument}: expected 0 or 1 in every row, got {got}")


def check_finite(argument: str, array: np.ndarray) -> None:
    """Raises ValueError, naming the first place, where the array holds NaN or infinity."""
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        row, *columns = wrong[0]
        place = f"row {row}" + "".join(f", column {column}" for column in columns)
        value = array[tuple(wrong[0])]
        raise ValueError(f"{argument}: expected finite numbers, got {value} in {place}{_more(len(wrong))}")


def check_data(data: Mapping[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Checks the arrays that a training reads, and returns them as numpy arrays.

    Args:
        data: arrays by name, each with one entry a row: `x`, `t` [rows], `y`, `w` [rows], `mask` [rows] and the like.
        required: the names that must be there.
        optional: the names that may be there too.

    Raises:
        ValueError: names missing or unexpected; no rows, or arrays that differ in rows; values that are no numbers, NaN
            or infinite; a `t` or `mask` that is neither 0 nor 1; a negative weight `w`.
    """
    missing = [name for name in required if name not in data]
    unexpected = [name for name in data if name not in (*required, *optional)]
    if missing or unexpected:
        expected = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
        raise ValueError(f"data: expected the arrays {expected}, got {', '.join(data) or 'none'}")
    arrays = {name: np.asarray(array) for name, array in data.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected numbers, got dtype {array.dtype}")
        if array.ndim == 0:
            raise ValueError(f"{name}: expected one entry a row, got a single number")
        if len(array) != len(arrays[first]):
            raise ValueError(f"{name}: expected {len(arrays[first])} rows, as {first} has, got {len(array)}")
        if len(array) == 0:
            raise ValueError(f"{name}: expected at least one row, got an empty batch")
        if name in ("t", "mask"):
            check_shape(name, array, (len(array),))
            check_binary(name, array)
        check_finite(name, array)
        if name == "w":
            check_shape("w", array, (len(array),))
            if array.min() < 0:
                raise ValueError(f"w: expected weights of at least 0, got {array.min()} in row {array.argmin()}")
    return arrays


def check_weights(weights: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError, naming all that is wrong at once, unless the weights have the expected names and shapes."""
    wrong = [f"missing {name}" for name in sorted(expected) if name not in weights]
    wrong += [f"unexpected {name}" for name in sorted(weights) if name not in expected]
    wrong += [
        f"{name}: expected shape {_brackets(shape)}, got {_brackets(weights[name].shape)}"
        for name, shape in sorted(expected.items())
        if name in weights and weights[name].shape != shape
    ]
    if wrong:
        raise ValueError(f"weights: expected those of the model, got {'; '.join(wrong)}")


def check_losses(losses: np.ndarray) -> None:
    """Raises FloatingPointError, naming the step, where a training [steps, outputs] left the finite numbers."""
    wrong = np.argwhere(~np.isfinite(losses))
    if len(wrong):
        step, output = wrong[0]
        place = f"step {step} of {len(losses)}, output {output}"
        raise FloatingPointError(
            f"loss: expected finite numbers, got {losses[step, output]} in {place}: the training diverged; "
            "try a smaller lr, clip_norm, or standardised data"
        )


def _brackets(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _more(count: int) -> str:
    return f" ({count} in all)" if count > 1 else ""
