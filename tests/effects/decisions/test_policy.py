"""What a policy is worth: by hand, by property, how often intervals hold, and that own rows flatter a policy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import (
    arm_outcomes,
    average_effects,
    budget_curve,
    choose_arms,
    judged_policy,
    policy_value,
    pseudo_outcomes,
)

OUTCOMES = np.array([[1.0, 2.0, 0.0, 1.0], [4.0, 1.0, 2.0, 1.0], [0.0, 6.0, 1.0, 1.0]])
CHOICE = np.array([1, 2, 0, 0])


def test_a_value_by_hand() -> None:
    found = policy_value(OUTCOMES, CHOICE, costs=np.array([0.0, 1.0, 2.0]), against=np.array([1, 1, 1, 0]))
    net = np.array([3.0, 4.0, 0.0, 1.0])
    assert found.value.value == pytest.approx(2.0)
    assert found.value.standard_error == pytest.approx(net.std(ddof=1) / 2)
    assert found.value.high == pytest.approx(2 + 1.959964 * net.std(ddof=1) / 2)
    assert [one.value for one in found.gains.values()] == pytest.approx([1.0, 2 - 1.0, 2 - 0.0])
    over = net - [3, 0, 1, 1]
    assert found.over is not None
    assert (found.over.value, found.over.standard_error) == pytest.approx((0.75, over.std(ddof=1) / 2))
    assert found.shares == {0: 0.5, 1: 0.25, 2: 0.25}


def test_weights_and_clusters_by_hand() -> None:
    w = np.array([1.0, 2.0, 1.0, 0.0])
    found = policy_value(OUTCOMES, CHOICE, w=w, groups=["a", "b", "a", "b"], arms=("none", "low", "high"))
    assert found.value.value == pytest.approx((4 + 12 + 0) / 4)
    sums = np.array([(4 - 4) + (0 - 4), 2 * (6 - 4)]) / 4
    assert found.value.standard_error == pytest.approx(np.sqrt((sums**2).sum() * 2))
    assert found.value.rows == 3
    assert found.shares == {"none": 0.25, "low": 0.25, "high": 0.5}
    text = str(found).splitlines()
    assert [line.split("   ")[0] for line in text[1:5]] == [
        "value", "gain over all none", "gain over all low", "gain over all high",
    ]  # fmt: skip
    assert text[5] == "rows by arm: none 25.0%, low 25.0%, high 50.0%"


@examples(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, arms: int, scale: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    outcomes, costs = generator.normal(size=(arms, 30)), generator.uniform(0, 1, (arms, 30))
    choice, w = generator.integers(0, arms, 30), generator.uniform(0.1, 1, 30)
    found = policy_value(outcomes, choice, costs, w=w)
    order = generator.permutation(30)
    shuffled = policy_value(outcomes[:, order], choice[order], costs[:, order], w=3 * w[order], groups=order)
    unit = policy_value(scale * outcomes + shift, choice, scale * costs, w=w)
    dearer = policy_value(outcomes, choice, costs + 2, w=w)
    of_names = generator.permutation(arms)
    renamed = policy_value(outcomes[of_names], np.argsort(of_names)[choice], costs[of_names], w=w)
    for arm in range(arms):
        one = found.gains[arm]
        for again in (shuffled.gains[arm], dearer.gains[arm], renamed.gains[int(np.argsort(of_names)[arm])]):
            assert (again.value, again.standard_error) == pytest.approx((one.value, one.standard_error))
        assert unit.gains[arm].value == pytest.approx(scale * one.value, abs=1e-9)
        assert unit.gains[arm].standard_error == pytest.approx(scale * one.standard_error)
    assert unit.value.value == pytest.approx(scale * found.value.value + shift, abs=1e-9)
    assert dearer.value.value == pytest.approx(found.value.value - 2)
    # All the same arm: no gain over it, and none that could be otherwise.
    same = policy_value(outcomes, np.full(30, 1), costs)
    assert (same.gains[1].value, same.gains[1].standard_error) == (0, 0)
    other = policy_value(outcomes, choice, costs, w=w, against=generator.integers(0, arms, 30))
    assert other.over is not None
    assert other.value == found.value


def test_treating_all_gains_the_average_effect() -> None:
    generator = np.random.default_rng(0)
    mu, e, t = generator.normal(size=(2, 50)), generator.uniform(0.2, 0.8, 50), np.tile([0, 1], 25)
    y = generator.normal(size=50)
    outcomes = arm_outcomes(t, y, mu, np.stack([1 - e, e]))
    gain = policy_value(outcomes, np.ones(50, int)).gains[0]
    ate = average_effects(t, y, mu[0], mu[1], e).ate
    assert (gain.value, gain.low, gain.high) == pytest.approx((ate.value, ate.low, ate.high))


def test_a_policy_looks_too_good_on_the_rows_that_it_was_chosen_by() -> None:
    """Of pure noise: the best arm of each row by its own outcomes seems to gain, judged on other rows nothing does."""
    generator = np.random.default_rng(0)
    x, outcomes = generator.integers(0, 20, 1000), generator.normal(size=(2, 1000))

    def learn(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        sums = np.bincount(x[seen], (outcomes[1] - outcomes[0])[seen], minlength=20)
        return (sums[x[unseen]] > 0).astype(int)

    rows = np.arange(1000)
    own = policy_value(outcomes, learn(rows, rows)).gains[0]
    honest = judged_policy(outcomes, learn).gains[0]
    assert own.low > 0
    assert honest.low < 0 < honest.high


def test_each_row_is_judged_once_by_others() -> None:
    calls: list[tuple[np.ndarray, np.ndarray]] = []
    groups = np.repeat(np.arange(10), 3)

    def learn(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        calls.append((seen, unseen))
        return unseen % 2

    found = judged_policy(np.random.default_rng(0).normal(size=(2, 30)), learn, folds=3, groups=groups, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([unseen for _, unseen in calls])), np.arange(30))
    for seen, unseen in calls:
        assert not set(groups[seen]) & set(groups[unseen])
        assert len(seen) + len(unseen) == 30
    np.testing.assert_array_equal(found.choice, np.arange(30) % 2)


def test_intervals_of_a_given_policy_hold() -> None:
    """Of 400 trials with three arms: the true value and the true gain over each arm."""
    generator = np.random.default_rng(0)
    held = np.zeros(4)
    for _ in range(400):
        x, t = generator.normal(size=300), generator.integers(0, 3, 300)
        mu = np.stack([x, 1 - x, 0.5 * np.ones(300)])
        y = mu[t, np.arange(300)] + generator.normal(size=300)
        found = policy_value(arm_outcomes(t, y, 0.5 * mu, np.full((3, 300), 1 / 3)), np.where(x > 0, 0, 1))
        # E max(0, x) = 0.3989, and 1 - x below 0
        value = 0.5 + 2 * 0.398942
        for place, (one, true) in enumerate(
            zip([found.value, *found.gains.values()], [value, value, value - 1, value - 0.5], strict=True)
        ):
            held[place] += one.low <= true <= one.high
    assert (held / 400 > 0.91).all(), held
    assert (held / 400 < 0.985).all(), held


def test_a_budget_curve_by_hand() -> None:
    effect = np.array([1.0, 3.0, -1.0, 2.0])
    outcomes = np.stack([np.ones(4), 1 + np.array([2.0, 4.0, -2.0, 2.0])])
    curve = budget_curve(effect, outcomes, 0.5, points=4)
    assert curve.kind == "budget"
    np.testing.assert_allclose(curve.limit, [0, 0.5, 1, 1.5])
    np.testing.assert_allclose(curve.gain, np.array([0, 3.5, 5, 6.5]) / 4)
    assert (curve.low[0], curve.high[0]) == (0, 0)
    last = policy_value(outcomes, choose_arms(effect, 0.5), 0.5).gains[0]
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((last.low, last.high))
    free = budget_curve(effect, outcomes, points=4)
    assert free.kind == "share"
    np.testing.assert_allclose(free.limit, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(free.gain, np.array([0, 4, 6, 8]) / 4)


def test_a_budget_curve_of_several_arms() -> None:
    outcomes = np.array([[0.0, 0.0], [4.0, 3.0], [5.5, 3.0]])
    curve = budget_curve(outcomes, outcomes, np.array([0.0, 1.0, 2.0]), points=4)
    np.testing.assert_allclose(curve.limit, [0, 1, 2, 3])
    np.testing.assert_allclose(curve.gain, np.array([0, 3, 5, 5.5]) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": np.array([0, 1, 3, 0])}, "choice: expected an arm from 0 to 2, got 3 in row 2"),
        ({"choice": np.array([0.0, 1, 1, 0])}, "choice: expected an arm from 0 to 2, got 0.0 in row 0"),
        ({"choice": np.array([0, 1])}, r"choice: expected shape \[4\], got \[2\]"),
        ({"against": np.array([0, 1, -1, 0])}, "against: expected an arm from 0 to 2, got -1 in row 2"),
        ({"outcomes": np.zeros((3, 0))}, "outcomes: expected at least one row, got an empty batch"),
        ({"outcomes": np.zeros(4)}, r"outcomes: expected shape \[arms, rows\], got \[4\]"),
        ({"outcomes": OUTCOMES * np.nan}, r"outcomes: expected finite .* nan in row 0 of arm 0 \(12 in all\)"),
        ({"arms": ("a", "b")}, r"arms: expected 3 different labels, got \['a', 'b'\]"),
        ({"arms": ("a", "b", "a")}, r"arms: expected 3 different labels, got \['a', 'b', 'a'\]"),
        ({"groups": ["a"] * 4}, "groups: expected rows of at least two clusters, got 4 rows of one"),
        ({"alpha": 1}, "alpha: expected a finite number above 0 and below 1, got 1"),
        ({"w": np.zeros(4)}, "w: expected at least one weight that is not zero, got none"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        policy_value(**{"outcomes": OUTCOMES, "choice": CHOICE, **change})


def test_bad_policies_and_folds() -> None:
    with pytest.raises(ValueError, match=r"^learn: expected shape \[2\], got \[4\]$"):
        judged_policy(OUTCOMES, lambda seen, unseen: CHOICE, folds=2)
    with pytest.raises(ValueError, match=r"^folds: expected at most as many as there are clusters, 4, got 5$"):
        judged_policy(OUTCOMES, lambda seen, unseen: CHOICE)
    with pytest.raises(ValueError, match=r"^effects: expected shape \[3, 4\], got \[4\]$"):
        budget_curve(np.zeros(4), OUTCOMES)


def test_pseudo_outcomes_are_the_gain_of_treatment() -> None:
    t, y = np.array([0, 1, 1, 0]), np.array([1.0, 2.0, 0.5, 3.0])
    mu, half = OUTCOMES[:2], np.full((2, 4), 0.5)
    gain = policy_value(arm_outcomes(t, y, mu, half), np.ones(4, int)).gains[0].value
    assert gain == pytest.approx(pseudo_outcomes(t, y, mu[0], mu[1], half[1]).mean())
