"""Doubt about two of several arms: the same numbers as of a table of these two, and honest analyses are not accused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flax_impl.data import TreatmentData
from flax_impl.effects import (
    EffectSettings,
    OutOfFold,
    confounding_benchmarks,
    cross_fit_nets,
    cross_fit_trees,
    hidden_confounding,
    marginal_bounds,
    refute,
    tipping_odds_ratio,
)
from flax_impl.effects.learners.contrast import take_pair
from refutation_level import LINEAR, level, linear, no_adjustment, table
from torch_ref.common.data.treatment_data import sigmoid

pytest.importorskip("sklearn")

ARMS = ("none", "low", "high")
TRUTH = {("none", "low"): 1.0, ("none", "high"): 3.0, ("low", "high"): 2.0, ("high", "low"): -2.0}


def three_arms(seed: int, rows: int = 700) -> TreatmentData:
    """Draws a confounded table: "low" adds 1 on average, "high" 3; x1 and x2 move outcome and treatment."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 5))
    odds = np.exp([np.zeros(rows), 0.6 * x[:, 0], 0.3 * x[:, 0] - 0.4 * x[:, 1]])
    t = (generator.random(rows) > np.cumsum(odds / odds.sum(axis=0), axis=0)[:2]).sum(axis=0)
    effect = np.stack([np.zeros(rows), 1 + 0.5 * x[:, 0], 3 + 0.5 * x[:, 1]])
    y = 2 * x[:, 0] + x[:, 1] + x[:, 2] + effect[t, np.arange(rows)] + generator.normal(size=rows)
    return TreatmentData(x, t.astype(np.int32), y[:, None], arms=ARMS)


def cut_by_hand(data: TreatmentData, control: str, treatment: str) -> TreatmentData:
    """Returns the rows of two arms, as users had to make them: a table of arms 0 and 1."""
    first, second = ARMS.index(control), ARMS.index(treatment)
    own = np.isin(data.t, (first, second))
    t = (data.t[own] == second).astype(int)
    w = None if data.w is None else data.w[own]
    groups = None if data.groups is None else np.asarray(data.groups)[own]
    return TreatmentData(data.x[own], t, data.y[own], w=w, groups=groups)


def same(found: Any, expected: Any) -> None:
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)


@pytest.mark.parametrize(("control", "treatment"), TRUTH)
def test_refutations_of_a_pair(control: str, treatment: str) -> None:
    """At the level of a page, which asks four kinds of three pairs."""
    data = three_arms(0)
    settings: dict[str, Any] = {"draws": 5, "alpha": 0.05 / 12, "progress": False}
    found = refute(data, LINEAR, control=control, treatment=treatment, **settings)
    expected = refute(cut_by_hand(data, control, treatment), LINEAR, **settings)
    assert str(found) == str(expected)
    for one, other in zip(found.found, expected.found, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.errors, other.errors)
    assert found.accused == ()
    assert abs(found.value - TRUTH[control, treatment]) < 4 * found.standard_error + 0.3  # the rows of two arms differ


def test_a_fault_in_a_pair_is_accused() -> None:
    found = refute(
        three_arms(0), no_adjustment, control="low", treatment="none", kinds=["dummy_outcome"], progress=False
    )
    assert found.accused == ("dummy_outcome",)


@pytest.mark.slow
def test_honest_analyses_of_a_pair_are_accused_in_few_tables() -> None:
    """Of 150 tables of three arms."""
    found = level(LINEAR, lambda seed: take_pair(three_arms(seed, 600), "low", "high"), 150, 5)
    assert all(found[kind] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150) for kind in ("placebo", "dummy_outcome", "subset"))
    assert found["common_cause"] == 0


