"""Pictures of decisions: they are drawn, and show the numbers that they are given."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from flax_impl.effects import (
    budget_curve,
    budget_figure,
    effect_importance,
    group_effects,
    group_figure,
    importance_figure,
    policy_tree,
    tree_figure,
)
from flax_impl.effects.judging.balance import Balance
from flax_impl.effects.page.balance_figure import balance_figure

GENERATOR = np.random.default_rng(0)
EFFECT = GENERATOR.normal(size=200)
OUTCOMES = np.stack([np.zeros(200), EFFECT + GENERATOR.normal(size=200)])


@pytest.mark.parametrize("costs", [0.0, 0.2])
def test_a_budget(costs: float) -> None:
    curve = budget_curve(EFFECT, OUTCOMES, costs, points=6)
    drawn = budget_figure(curve)
    (axes,) = drawn.axes
    line, *_ = axes.get_lines()
    np.testing.assert_allclose(np.asarray(line.get_ydata()), curve.gain)
    assert ("share" in axes.get_xlabel()) == (costs == 0)
    drawn.savefig(io.BytesIO())


def test_groups() -> None:
    found = group_effects(EFFECT, OUTCOMES[1], quantiles=4)
    drawn = group_figure(found)
    (axes,) = drawn.axes
    heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose(heights, [one.value for one in found.effects])
    drawn.savefig(io.BytesIO())


def test_importance_shows_twenty_at_most() -> None:
    x = GENERATOR.normal(size=(50, 25))
    found = effect_importance(lambda x: x[:, 3] + 0.1 * x[:, 7], x)
    drawn = importance_figure(found)
    (axes,) = drawn.axes
    assert len(axes.patches) == 20
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["x4", "x8"]
    assert axes.get_title().endswith("and 5 more")
    drawn.savefig(io.BytesIO())


def test_a_tree_shows_all_its_questions_and_leaves() -> None:
    x = GENERATOR.normal(size=(200, 3))
    outcomes = np.stack([np.zeros(200), x[:, 0], x[:, 1] * (x[:, 0] < 0)])
    tree = policy_tree(x, outcomes, columns=["age", "income", "size"], arms=("none", "low", "high"))
    drawn = tree_figure(tree)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts.count("yes") == texts.count("no") == sum("<=" in text for text in texts) == str(tree).count("if ")
    assert sum("rows" in text for text in texts) == str(tree).count("rows")
    drawn.savefig(io.BytesIO())
    tree_figure(policy_tree(x, outcomes[:2], depth=1, min_leaf=150)).savefig(io.BytesIO())


def test_names_with_dollar_signs_are_no_formulas() -> None:
    """Matplotlib would raise ValueError for the first one, and set the second one in italics."""
    x, names = GENERATOR.normal(size=(200, 2)), ("$\\frac$", "$US or $EU")
    importance = replace(effect_importance(lambda x: x[:, 0] + x[:, 1], x), names=names)
    tree = policy_tree(x, np.stack([np.zeros(200), x[:, 0]]), columns=names, arms=("$_{$", "high"), depth=1)
    balance = balance_figure(Balance(names, before=np.array([0.5, 0.1]), after=np.array([0.1, 0.0])))
    for drawn in (importance_figure(importance), tree_figure(tree), balance):
        drawn.savefig(io.BytesIO())
