"""Tables and numbers that tell nothing of effects get one clear error."""

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from flax_impl.data import Scales, synthetic
from flax_impl.effects import fit_effects, fit_effects_each, propensity, qini_coefficient, qini_curve

T = np.array([0, 1, 1])
UNUSABLE: list[tuple[Callable[[], object], str]] = [
    (
        lambda: qini_curve(np.array([1.0, np.nan, 0]), T, T),
        "effect: expected finite numbers, got nan in row 1",
    ),
    (lambda: qini_coefficient(np.arange(3.0), np.arange(2.0)), "gain: expected shape [3], got [2]"),
    (
        lambda: qini_coefficient(np.zeros(0), np.zeros(0)),
        "share: expected at least one row, got an empty batch",
    ),
    (
        lambda: propensity(np.zeros((3, 2)), np.array([0, 1, 2])),
        "t: expected 0 or 1 in every row, got 2 in row 2",
    ),
    (
        lambda: propensity(np.zeros((3, 2)), np.zeros(3, int)),
        "t: expected rows of both arms, got 0 in all",
    ),
    (lambda: propensity(np.zeros((3, 2)), np.zeros(2, int)), "t: expected shape [3], got [2]"),
    (lambda: synthetic(seed=-1), "seed: expected a whole number of at least 0, got -1"),
    (lambda: fit_effects(cast(Any, 3)), "data: expected a TreatmentData, as load_data gives it, got 3"),
    (
        lambda: Scales.of(synthetic(20)).features(np.zeros((3, 1))),
        "x: expected shape [rows, 10], got [rows, 1]",
    ),
]


@pytest.mark.parametrize(("call", "message"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_numbers_that_tell_nothing(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_no_tables_at_all() -> None:
    with pytest.raises(ValueError, match="datas: expected at least one table, got none"):
        fit_effects_each([])


def test_arrays_by_name_are_no_table_of_the_estimator() -> None:
    pytest.importorskip("sklearn")
    from flax_impl.effects import TwoHeadEstimator

    with pytest.raises(ValueError, match=r"^X: expected a table of pandas, polars or pyarrow, or an array, got dict$"):
        TwoHeadEstimator().fit({"age": [1.0, 2.0]}, [1.0, 2.0], treatment=[0, 1])
