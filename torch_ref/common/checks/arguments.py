"""Checks of single arguments: one error that names the argument, what was expected and what came."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# What float32 and int32 hold: beyond it the frameworks differ, or fail in words of their own.
_LARGEST_NUMBER = float(np.finfo(np.float32).max)

_LARGEST_INTEGER = int(np.iinfo(np.int32).max)

_MOST_LEVELS = 2**24  # float32, in which a model may take its input, counts no further


def listed(names: Iterable[object]) -> str:
    """Returns names as a text that stays short, however many there are."""
    names = [str(name) for name in names]
    more = [f"… ({len(names)} in all)"] if len(names) > 20 else []
    return ", ".join([*names[:20], *more]) or "none"


def shown(value: object) -> str:
    """Returns a value as a text that stays short, however long it is."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raises ValueError, listing what is allowed, unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        one_of = f"one of {', '.join(map(repr, allowed))}" if allowed else "none"
        raise ValueError(f"{argument}: expected {one_of}, got {shown(value)}")


def check_flag(argument: str, value: Any) -> bool:
    """Returns True or False; raises ValueError for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{argument}: expected True or False, got {shown(value)}")
    return bool(value)


def check_number(
    argument: str, value: Any, *, at_least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> Any:
    """Returns a number as a float; raises ValueError unless it is finite in float32 and within the bounds.

    What holds no single number yet is returned as it is: a traced value inside `jit`, or one for each of many.
    """
    if hasattr(value, "dtype") and not isinstance(value, np.generic):
        try:
            number = float(value)
        except Exception:  # each framework has an error of its own for this
            return value
    else:
        number = _float(value)
    if not (abs(number) <= _LARGEST_NUMBER and number >= at_least and above < number < below):
        bounds = [f"of at least {at_least:g}"] * (at_least > -math.inf)
        bounds += [f"above {above:g}"] * (above > -math.inf)
        bounds += [f"below {below:g}"] * (below < math.inf)
        expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"{argument}: expected {expected}, got {shown(value)}")
    return number


def check_pair(argument: str, value: Any, **bounds: float) -> tuple[float, float]:
    """Returns two numbers as floats; raises ValueError unless there are two, as `check_number` takes them."""
    first, second = check_each(argument, value, 2, **bounds)
    return first, second


def check_each(argument: str, value: Any, count: int, **bounds: float) -> tuple[float, ...]:
    """Returns numbers as floats; raises ValueError unless there are `count`, as `check_number` takes them."""
    each = tuple(value) if isinstance(value, Sequence) else ()
    if len(each) != count:
        raise ValueError(f"{argument}: expected {'two' if count == 2 else count} numbers, got {shown(value)}")
    return tuple(check_number(f"{argument}[{i}]", number, **bounds) for i, number in enumerate(each))


def check_numbers(settings: object, **bounds: Mapping[str, float]) -> None:
    """Checks the fields of a frozen dataclass, each against its bounds, and makes them floats."""
    for name, of_field in bounds.items():
        object.__setattr__(settings, name, check_number(name, getattr(settings, name), **of_field))


def check_integer(argument: str, value: object, *, at_least: int) -> int:
    """Returns a whole number as an int; raises ValueError unless it is at least `at_least` and fits 32 bits."""
    number = int(value) if isinstance(value, numbers.Integral | np.integer) and not isinstance(value, bool) else -1
    if not at_least <= number <= _LARGEST_INTEGER:
        bounds = f"of at least {at_least}" if number < at_least else f"of at most {_LARGEST_INTEGER}"
        raise ValueError(f"{argument}: expected a whole number {bounds}, got {shown(value)}")
    return number


def check_row_numbers(argument: str, numbers: Any, total: int) -> np.ndarray:
    """Returns row numbers as int32; raises ValueError unless there are some, whole and from 0 to below `total`."""
    array = np.asarray(numbers)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(f"{argument}: expected the numbers of some rows, got {shown(numbers)}")
    wrong = array[(array < 0) | (array >= total)]
    if len(wrong):
        raise ValueError(f"{argument}: expected row numbers from 0 to {total - 1}, got {wrong[0]}")
    return array.astype(np.int32, copy=False)


def check_widths(argument: str, widths: object) -> tuple[int, ...]:
    """Returns the layer widths as a tuple; raises ValueError unless they are whole numbers of at least 1."""
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise ValueError(f"{argument}: expected a sequence of layer widths, got {shown(widths)}")
    return tuple(check_integer(argument, width, at_least=1) for width in widths)


def check_groups(argument: str, groups: object, columns: int | None = None) -> tuple[int, ...]:
    """Returns the columns of each group as a tuple; raises ValueError unless there are some, `columns` in all."""
    if isinstance(groups, str) or not isinstance(groups, Sequence | np.ndarray) or not len(groups):
        raise ValueError(f"{argument}: expected how many columns each group has, got {shown(groups)}")
    checked = tuple(check_integer(argument, group, at_least=1) for group in groups)
    if columns is not None and sum(checked) != columns:
        raise ValueError(f"{argument}: expected {columns} columns in all groups, got {sum(checked)}")
    return checked


def check_tables(argument: str, tables: object) -> tuple[tuple[int, int], ...]:
    """Returns levels and width of each table; raises ValueError unless they are pairs of whole numbers above 0."""
    if isinstance(tables, str) or not isinstance(tables, Sequence) or not len(tables):
        raise ValueError(f"{argument}: expected pairs of levels and width, got {shown(tables)}")
    checked = []
    for i, table in enumerate(tables):
        pair = tuple(table) if isinstance(table, Sequence) and not isinstance(table, str) else ()
        if len(pair) != 2:
            raise ValueError(f"{argument}[{i}]: expected a pair of levels and width, got {shown(table)}")
        levels, width = (check_integer(f"{argument}[{i}]", number, at_least=1) for number in pair)
        if levels > _MOST_LEVELS:
            raise ValueError(f"{argument}[{i}]: expected at most {_MOST_LEVELS} levels, got {levels}")
        checked.append((levels, width))
    return tuple(checked)


def check_shape(argument: str, array: Any, expected: tuple[int | str, ...]) -> None:
    """Raises ValueError unless the array has the expected shape; a name stands for any length."""
    shape: tuple[int | str, ...] = tuple(array.shape)
    if len(shape) == len(expected):
        shape = tuple(want if isinstance(want, str) else got for got, want in zip(shape, expected, strict=True))
    if shape != expected:
        raise ValueError(f"{argument}: expected shape {brackets(expected)}, got {brackets(shape)}")


def _float(value: object) -> float:
    """Returns the value of a plain number; NaN for anything else, and for what not even float64 holds."""
    if not isinstance(value, numbers.Real | np.number) or isinstance(value, bool | np.bool_):
        return math.nan
    try:
        return float(value)  # pyright: ignore[reportArgumentType] (complex numbers are no reals)
    except (OverflowError, TypeError):
        return math.nan


def brackets(shape: tuple[int | str, ...]) -> str:
    """Returns a shape as a text."""
    return f"[{', '.join(map(str, shape))}]"
