"""Decisions with weights: a row counts as often as it weighs, in budgets, cuts and importance; ones change nothing."""

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import (
    budget_curve,
    choose_arms,
    effect_importance,
    group_effects,
    policy_tree,
    policy_value,
    shap_importance,
)

SEEDS = st.integers(0, 2**31 - 1)


def drawn(seed: int, arms: int = 3, rows: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects, doubly robust outcomes and whole weights, some of them 0."""
    generator = np.random.default_rng(seed)
    effects = generator.normal(size=(arms, rows))
    effects[0] = 0
    return effects, effects + generator.normal(size=(arms, rows)), np.append(generator.integers(0, 4, rows - 1), 3)


@examples(max_examples=40)
@given(SEEDS, st.integers(2, 3), st.sampled_from(["share", "budget"]))
def test_choices_count_rows_as_often_as_they_weigh(seed: int, arms: int, kind: str) -> None:
    """Where the limit falls between two rows, copies of rows get what the rows get; it is kept everywhere."""
    effects, _, w = drawn(seed, arms)
    costs = np.random.default_rng([seed, 1]).uniform(0.1, 1, effects.shape)
    costs[0] = 0
    rows, total = len(w), w.sum()
    free, everyone = choose_arms(effects, costs), np.arange(rows)
    net = (effects - costs)[free, everyone]
    first = np.argsort(-net, kind="stable")[: rows // 3]
    limit = w[first].sum() / total
    often = np.repeat(effects, w, axis=1), np.repeat(costs, w, axis=1)
    if kind == "share":
        expected = choose_arms(*often, share=limit)
        np.testing.assert_array_equal(np.repeat(choose_arms(effects, costs, share=limit, w=5.0 * w), w), expected)
        return
    # A budget that pays for all of some rows, and a little less: each row whole, never above it.
    for budget in (0.0, 2.0, 1e9):
        choice = choose_arms(effects, costs, budget=budget, w=w)
        assert (w / w.mean() * costs[choice, everyone]).sum() <= budget * (1 + 1e-9) + 1e-12
    np.testing.assert_array_equal(np.repeat(choice, w), choose_arms(*often, budget=1e9))


@examples(max_examples=30)
@given(SEEDS, st.sampled_from([0.0, 0.4]))
def test_ends_of_a_budget_curve_are_those_of_repeated_rows(seed: int, cost: float) -> None:
    effects, outcomes, w = drawn(seed)
    found = budget_curve(effects, outcomes, cost, points=2, w=w)
    often = budget_curve(np.repeat(effects, w, axis=1), np.repeat(outcomes, w, axis=1), cost, points=2)
    unit = len(w) / w.sum() if found.kind == "budget" else 1.0
    np.testing.assert_allclose(found.limit, unit * often.limit, atol=1e-12)
    np.testing.assert_allclose(found.gain, often.gain, atol=1e-12)


@examples(max_examples=20)
@given(SEEDS)
def test_trees_and_values_count_rows_as_often_as_they_weigh(seed: int) -> None:
    effects, outcomes, w = drawn(seed, 2, 60)
    x = np.random.default_rng([seed, 2]).normal(size=(60, 2))
    tree = policy_tree(x, outcomes, cuts=5, min_leaf=1, w=w)
    often = policy_tree(np.repeat(x, w, axis=0), np.repeat(outcomes, w, axis=1), cuts=5, min_leaf=1)
    counted = x[w > 0]
    np.testing.assert_array_equal(tree.predict(counted), often.predict(counted))
    choice = (effects[1] > 0).astype(int)
    value, repeated = (
        policy_value(one, chosen, w=weights).value.value
        for one, chosen, weights in ((outcomes, choice, w), (np.repeat(outcomes, w, 1), np.repeat(choice, w), None))
    )
    assert value == pytest.approx(repeated, abs=1e-12)
    gates = group_effects(effects[1], outcomes[1], quantiles=3, w=w)
    copies = group_effects(np.repeat(effects[1], w), np.repeat(outcomes[1], w), quantiles=3)
    np.testing.assert_allclose([g.value for g in gates.effects], [g.value for g in copies.effects], atol=1e-12)
    assert gates.slope.value == pytest.approx(copies.slope.value, abs=1e-12)


def effect(x: np.ndarray) -> np.ndarray:
    return x[:, 0] + x[:, 1] * x[:, 2]


@examples(max_examples=8, deadline=None)
@given(SEEDS)
def test_permutations_weigh_rows(seed: int) -> None:
    """What acts in the heavy rows counts: shares agree with those of repeated rows, as far as chance allows."""
    generator = np.random.default_rng(seed)
    x, w = generator.normal(size=(60, 3)), generator.integers(0, 4, 60)
    x[:, 0] *= np.where(w > 1, 2, 0.5)
    found = effect_importance(effect, x, repeats=300, w=w)
    often = effect_importance(effect, np.repeat(x, w, axis=0), repeats=300)
    reach = 5 * np.hypot(found.standard_error, often.standard_error) + 3 / w.sum()
    assert (np.abs(found.share - often.share) < reach).all()
    assert found.rows == (w > 0).sum()


def test_what_moves_the_effect_of_heavy_rows_is_important() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3))
    x[:500, 0] *= 3
    light, plain, heavy = (
        effect_importance(effect, x, w=w).share[0] for w in (np.repeat([1, 9], 500), None, np.repeat([9, 1], 500))
    )
    assert light + 0.1 < plain < heavy - 0.02


def test_weights_of_one_change_no_importance() -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))
    for rows in (100, 300):
        plain, ones = (effect_importance(effect, x, rows=rows, w=w) for w in (None, np.full(300, 1.0)))
        np.testing.assert_allclose(ones.share, plain.share, rtol=1e-12)
        np.testing.assert_allclose(ones.standard_error, plain.standard_error, rtol=1e-12)


@pytest.mark.slow
def test_shapley_values_weigh_rows_and_background() -> None:
    """Of a linear effect, with as large a background as there are copies, all is that of repeated rows."""
    pytest.importorskip("shap")
    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(20, 3)), generator.integers(0, 4, 20)

    def linear(x: np.ndarray) -> np.ndarray:
        return x @ [1.0, 2.0, 0.0]

    found = shap_importance(linear, x, background=int(w.sum()), w=w)
    often = shap_importance(linear, np.repeat(x, w, axis=0), background=int(w.sum()))
    assert found.values is not None
    assert often.values is not None
    np.testing.assert_allclose(np.repeat(found.values, w[w > 0], axis=0), often.values, atol=1e-9)
    np.testing.assert_allclose(found.share, often.share, atol=1e-9)
    assert (found.standard_error[:2] > often.standard_error[:2]).all()  # a copy is no new row
    plain, ones = (shap_importance(linear, x, rows=10, background=5, w=v) for v in (None, np.ones(20)))
    np.testing.assert_array_equal(plain.share, ones.share)


def test_bad_weights() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match=r"^w: expected shape \[5\], got \[4\]$"):
        effect_importance(effect, x, w=np.ones(4))
    with pytest.raises(ValueError, match=r"^x: expected at least 2 rows, got 1$"):
        effect_importance(effect, x, w=np.arange(5) == 2)
    with pytest.raises(ValueError, match=r"^w: expected weights of at least 0, got -1.0 in row 0$"):
        choose_arms(np.ones(2), share=0.5, w=np.array([-1.0, 1.0]))
