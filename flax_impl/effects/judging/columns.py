"""Checks of the columns that averages and scores are made of."""

from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_binary, check_finite, check_rows, check_some_weight


def check_columns(**columns: Any) -> list[np.ndarray]:
    """Returns columns in float64, in their order, checked by name.

    Raises ValueError unless all are finite numbers with as many rows as the first, `t` is 0 or 1, and `score` lies
    from 0 to 1.
    """
    first = ""
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    for name, array in arrays.items():
        first = first or name
        check_shape(name, array, ("rows",) if name == first else (len(arrays[first]),))
        check_rows(name, array)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected numbers, got dtype {array.dtype}")
        check_finite(name, array)
        if name == "t":
            check_binary(name, array)
        if name == "score":
            _refuse(name, array, (array < 0) | (array > 1), "probabilities from 0 to 1")
    return [array.astype(np.float64) for array in arrays.values()]


def row_weights(w: Any, rows: int) -> np.ndarray:
    """Returns the weights of the rows, scaled so that their mean is 1; ones where `w` is None.

    Raises ValueError unless they are finite, at least 0 and not all zero.
    """
    if w is None:
        return np.ones(rows)
    check_shape("w", np.asarray(w), (rows,))
    [found] = check_columns(w=w)
    _refuse("w", found, found < 0, "weights of at least 0")
    check_some_weight({"w": found})
    found = found / found.max()  # so that no sum overflows
    return found / found.mean()


def check_inside(score: np.ndarray) -> None:
    """Raises ValueError where a propensity is 0 or 1: no weight can stand for the arm that such rows never have."""
    _refuse(
        "score", score, (score == 0) | (score == 1), "probabilities above 0 and below 1",
        "; leave such rows out, as trim=0.01 of average_effects does",
    )  # fmt: skip


def _refuse(name: str, array: np.ndarray, wrong: np.ndarray, expected: str, advice: str = "") -> None:
    """Raises ValueError, naming the first row, where anything is wrong."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f" ({len(rows)} in all)" if len(rows) > 1 else ""
        raise ValueError(f"{name}: expected {expected}, got {array[rows[0]]} in row {rows[0]}{more}{advice}")
