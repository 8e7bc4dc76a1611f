"""Boosted trees: what they learn, what they do not see, and tables that leave them little."""

import sys
from typing import Any

import numpy as np
import pytest

from flax_impl.effects.learners import trees as of_trees
from flax_impl.effects.learners.trees import Trees, UnseenByTrees, fit_trees, trees_from_arrays, trees_to_arrays
from flax_impl.effects.rows import draw_folds
from torch_ref.data import Scales, TreatmentData


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(of_trees._SETTINGS, "iterations", 40)
    monkeypatch.setitem(of_trees._SETTINGS, "learning_rate", 0.2)


def table(rows: int = 300, seed: int = 0, noise: float = 0.1) -> dict[str, Any]:
    """Returns a table whose outcome has a step at 0, of 1 without treatment and of 3 with it."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3))
    t = np.arange(rows) % 2
    y = (1 + 2 * t) * (x[:, 0] > 0) + noise * generator.normal(size=rows)
    return {"x": x, "t": t, "y": y, "score": np.full((2, rows), 0.5)}


def fitted(made: dict[str, Any], *, binary: bool = False, **changed: Any) -> tuple[Trees, UnseenByTrees]:
    scales = Scales.of(TreatmentData(made["x"], made["t"], made["y"][:, None]), binary)
    settings: dict[str, Any] = {"w": None, "seed": 0, "threads": 1, "folds": draw_folds(made["t"], seed=0)}
    return fit_trees(**made, scales=scales, **settings | changed)


def r2(found: np.ndarray, y: np.ndarray) -> float:
    return float(1 - np.mean((y - found) ** 2) / y.var())


def test_steps_are_learnt() -> None:
    trees, unseen = fitted(table())
    new = table(seed=1, noise=0)["x"]
    step = (new[:, 0] > 0).astype(float)
    y0, y1 = trees.outcomes(new)
    [effects] = trees.effects(new, np.full((2, 300), 0.5))
    for found, expected in ((y0, step), (y1, 3 * step), (effects, 2 * step)):
        assert r2(found, expected) > 0.9
    own = (table()["x"][:, 0] > 0).astype(float)
    for found, expected in ((unseen.mu[0], own), (unseen.mu[1], 3 * own), (unseen.effects[0], 2 * own)):
        assert r2(found, expected) > 0.9


def share(treated: float) -> np.ndarray:
    return np.stack([np.full(300, 1 - treated), np.full(300, treated)])


def test_the_propensity_weighs_the_two_effects() -> None:
    trees, _ = fitted(table())
    x = table(seed=1)["x"]
    of_untreated, of_treated = (trees.effects(x, share(score)) for score in (1.0, 0.0))
    assert np.abs(of_untreated - of_treated).max() > 1e-3
    np.testing.assert_allclose(trees.effects(x, share(0.25)), 0.25 * of_untreated + 0.75 * of_treated)


def test_noise_is_not_learnt_by_those_that_did_not_see_it() -> None:
    made = table() | {"y": np.random.default_rng(3).normal(size=300)}
    trees, unseen = fitted(made)
    seen = trees.outcomes(made["x"])
    for arm, (found, known) in enumerate(zip(unseen.mu, seen, strict=True)):
        own = made["t"] == arm
        assert r2(found[own], made["y"][own]) <= 0
        assert r2(known[own], made["y"][own]) > 0.3  # those that saw it did


def test_a_row_does_not_change_what_is_expected_of_it() -> None:
    made = table(60)
    other = made | {"y": np.where(np.arange(60) == 7, 50.0, made["y"])}
    scales = Scales.of(TreatmentData(made["x"], made["t"], made["y"][:, None]))
    folds = draw_folds(made["t"], seed=0)
    one, two = (fit_trees(**of, scales=scales, w=None, seed=0, threads=1, folds=folds)[1] for of in (made, other))
    fold = next(unseen for unseen in folds if unseen[7])
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_array_equal(found[:, fold], expected[:, fold])
    assert not np.array_equal(one.mu[1], two.mu[1])  # what other folds expect does change


def test_trees_are_the_mean_of_all_folds() -> None:
    """Of two folds, each expects of the rows in it what the other's trees say."""
    made = table(100)
    first = np.arange(100) < 50
    trees, unseen = fitted(made, folds=[first, ~first])
    with np.errstate(invalid="ignore"):  # nothing is expected of rows in no fold
        again, other = (fitted(made, folds=[fold] * 2)[0] for fold in (first, ~first))
    np.testing.assert_allclose(again.outcomes(made["x"])[0][first], unseen.mu[0][first])
    each = np.stack([again.outcomes(made["x"]), other.outcomes(made["x"])])
    np.testing.assert_allclose(trees.outcomes(made["x"]), each.mean(axis=0))


