"""The coverage of policies: that the truth is the truth, and that intervals hold as often as they say."""

import numpy as np

from policy_coverage import FOLDS, POLICIES, ROWS, draw, estimated, measure, true_outcomes


def test_each_row_has_the_outcome_of_its_arm() -> None:
    x, t, y = draw(np.random.default_rng(0), 20_000, 3)
    noise = y - true_outcomes(x, 3)[t, np.arange(20_000)]
    assert abs(noise.std() - 1) < 0.05
    assert np.bincount(t).min() > 2000
    assert x[t == 1, 0].mean() > x[t == 0, 0].mean() + 0.2  # treatment depends on what the outcome depends on


def test_doubly_robust_outcomes_have_the_true_means() -> None:
    tables = [estimated(np.random.default_rng(seed), 3) for seed in range(20)]
    off = np.mean([table.outcomes.mean(axis=1) - true_outcomes(table.x, 3).mean(axis=1) for table in tables], axis=0)
    assert (np.abs(off) < 0.05).all()
    assert all(np.array_equal(np.sort(np.concatenate(table.folds)), np.arange(ROWS)) for table in tables)


def test_a_policy_is_given_to_each_row_by_models_that_did_not_see_it() -> None:
    table = estimated(np.random.default_rng(0), 2)
    for judge in POLICIES.values():
        judged, policies = judge(table)
        assert len(policies) == FOLDS
        assert len(judged.choice) == ROWS


def test_intervals_hold_and_own_rows_flatter() -> None:
    found = {(name, what): rows.mean(axis=0) for name, what, rows in measure(2, 30)}
    for name in ("a given rule", "by effect, cross-fitted", "tree, cross-fitted"):
        assert found[name, "value"][3] >= 0.8
    bias = {name: found[name, "gain over all 0"][1] - found[name, "gain over all 0"][0] for name in POLICIES}
    assert bias["tree, on its own rows"] > bias["tree, cross-fitted"] + 0.02
