"""Which rows get which arm: by hand, against all possible choices, and by property."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import choose_arms

EFFECTS = np.array([3.0, 1.0, 2.0, -1.0])


def drawn(seed: int, arms: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Effects with ties, and costs, both from the control on."""
    generator = np.random.default_rng(seed)
    effects = generator.integers(-4, 9, (arms, rows)) / 2
    costs = generator.integers(0, 5, (arms, rows)) / 2
    effects[0], costs[0] = 0, 0
    return effects, costs


def worth(choice: np.ndarray, effects: np.ndarray, costs: np.ndarray) -> tuple[float, float]:
    rows = np.arange(len(choice))
    return float((effects - costs)[choice, rows].sum()), float(costs[choice, rows].sum())


def test_without_a_limit_by_hand() -> None:
    assert choose_arms(EFFECTS).tolist() == [1, 1, 1, 0]
    assert choose_arms(EFFECTS, 1.0).tolist() == [1, 0, 1, 0]  # what gains nothing is not done
    assert choose_arms(EFFECTS, np.array([2.5, 0.0])).tolist() == [1, 1, 1, 1]  # the control is dearer
    assert choose_arms(EFFECTS, np.array([4.0, 0.0, 1.0, 0.0])).tolist() == [0, 1, 1, 0]
    assert choose_arms(np.array([[1.0, 1.0], [2.0, 1.0], [2.0, 3.0]])).tolist() == [1, 2]


def test_a_budget_by_hand() -> None:
    assert choose_arms(EFFECTS, 0.5, budget=1.0).tolist() == [1, 0, 1, 0]
    assert choose_arms(EFFECTS, 0.5, budget=0.0).tolist() == [0, 0, 0, 0]
    # Gains per cost of 1.5, 10 and 2: the first does not fit any more, and the next in line does.
    costs = np.array([2.0, 0.1, 1.0, 1.0])
    assert choose_arms(EFFECTS, costs, budget=1.5).tolist() == [0, 1, 1, 0]
    assert choose_arms(np.full(4, 2.0), 1.0, budget=2.0).tolist() == [1, 1, 0, 0]  # ties: the first rows
    assert choose_arms(np.full(30, 2.0), 0.1, budget=3.0).sum() == 30  # adding up rounds


def test_a_row_moves_on_to_dearer_arms() -> None:
    """The first row gains 4 for 1, then 1.5 more for 1 more; the second 3 for 1."""
    effects, costs = np.array([[0.0, 0.0], [4.0, 3.0], [5.5, 3.0]]), np.array([0.0, 1.0, 2.0])
    for budget, expected in ((0.5, [0, 0]), (1.0, [1, 0]), (2.0, [1, 1]), (3.0, [2, 1]), (9.0, [2, 1])):
        assert choose_arms(effects, costs, budget=budget).tolist() == expected


def test_a_control_that_costs_more_pays_for_others() -> None:
    effects, costs = np.array([[0.0, 0.0], [-1.0, -9.0], [1.0, 5.0]]), np.array([2.0, 0.0, 4.0])
    assert choose_arms(effects, costs, budget=0.0).tolist() == [1, 2]


def test_a_share_by_hand() -> None:
    assert choose_arms(EFFECTS, share=0.5).tolist() == [1, 0, 1, 0]
    assert choose_arms(EFFECTS, share=1.0).tolist() == [1, 1, 1, 0]
    assert choose_arms(EFFECTS, share=0.2).tolist() == [0, 0, 0, 0]
    assert choose_arms(np.full(10, 2.0), share=0.3).tolist() == [1] * 3 + [0] * 7
    assert choose_arms(np.zeros((3, 2)), share=1.0).tolist() == [0, 0]


