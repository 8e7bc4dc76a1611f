"""Checks of the columns that averages and scores are made of."""

import contextlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_binary, check_finite, check_rows, check_some_weight


def check_columns(*, third: bool = False, **columns: Any) -> list[np.ndarray]:
    """Returns columns in float64, in their order, checked by name.

    Raises ValueError unless all are finite numbers with as many rows as the first, `t` is 0 or 1, or with a `third` arm
    -1, and every `score` lies from 0 to 1.
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
        if name == "t" and not (third and np.isin(array, (-1, 0, 1)).all()):
            check_binary(name, array)
        if name.startswith("score"):
            _refuse(name, array, (array < 0) | (array > 1), "probabilities from 0 to 1")
    return [array.astype(np.float64) for array in arrays.values()]


def check_arm_numbers(t: Any, arms: int) -> np.ndarray:
    """Returns the arm of each row as an int; raises ValueError, naming the first row, unless it is 0 to `arms - 1`."""
    array = np.asarray(t)
    check_shape("t", array, ("rows",))
    check_rows("t", array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"t: expected numbers, got dtype {array.dtype}")
    check_finite("t", array)
    _refuse("t", array, (array < 0) | (array >= arms) | (array != np.floor(array)), f"an arm from 0 to {arms - 1}")
    return array.astype(np.int64)


def check_of_arms(name: str, array: Any, rows: int, arms: int | None = None) -> np.ndarray:
    """Returns numbers of each arm and row [arms, rows] in float64.

    Raises ValueError, naming the first place, unless all are finite, and unless they are of at least two arms, or of
    as many as `arms`. A `score` has to lie from 0 to 1.
    """
    found = np.asarray(array)
    check_shape(name, found, ("arms" if arms is None else arms, rows))
    if len(found) < 2:
        raise ValueError(f"{name}: expected at least 2 arms, got {len(found)}")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers, got dtype {found.dtype}")
    _refuse(name, found, ~np.isfinite(found), "finite numbers")
    if name == "score":
        _refuse(name, found, (found < 0) | (found > 1), "probabilities from 0 to 1")
    return found.astype(np.float64)


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


def code_labels(name: str, labels: Any, rows: int) -> tuple[list[Any], np.ndarray]:
    """Returns the different labels, sorted where they can be, and the place among them of each row's label.

    Raises ValueError where a row has none, or where the labels are of a kind that no dict takes.
    """
    # A list's labels stay as they are: numpy would make texts of numbers among texts, and columns of tuples.
    array = np.asarray(labels) if hasattr(labels, "dtype") else np.fromiter(labels, object)
    check_shape(name, array, (rows,))
    of_rows = list(array) if array.dtype.kind in "mM" else array.tolist()  # a list of dates would be one of integers
    for row, label in enumerate(of_rows):
        if label is None or type(label).__name__ == "NAType" or label != label:
            raise ValueError(f"{name}: expected a label in every row, got {label} in row {row}")
    try:
        different = list(dict.fromkeys(of_rows))
    except TypeError as error:
        raise ValueError(f"{name}: expected labels that a dict takes as keys, got {error}") from error
    with contextlib.suppress(TypeError):  # labels of several types stay in the order of the rows
        different.sort()
    place = {label: i for i, label in enumerate(different)}
    return different, np.array([place[label] for label in of_rows])


def cluster_places(groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None, rows: int) -> np.ndarray:
    """Returns the number of each row's cluster; of its own where `groups` is None.

    Raises ValueError where a row has no label.
    """
    return np.arange(rows) if groups is None else code_labels("groups", groups, rows)[1]


def check_comparable(t: np.ndarray, w: np.ndarray, clusters: np.ndarray) -> None:
    """Raises ValueError unless rows of both arms have a weight, and lie in two clusters at least."""
    for arm, name in ((0, "untreated"), (1, "treated")):
        if not w[t == arm].any():
            raise ValueError(f"t: expected rows of both arms, got none that are {name}")
    if len(np.unique(clusters)) < 2:
        raise ValueError(f"groups: expected rows of at least two clusters, got {len(t)} rows of one")


def check_inside(name: str, score: np.ndarray) -> None:
    """Raises ValueError where a propensity is 0 or 1: no weight can stand for the arm that such rows never have."""
    _refuse(
        name, score, (score == 0) | (score == 1), "probabilities above 0 and below 1",
        "; leave such rows out, as trim=0.01 of average_effects does",
    )  # fmt: skip


def _refuse(name: str, array: np.ndarray, wrong: np.ndarray, expected: str, advice: str = "") -> None:
    """Raises ValueError, naming the first row, or arm and row [arms, rows], where anything is wrong."""
    places = np.argwhere(wrong)
    if len(places):
        more = f" ({len(places)} in all)" if len(places) > 1 else ""
        *arm, row = places[0]
        at = f"row {row}" + "".join(f" of arm {number}" for number in arm)
        raise ValueError(f"{name}: expected {expected}, got {array[tuple(places[0])]} in {at}{more}{advice}")