def test_a_binary_outcome_has_probabilities() -> None:
    made = table()
    made["y"] = (made["y"] > 0.5).astype(float)
    trees, unseen = fitted(made, binary=True)
    for found in (*trees.outcomes(made["x"] * 100), *unseen.mu):
        assert found.min() >= 0
        assert found.max() <= 1
    own = made["t"] == 0
    assert r2(unseen.mu[0][own], made["y"][own]) > 0.7
    assert np.abs(unseen.effects).max() <= 1.2


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_an_arm_of_one_label(constant: float) -> None:
    made = table()
    made["y"] = np.where(made["t"] == 1, constant, made["x"][:, 0] > 0).astype(float)
    _, unseen = fitted(made, binary=True)
    assert np.abs(unseen.mu[1] - constant).max() < 0.15


@pytest.mark.parametrize("constant", [0.0, -3.5, 1e6])
def test_a_constant_outcome(constant: float) -> None:
    trees, unseen = fitted(table() | {"y": np.full(300, constant)})
    for found in (*trees.outcomes(table(seed=1)["x"]), *unseen.mu):
        np.testing.assert_allclose(found, constant, rtol=1e-9)
    np.testing.assert_allclose(unseen.effects, 0, atol=1e-9)


def test_rows_of_weight_0_are_left_out() -> None:
    made, w = table(200), (np.arange(200) < 100).astype(float)
    spoilt = made | {
        "x": np.where(w[:, None] == 0, 99, made["x"]), "y": np.where(w == 0, -1e3, made["y"]),
    }  # fmt: skip
    half = {name: column[:, :100] if name == "score" else column[:100] for name, column in made.items()}
    folds = draw_folds(made["t"], seed=0)
    scales = Scales.of(TreatmentData(half["x"], half["t"], half["y"][:, None]))
    shared: dict[str, Any] = {"scales": scales, "seed": 0, "threads": 1}
    trees, _ = fit_trees(**spoilt, w=w, folds=folds, **shared)
    expected, _ = fit_trees(**half, w=None, folds=[unseen[:100] for unseen in folds], **shared)
    np.testing.assert_array_equal(trees.outcomes(made["x"]), expected.outcomes(made["x"]))
    np.testing.assert_array_equal(trees.effects(made["x"], made["score"]), expected.effects(made["x"], made["score"]))


def test_weights_count() -> None:
    """Of two halves that contradict each other, the heavier one is believed."""
    made = table(400, noise=0)
    made["x"][200:] = made["x"][:200]
    made["y"][200:] = -made["y"][:200]
    _, unseen = fitted(made, w=np.repeat([9.0, 1.0], 200))
    own = (made["t"] == 1) & (made["x"][:, 0] > 0)
    assert 1.5 < unseen.mu[1][own].mean() < 3


def test_an_arm_without_weights() -> None:
    made = table(40)
    with pytest.raises(
        ValueError, match=r"^w: expected rows of both arms with a weight above 0 outside each fold, got "
    ):
        fitted(made, w=np.where(made["t"] == 1, 0.0, 1.0))


