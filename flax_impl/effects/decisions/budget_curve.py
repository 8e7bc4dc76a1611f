"""What a budget brings: the gain of the best choices that it pays for, for budgets from nothing to enough."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_integer, check_shape

from ..judging.columns import cluster_places, row_weights
from ..judging.estimates import check_alpha, mean_estimate
from .choices import choose_arms, cost_table
from .policy import Labels, check_outcomes


@dataclass(frozen=True)
class BudgetCurve:
    """What budgets bring; `budget_curve` makes it.

    Args:
        kind: what is limited: "budget", what all rows may cost together, or "share", how many of them are treated. With
            weights, each row counts as often as it stands for the mean row.
        limit: the budgets, or the shares [points], from 0 to what the choice without a limit takes.
        gain: the mean gain over giving all the control, less costs, in the outcome's unit per row [points].
        low: lower ends of its intervals [points].
        high: upper ends [points].
        alpha: the share of intervals that may miss.

    Example:
        >>> ends = np.array([0.0, 1.0])
        >>> BudgetCurve("share", limit=ends, gain=2 * ends, low=ends, high=3 * ends).gain.tolist()
        [0.0, 2.0]
    """

    kind: Literal["budget", "share"]
    limit: Float[np.ndarray, " points"]
    gain: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    alpha: float = 0.05


def budget_curve(
    effects: Float[np.ndarray, " rows"] | Float[np.ndarray, "arms rows"],
    outcomes: Float[np.ndarray, "arms rows"],
    costs: float | Float[np.ndarray, " of_arms"] | Float[np.ndarray, "arms rows"] = 0.0,
    *,
    points: int = 21,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Labels | None = None,
    alpha: float = 0.05,
) -> BudgetCurve:
    """Returns what budgets bring when they are spent on the rows with the most estimated gain per cost.

    Whom to treat is chosen by `choose_arms` from the effects; what that brings is measured on the outcomes. Where no
    treatment costs anything, shares of the rows stand for budgets.

    Args:
        effects: the estimated effects, as `choose_arms` takes them, by models that did not see the row.
        outcomes: the same rows' doubly robust outcomes under each arm [arms, rows], from `arm_outcomes`.
        costs: of the arms, in the outcome's unit, as `choose_arms` takes them.
        points: how many budgets, at least 2, at equal distances.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        alpha: the share of intervals that may miss; each point's by itself.

    Returns:
        The budgets, and the gain over giving all the control at each, with intervals.

    Raises:
        ValueError: as `choose_arms` and `policy_value`; effects of another number of rows or arms; less than 2 points.

    Example:
        >>> effect = np.array([3.0, 1.0, 2.0, -1.0])
        >>> curve = budget_curve(effect, np.stack([np.zeros(4), effect]), points=4)
        >>> curve.limit.tolist(), curve.gain.tolist()
        ([0.0, 0.25, 0.5, 0.75], [0.0, 0.75, 1.25, 1.5])
    """
    outcomes = check_outcomes(outcomes)
    arms, rows = outcomes.shape
    effects = np.asarray(effects)
    check_shape("effects", effects, (rows,) if effects.ndim == 1 and arms == 2 else (arms, rows))
    points = check_integer("points", points, at_least=2)
    alpha, w, clusters = check_alpha(alpha), row_weights(w, rows), cluster_places(groups, rows)
    table, everyone = cost_table(costs, arms, rows), np.arange(rows)
    net, more = outcomes - table, table - table[0]
    best = choose_arms(effects, table)
    by_budget = bool((more > 0).any())
    most = max(float((w * more[best, everyone]).sum()), 0.0) if by_budget else min(float(np.mean(w * (best != 0))), 1.0)
    limit = np.linspace(0, most, points)
    found = []
    for one in limit.tolist():
        budget, share = (one, None) if by_budget else (None, one)
        choice = choose_arms(effects, table, budget=budget, share=share, w=w)
        found.append(mean_estimate(net[choice, everyone] - net[0], w, clusters, alpha))
    gain, low, high = (np.array([getattr(one, name) for one in found]) for name in ("value", "low", "high"))
    return BudgetCurve("budget" if by_budget else "share", limit, gain, low, high, alpha)