@examples(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3), st.integers(1, 5), st.integers(0, 16))
def test_a_budget_against_all_choices(seed: int, arms: int, rows: int, half_budget: int) -> None:
    """Never above the budget, and less than one step short of the best choice; with room for all, the best."""
    effects, costs = drawn(seed, arms, rows)
    budget = half_budget / 2
    value, spent = worth(choose_arms(effects, costs, budget=budget), effects, costs)
    assert spent <= budget * (1 + 1e-9)
    every = [worth(np.array(choice), effects, costs) for choice in itertools.product(range(arms), repeat=rows)]
    best = max(value for value, spent in every if spent <= budget)
    assert best - (effects - costs).max() - 1e-9 <= value <= best + 1e-9
    enough = choose_arms(effects, costs, budget=costs.sum())
    assert worth(enough, effects, costs)[0] == pytest.approx(max(value for value, _ in every))


@examples(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 6))
def test_with_equal_costs_a_budget_is_the_best_choice(seed: int, rows: int, treated: int) -> None:
    effect = drawn(seed, 2, rows)[0][1]
    choice = choose_arms(effect, 1.0, budget=float(treated))
    assert (effect - 1)[choice == 1].sum() == pytest.approx(np.sort(np.maximum(effect - 1, 0))[::-1][:treated].sum())
    np.testing.assert_array_equal(choice, choose_arms(effect, 1.0, share=min(1.0, treated / rows)))


@examples(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, arms: int, scale: float, shift: float) -> None:
    """A unit and an offset change nothing, the order of rows neither; two forms of the same say the same."""
    generator = np.random.default_rng(seed)
    effects, costs = generator.normal(size=(arms, 12)), generator.uniform(0.1, 1, (arms, 12))
    costs[0] = 0
    order = generator.permutation(12)
    limits: list[dict[str, Any]] = [{}, {"share": 0.4}, {"budget": 2.0}]
    for limit in limits:
        found = choose_arms(effects, costs, **limit)
        np.testing.assert_array_equal(choose_arms(effects[:, order], costs[:, order], **limit), found[order])
        np.testing.assert_array_equal(choose_arms(effects + shift, costs, **limit), found)
        larger: dict[str, Any] = {name: value * (scale if name == "budget" else 1) for name, value in limit.items()}
        np.testing.assert_array_equal(choose_arms(scale * effects, scale * costs, **larger), found)
        if not limit.get("budget"):
            np.testing.assert_array_equal(choose_arms(effects, costs + shift + 5, **limit), found)
    two, price = effects[1] - effects[0], costs[1]
    np.testing.assert_array_equal(choose_arms(two, price, budget=1.0), choose_arms(effects[:2], costs[:2], budget=1.0))


@pytest.mark.parametrize(
    ("effects", "settings", "message"),
    [
        (EFFECTS, {"costs": np.zeros(3)}, r"costs: expected shape \[4\], got \[3\]"),
        (EFFECTS, {"costs": np.zeros((2, 3))}, r"costs: expected shape \[2, 4\], got \[2, 3\]"),
        (EFFECTS, {"costs": -1.0}, "costs: expected costs of at least 0, got -1"),
        (EFFECTS, {"costs": np.array([0, np.nan])}, "costs: expected finite numbers, got nan in row 1"),
        (EFFECTS, {"budget": -1.0}, "budget: expected a finite number of at least 0, got -1.0"),
        (EFFECTS, {"share": 1.5}, "share: expected a share of at most 1, got 1.5"),
        (EFFECTS, {"share": 0.5, "budget": 1.0}, "budget: expected a budget or a share, got both"),
        (np.zeros(0), {}, "effects: expected at least one row, got an empty batch"),
        (np.array([1, np.inf]), {}, "effects: expected finite numbers, got inf in row 1"),
        (np.zeros((1, 4)), {}, "effects: expected at least 2 arms, got 1"),
        (np.zeros((2, 2, 2)), {}, r"effects: expected shape \[arms, rows\], got \[2, 2, 2\]"),
    ],
)
def test_bad_arguments(effects: np.ndarray, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose_arms(effects, **settings)