@pytest.mark.parametrize("binary", [False, True])
def test_an_arm_of_two_rows(binary: bool) -> None:
    made = table(40)
    made["t"] = (np.arange(40) >= 38).astype(int)
    made["y"] = (made["y"] > 0.5).astype(float) if binary else made["y"]
    made["y"][38:] = [0, 1]
    trees, unseen = fitted(made, binary=binary)
    assert all(np.isfinite(found).all() for found in unseen)
    assert np.isfinite(trees.outcomes(made["x"])).all()
    if not binary:  # of a single row, its outcome is all that is known
        np.testing.assert_allclose(sorted(set(unseen.mu[1].round(5))), [0, 1], atol=1e-4)


def test_features_without_a_difference() -> None:
    made = table() | {"x": np.ones((300, 3))}
    _, unseen = fitted(made)
    for arm, found in enumerate(unseen.mu):
        np.testing.assert_allclose(found, made["y"][made["t"] == arm].mean(), atol=0.1)


@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1e9, 1e50])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_units_do_not_matter(unit: float, offset: float) -> None:
    """Nor do large numbers that lie close together, which float32 would take for one."""
    made = table(100)
    trees, unseen = fitted(made)
    other = made | {"x": (made["x"] + offset) * unit, "y": (made["y"] + offset) * unit}
    moved, found = fitted(other)
    shift: Any = {"atol": 1e-4, "rtol": 1e-4}
    for one, two in zip(unseen.mu, found.mu, strict=True):
        np.testing.assert_allclose(two / unit - offset, one, **shift)
    np.testing.assert_allclose(found.effects / unit, unseen.effects, **shift)
    new = table(50, seed=1)["x"]
    np.testing.assert_allclose(moved.outcomes((new + offset) * unit) / unit - offset, trees.outcomes(new), **shift)


def test_the_seed_makes_them_again() -> None:
    first, again, other = (fitted(table(100), seed=seed)[1].mu[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# Files


def test_bytes_give_the_same_trees() -> None:
    trees, _ = fitted(table(100))
    arrays = trees_to_arrays(trees)
    assert sorted(arrays) == ["effect0", "effect1", "outcome0", "outcome1"]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    same, new = trees_from_arrays(arrays, trees.scales), table(seed=1)["x"]
    np.testing.assert_array_equal(same.outcomes(new), trees.outcomes(new))
    np.testing.assert_array_equal(same.effects(new, share(0.3)), trees.effects(new, share(0.3)))


def test_other_bytes() -> None:
    trees, _ = fitted(table(60))
    arrays = trees_to_arrays(trees)
    for wrong in (np.zeros(0, np.uint8), np.arange(200, dtype=np.uint8), arrays["effect0"][:100]):
        with pytest.raises(ValueError, match=r"^trees\.effect0: expected boosted trees, got CatBoostError\("):
            trees_from_arrays(arrays | {"effect0": wrong}, trees.scales)
    with pytest.raises(ValueError, match=r"^trees\.outcome1: expected boosted trees, got KeyError\('outcome1'\)$"):
        trees_from_arrays({"outcome0": arrays["outcome0"]}, trees.scales)
    fewer = Scales(np.zeros(2), np.ones(2), np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match=r"^trees\.outcome0: expected trees for 2 features, got 3$"):
        trees_from_arrays(arrays, fewer)


def test_without_catboost(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = trees_to_arrays(fitted(table(60))[0])
    monkeypatch.setitem(sys.modules, "catboost", None)
    message = r"^learners with trees need CatBoost: pip install 'twohead\[trees\]'$"
    with pytest.raises(ImportError, match=message):
        fitted(table(60))
    with pytest.raises(ImportError, match=message):
        trees_from_arrays(arrays, Scales(np.zeros(3), np.ones(3), np.zeros(1), np.ones(1)))
