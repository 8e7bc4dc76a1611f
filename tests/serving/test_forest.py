"""Boosted trees as arrays: the same numbers as CatBoost's, on either side of every border."""

from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from flax_impl.serving.forest import Forest, highest_below, read_forest
from tests.support.serving import on_jax, on_onnx

catboost = pytest.importorskip("catboost")
FINITE = st.floats(-1e12, 1e12)


WRITERS = pytest.mark.parametrize("write", [on_onnx, on_jax])


@given(
    border=st.floats(-1e6, 1e6, width=32),
    mean=FINITE,
    std=st.floats(1e-6, 1e12),
)
def test_a_threshold_is_the_last_number_that_is_not_above_its_border(border: float, mean: float, std: float) -> None:
    found = highest_below(np.array([border], np.float32), np.array([mean]), np.array([std]))[0]
    for number, above in ((found, False), (np.nextafter(found, np.inf), True)):
        assert (np.float32((number - mean) / std) > np.float32(border)) == above


def test_a_split_that_no_row_passes_keeps_all_numbers_to_the_left() -> None:
    assert highest_below(np.array([np.inf], np.float32), np.zeros(1), np.ones(1))[0] == np.finfo(float).max


def trained(depths: list[int], rows: int = 300, **settings: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Returns a sum of CatBoost's models of some depths, features in their own unit, their means and deviations."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(rows, 5)) * [1, 1e5, 1e-3, 1, 2] + [0, 3e6, 7, 0, -4]
    x[:, 3] = np.round(x[:, 3])
    mean, std = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / std
    models = []
    for seed, depth in enumerate(depths):
        made = catboost.CatBoost(
            {"iterations": 30, "depth": depth, "verbose": False, "allow_writing_files": False, "thread_count": 1,
             "random_seed": seed, "loss_function": "RMSE", **settings}
        )  # fmt: skip
        models.append(made.fit(z, 10 + np.sin(3 * z).sum(axis=1) + z[:, 0] * z[:, 1]))
    return catboost.sum_models(models, weights=[1 / len(models)] * len(models)), x, mean, std


def predicted(model: Any, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict((x - mean) / std, prediction_type="RawFormulaVal"), float)


@WRITERS
@pytest.mark.parametrize("depths", [[1], [4, 4], [2, 5, 3]])
def test_trees_say_what_catboost_says(write: Any, depths: list[int]) -> None:
    model, x, mean, std = trained(depths)
    forest = read_forest(model, mean, std)
    assert forest.leaves.shape == (30 * len(depths), 2 ** max(depths))
    # On both sides of every border, too.
    splits = forest.thresholds < 1e300
    thresholds, columns = forest.thresholds[splits][:150], forest.features[splits][:150]
    near = np.repeat(x[:1], 2 * len(thresholds), axis=0)
    ends = np.stack([thresholds, np.nextafter(thresholds, np.inf)], axis=1).ravel()
    near[np.arange(len(near)), np.repeat(columns, 2)] = ends
    rows = np.concatenate([x, near, x * 100])
    found = write(lambda ops, value: ops.forest(value, forest), rows)
    np.testing.assert_allclose(found, predicted(model, rows, mean, std), rtol=0, atol=1e-12)


@WRITERS
def test_trees_that_do_not_split(write: Any) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 3))
    model = catboost.CatBoost(
        {"iterations": 3, "bootstrap_type": "No", "verbose": False, "allow_writing_files": False,
         "allow_const_label": True, "thread_count": 1}
    ).fit(x, np.full(50, 2.5))  # fmt: skip
    forest = read_forest(model, np.zeros(3), np.ones(3))
    np.testing.assert_allclose(write(lambda ops, value: ops.forest(value, forest), x), 2.5, rtol=0, atol=1e-12)


@WRITERS
@settings(max_examples=15)
@given(
    ends=st.lists(
        hnp.arrays(float, st.integers(1, 9), elements=st.floats(-100, 100), unique=True), min_size=1, max_size=4
    ),
    data=st.data(),
)
def test_a_place_is_how_many_ends_are_not_above(write: Any, ends: list[np.ndarray], data: st.DataObject) -> None:
    ends = [np.sort(of_column) for of_column in ends]
    starts = np.cumsum([0, *(len(of_column) + 1 for of_column in ends)])[:-1]
    among = [st.sampled_from([*of_column, np.nextafter(of_column[0], -np.inf), 1e9, -1e9]) for of_column in ends]
    x = np.array(data.draw(st.lists(st.tuples(*among), min_size=1, max_size=4)))
    found = write(lambda ops, value: ops.locate(value, ends, starts), x)
    counted = [(of_column[None] <= column[:, None]).sum(axis=1) for of_column, column in zip(ends, x.T, strict=True)]
    np.testing.assert_array_equal(found, np.stack(counted, axis=1) + starts)


def test_other_trees_are_refused() -> None:
    model, _, mean, std = trained([3], grow_policy="Depthwise")
    with pytest.raises(
        ValueError, match="trees: expected oblivious ones, as CatBoost makes them by default, got others"
    ):
        read_forest(model, mean, std)


def test_reading_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, _, mean, std = trained([2])
    assert isinstance(read_forest(model, mean, std), Forest)
    assert not list(tmp_path.iterdir())
