"""Pictures of decisions: what a budget brings, who gains, what moves the effect, and a policy's tree."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots import BLUE, GREY, ORANGE, figure, plain
from .budget_curve import BudgetCurve
from .group_effects import GroupEffects
from .importance import Importance
from .policy_tree import Leaf, PolicyTree, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ARMS = ("#d8dde6", "#f8d9a8", "#b9d3ee", "#cfe8c8", "#e8c8d8", "#d8cdf0")  # light: text is written on them
_MOST = 20  # bars that a picture has room for


def budget_figure(curve: BudgetCurve) -> "Figure":
    """Returns a picture of what budgets bring, with the band of their intervals.

    Args:
        curve: from `budget_curve`.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> ends = np.array([0.0, 1.0])
        >>> drawn = budget_figure(BudgetCurve("share", limit=ends, gain=2 * ends, low=ends, high=3 * ends))
        >>> drawn.axes[0].get_ylabel()
        'gain per row'
    """
    drawing = figure(8, 5)
    axes = drawing.subplots()
    axes.fill_between(curve.limit, curve.low, curve.high, color=ORANGE, alpha=0.25, linewidth=0,
                      label=f"{100 * (1 - curve.alpha):.3g}% intervals")  # fmt: skip
    axes.plot(curve.limit, curve.gain, "o-", color=ORANGE, markersize=3, label="most gain per cost first")
    axes.plot(curve.limit[[0, -1]], curve.gain[[0, -1]], color=GREY, linestyle="--", label="the same rows at random")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    if curve.kind == "share":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    named = {"share": "share of rows treated", "budget": "budget for all rows, in the outcome's unit"}[curve.kind]
    axes.set(xlabel=named, ylabel="gain per row", title="What a budget brings, less its costs")
    axes.legend(loc="best")
    return drawing


def group_figure(found: GroupEffects) -> "Figure":
    """Returns a picture of the average effects by group, with intervals, beside the effects that were estimated.

    Args:
        found: from `group_effects`.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> from flax_impl.effects import group_effects
        >>> effect = np.linspace(0, 1, 100)
        >>> len(group_figure(group_effects(effect, pseudo=2 * effect)).axes[0].patches)
        5
    """
    drawing = figure(8, 5)
    axes = drawing.subplots()
    place = np.arange(1, len(found.effects) + 1)
    value, low, high = (np.array([getattr(one, name) for one in found.effects]) for name in ("value", "low", "high"))
    axes.bar(place, value, color="#b0b8c8", width=0.7, label="average effect, doubly robust")
    axes.errorbar(place, value, yerr=[value - low, high - value], fmt="none", color=BLUE, capsize=5,
                  label=f"{100 * (1 - found.alpha):.3g}% intervals")  # fmt: skip
    axes.plot(place, found.predicted, "D", color=ORANGE, markersize=6, label="mean estimated effect")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(place, [f"{i}\n{one.rows} rows" for i, one in zip(place.tolist(), found.effects, strict=True)])
    axes.set(xlabel="group by estimated effect, least first", ylabel="effect of the treatment")
    change = found.difference
    axes.set_title(
        f"Effects by group: most less least {change.value:.4g} ({change.low:.4g} to {change.high:.4g}), "
        f"all alike: p = {found.p_equal:.2g}"
    )
    axes.legend(loc="best")
    return drawing


def importance_figure(found: Importance) -> "Figure":
    """Returns a picture of which features move the effect, the 20 most important at most.

    Args:
        found: from `effect_importance` or `shap_importance`.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> shares = np.array([0.1, 0.9])
        >>> drawn = importance_figure(Importance(("age", "income"), shares, 0 * shares, "permutation", rows=100))
        >>> [label.get_text() for label in drawn.axes[0].get_yticklabels()]
        ['income', 'age']
    """
    shown = found.order[:_MOST]
    drawing = figure(8, 1.4 + 0.32 * len(shown))
    axes = drawing.subplots()
    place = np.arange(len(shown))
    axes.barh(place, found.share[shown], xerr=1.96 * found.standard_error[shown], color="#b0b8c8", ecolor=BLUE,
              capsize=3)  # fmt: skip
    axes.set_yticks(place, [plain(found.names[i]) for i in shown])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    of = {"permutation": "share of the effect's variance lost when permuted", "shap": "share of all Shapley values"}
    hidden = len(found.names) - len(shown)
    more = f", and {hidden} more" if hidden else ""
    axes.set(xlabel=of[found.method], title=f"What moves the estimated effect, {found.rows} rows{more}")
    return drawing


def tree_figure(tree: PolicyTree) -> "Figure":
    """Returns a picture of a policy's tree: questions above, what its leaves do below.

    Args:
        tree: from `policy_tree`.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> from flax_impl.effects import policy_tree
        >>> x, outcomes = np.array([[30.0], [60.0]]), np.array([[0.0, 0.0], [2.0, -3.0]])
        >>> drawn = tree_figure(policy_tree(x, outcomes, columns=["age"], min_leaf=1))
        >>> [text.get_text() for text in drawn.axes[0].texts][::2]
        ['age <= 45', 'yes', 'no']
    """
    width, depth = _leaves(tree.root), _depth(tree.root)
    drawing = figure(max(5.0, 2.2 * width), 1.6 + 1.4 * depth)
    axes = drawing.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(-depth - 0.4, 0.4))
    _draw_node(axes, tree, tree.root, 0, 0)
    return drawing


def _draw_node(axes: Any, tree: PolicyTree, node: Split | Leaf, left: float, level: int) -> float:
    """Draws a node and what is below it, from `left` on; returns the middle at which it stands."""
    if isinstance(node, Leaf):
        rows = f"{node.rows} row" + "s" * (node.rows != 1)
        box = {"boxstyle": "round,pad=0.5", "facecolor": _ARMS[node.arm % len(_ARMS)], "edgecolor": GREY}
        axes.text(left + 0.5, -level, f"{plain(tree.words(node.arm))}\n{rows}", ha="center", va="center", bbox=box)
        return left + 0.5
    middle = left + _leaves(node) / 2
    box = {"boxstyle": "square,pad=0.5", "facecolor": "white", "edgecolor": BLUE}
    axes.text(middle, -level, plain(node.question.text(tree.columns)), ha="center", va="center", bbox=box, zorder=3)
    for answer, below in (("yes", node.yes), ("no", node.no)):
        to = _draw_node(axes, tree, below, left, level + 1)
        axes.plot([middle, to], [-level, -level - 1], color=GREY, linewidth=1, zorder=1)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text((middle + to) / 2, -level - 0.5, answer, ha="center", va="center", color=GREY, bbox=white)
        left += _leaves(below)
    return middle


def _leaves(node: Split | Leaf) -> int:
    return 1 if isinstance(node, Leaf) else _leaves(node.yes) + _leaves(node.no)


def _depth(node: Split | Leaf) -> int:
    return 0 if isinstance(node, Leaf) else 1 + max(_depth(node.yes), _depth(node.no))