def test_trees_nets_and_benchmarks_of_a_pair() -> None:
    weights = np.random.default_rng(1).uniform(0.5, 2, 400)
    data = replace(three_arms(1, 400), w=weights, groups=np.arange(400) // 2)
    two = cut_by_hand(data, "low", "high")
    same(cross_fit_trees(data, control="low", treatment="high"), cross_fit_trees(two))
    small = EffectSettings(representation_features=[4], head_features=[4], members=5, steps=5)
    same(cross_fit_nets(data, small, control="low", treatment="high"), cross_fit_nets(two, small))
    found = confounding_benchmarks(data, linear, control="low", treatment="high")
    assert found == confounding_benchmarks(two, linear)
    assert found[0].name in {"x1", "x2"}


def held_out(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of two arms among three, with other rows as -1, and those of the two alone."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=90)
    odds = np.exp([np.zeros(90), x, -x])
    score0, score, _ = odds / odds.sum(axis=0)
    t = np.append([0, 1], generator.integers(-1, 2, 88))
    y = x + (t == 1) * (1 + x) + generator.normal(size=90)
    columns = {
        "t": t,
        "y": y,
        "mu0": x,
        "mu1": 1 + 2 * x,
        "w": generator.integers(0, 4, 90),
        "groups": np.arange(90) // 3,
    }
    own = t >= 0
    return columns | {"score": score, "score0": score0}, {name: column[own] for name, column in columns.items()} | {
        "score": sigmoid(x[own])
    }


@pytest.mark.filterwarnings("ignore:score. weights too uneven")
def test_bounds_leave_out_rows_of_other_arms() -> None:
    for seed in range(5):
        found, expected = held_out(seed)
        one, other = hidden_confounding(**found), hidden_confounding(**expected)
        assert one.rows == other.rows < 90
        for name in ("value", "standard_error", "scale", "scale_error", "covariance"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
        assert str(marginal_bounds(**found)) == str(marginal_bounds(**expected))
        assert tipping_odds_ratio(**found) == pytest.approx(tipping_odds_ratio(**expected))


@pytest.mark.filterwarnings("ignore:score. weights too uneven")
def test_bounds_of_two_arms_are_the_same_with_both_probabilities() -> None:
    _, two = held_out(0)
    given = two | {"score0": 1 - two["score"]}
    assert hidden_confounding(**given).value == pytest.approx(hidden_confounding(**two).value, abs=1e-12)


def test_a_table_of_two_arms_is_taken_as_it_is() -> None:
    data = table(0)
    assert take_pair(data) is data
    assert take_pair(data, 0, 1) is data
    turned = take_pair(replace(data, mu0=data.y, mu1=data.y), 1, 0)
    np.testing.assert_array_equal(turned.t, 1 - data.t)
    assert (turned.arms, turned.mu0, turned.mu1) == ((1, 0), None, None)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({}, "treatment: expected one of none, low, high, as there are 3 arms, got None"),
        ({"treatment": "medium"}, "treatment: expected one of none, low, high, got 'medium'"),
        ({"control": "low", "treatment": "low"}, "treatment: expected another arm than 'low', got the same"),
    ],
)
def test_bad_pairs(pair: dict[str, Any], message: str) -> None:
    data = three_arms(0, 100)
    asked: list[Any] = [cross_fit_trees, cross_fit_nets, confounding_benchmarks, refute]
    for ask in asked:
        with pytest.raises(ValueError, match=f"^{message}$"):
            ask(data, **pair)


def test_bad_columns() -> None:
    found, _ = held_out(0)
    with pytest.raises(ValueError, match=r"^t: expected 0 or 1 in every row, got -1"):
        hidden_confounding(**{**found, "score0": None})
    with pytest.raises(ValueError, match=r"^score0: expected shape \[90\], got \[3\]$"):
        marginal_bounds(**{**found, "score0": np.ones(3)})
    with pytest.raises(ValueError, match=r"^score: expected probabilities above 0 and below 1, got 0.0 in row 0"):
        tipping_odds_ratio(**{**found, "score": np.zeros(90), "score0": np.zeros(90)})
    assert OutOfFold(**{name: found[name] for name in ("t", "y", "mu0", "mu1", "score")}).arrays()["groups"] is None
