"""From the columns of a row group to the arrays that a loss takes: numbers only, in their dtype, nothing missing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..checks.arguments import shown

_ROWS = 2048  # that are written at a time: a block of rows stays in the cache, where all at once take twice as long


def to_arrays(table: Any, columns: Mapping[str, Sequence[str]], dtype: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a row group: `t` and `w` [rows], all others [rows, columns].

    Args:
        table: the row group, a pyarrow table.
        columns: the columns of each array.
        dtype: of all arrays but `t`, which becomes int32.

    Raises:
        ValueError: a missing value, NaN, infinity, or a number that the dtype does not hold; column and row are named.
    """
    arrays = {}
    for name, names in columns.items():
        found = [_numbers(table.column(column), column) for column in names]
        array = _joined(found, "float64" if name == "t" else dtype)
        if not np.isfinite(array).all():
            row, place = np.argwhere(~np.isfinite(array))[0]
            expected = "a finite number" if not np.isfinite(found[place][row]) else f"a number that {dtype} holds"
            raise ValueError(f"column {names[place]}: expected {expected} in every row, got {found[place][row]} in row "
                             f"{row}")  # fmt: skip
        arrays[name] = array[:, 0] if name in ("t", "w") else array
        if name == "t":
            arrays[name] = _whole(arrays[name], names[0])
    return arrays


def check_changed(arrays: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns what a change of arrays gave.

    Args:
        arrays: what it returned.
        rows: how many it was given.

    Raises:
        ValueError: that is not an array by name, each with as many rows.
    """
    if not isinstance(arrays, Mapping):
        raise ValueError(f"change: expected arrays by name, got {shown(arrays)}")
    for name, array in arrays.items():
        shape = np.shape(array)
        if not shape or shape[0] != rows:
            raise ValueError(f"change: expected {rows} rows in {name}, as it was given, got shape {list(shape)}")
    return dict(arrays)


def _numbers(column: Any, name: str) -> np.ndarray:
    if column.null_count:
        row = np.argmax(column.is_null().to_numpy())
        raise ValueError(f"column {name}: expected a number in every row, got null in row {row}")
    return column.to_numpy()


def _whole(array: np.ndarray, name: str) -> np.ndarray:
    whole = (
        array.astype(np.int32, copy=False) if np.abs(array).max(initial=0) < 2**31 else np.zeros(len(array), np.int32)
    )
    if (whole != array).any():
        row = np.argmax(whole != array)
        raise ValueError(f"column {name}: expected the number of an arm in every row, got {array[row]} in row {row}")
    return whole


def _joined(columns: Sequence[np.ndarray], dtype: str) -> np.ndarray:
    """Returns columns side by side [rows, columns]."""
    array = np.empty((len(columns[0]), len(columns)), dtype)
    with np.errstate(over="ignore"):
        for start in range(0, len(array), _ROWS):
            for place, column in enumerate(columns):
                array[start : start + _ROWS, place] = column[start : start + _ROWS]
    return array


def in_dtype(arrays: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Returns arrays that a function made, all but `t` in a dtype."""
    with np.errstate(over="ignore"):  # what looks at the arrays next names an infinite number
        return {name: array if name == "t" else np.asarray(array).astype(dtype, copy=False)
                for name, array in arrays.items()}  # fmt: skip
