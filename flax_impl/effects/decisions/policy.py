"""What a policy is worth: its doubly robust value, its gains over other policies, and how sure they are."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_rows

from ..judging.columns import check_of_arms, cluster_places, row_weights
from ..judging.estimates import AverageEffect, check_alpha, estimate_head, estimate_line, mean_estimate
from ..rows import draw_parts
from .choices import check_arm_of_rows, cost_table

Labels = Shaped[np.ndarray, " rows"] | Sequence[Hashable]


@dataclass(frozen=True)
class PolicyValue:
    """What a policy is worth; `print` shows it. `policy_value` and `judged_policy` make it.

    Args:
        value: the mean outcome under the policy, less its costs, in the outcome's unit.
        gains: how much more that is than if all rows got the same arm, by the arm's label.
        over: how much more it is than under the policy that it was compared with; None where there was none.
        shares: of the rows that each arm gets, by the arm's label.
        choice: the place of each row's arm [rows].
        alpha: the share of intervals that may miss.

    Example:
        >>> one = AverageEffect(value=2.0, standard_error=0.1, low=1.8, high=2.2, rows=100)
        >>> print(PolicyValue(one, {0: one}, None, {0: 0.25, 1: 0.75}, np.repeat([0, 1], [25, 75])))
                              per row   std. error          95% interval      rows
        value                       2          0.1            1.8 to 2.2       100
        gain over all 0             2          0.1            1.8 to 2.2       100
        rows by arm: 0 25.0%, 1 75.0%
    """

    value: AverageEffect
    gains: dict[Any, AverageEffect]
    over: AverageEffect | None
    shares: dict[Any, float]
    choice: Int[np.ndarray, " rows"]
    alpha: float = 0.05

    def __str__(self) -> str:
        named = {"value": self.value} | {f"gain over all {label}": found for label, found in self.gains.items()}
        named |= {} if self.over is None else {"gain over the other policy": self.over}
        wide = max(16, *map(len, named))
        lines = [estimate_head(wide, self.alpha, "per row")]
        lines += [estimate_line(name, wide, found) for name, found in named.items()]
        given = ", ".join(f"{label} {share:.1%}" for label, share in self.shares.items())
        return "\n".join([*lines, f"rows by arm: {given}"])


def policy_value(
    outcomes: Float[np.ndarray, "arms rows"],
    choice: Int[np.ndarray, " rows"],
    costs: float | Float[np.ndarray, " of_arms"] | Float[np.ndarray, "arms rows"] = 0.0,
    *,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Labels | None = None,
    against: Int[np.ndarray, " rows"] | None = None,
    arms: Sequence[Any] = (),
    alpha: float = 0.05,
) -> PolicyValue:
    """Returns what a policy is worth, and its gains over the same arm for all and over another policy.

    It is the mean of the doubly robust outcomes of the arms that the policy chooses, less what they cost. The policy
    must not have seen the `outcomes` of the rows that it is judged on: one that was chosen by them, such as a tree that
    was grown on them, is judged too well. For such a policy take `judged_policy`. Choices by effects that were
    cross-fitted, as the outcomes were, are honest.

    Args:
        outcomes: each row's doubly robust outcome under each arm [arms, rows], from `arm_outcomes`.
        choice: the place of the arm that the policy gives each row [rows].
        costs: of the arms, in the outcome's unit, as `choose_arms` takes them.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        against: the arms that another policy gives [rows], to compare with.
        arms: the label of each arm; none for their places.
        alpha: the share of intervals that may miss.

    Returns:
        The value and the gains, with standard errors from influence functions and normal intervals.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, an arm that is not there, weights that are
            negative or all zero, costs below 0, another number of labels, or less than two clusters.

    Example:
        >>> outcomes = np.array([[0.0, 0.0, 0.0, 0.0], [2.0, 4.0, -1.0, -3.0]])
        >>> found = policy_value(outcomes, choice=np.array([1, 1, 0, 0]), costs=1.0)
        >>> found.value.value, found.gains[0].value, found.gains[1].value
        (1.0, 1.0, 1.5)

    Source: Athey, Wager, "Policy learning with observational data", 2021; Robins, Rotnitzky, Zhao, 1994.
    """
    outcomes = check_outcomes(outcomes)
    count, rows = outcomes.shape
    places = check_arm_of_rows("choice", choice, count, rows)
    net = outcomes - cost_table(costs, count, rows)
    labels = label_arms(arms, count)
    alpha = check_alpha(alpha)
    w = row_weights(w, rows)
    clusters = cluster_places(groups, rows)
    if len(np.unique(clusters[w > 0])) < 2:
        raise ValueError(f"groups: expected rows of at least two clusters, got {rows} rows of one")

    def mean(values: np.ndarray) -> AverageEffect:
        return mean_estimate(values, w, clusters, alpha)

    everyone = np.arange(rows)
    chosen = net[places, everyone]
    over = None
    if against is not None:
        over = mean(chosen - net[check_arm_of_rows("against", against, count, rows), everyone])
    shares = {label: float(w[places == arm].sum() / w.sum()) for arm, label in enumerate(labels)}
    gains = {label: mean(chosen - net[arm]) for arm, label in enumerate(labels)}
    return PolicyValue(mean(chosen), gains, over, shares, places, alpha)


def judged_policy(
    outcomes: Float[np.ndarray, "arms rows"],
    learn: Callable[[Int[np.ndarray, " seen"], Int[np.ndarray, " unseen"]], Int[np.ndarray, " unseen"]],
    costs: float | Float[np.ndarray, " of_arms"] | Float[np.ndarray, "arms rows"] = 0.0,
    *,
    folds: int = 5,
    seed: int = 0,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Labels | None = None,
    against: Int[np.ndarray, " rows"] | None = None,
    arms: Sequence[Any] = (),
    alpha: float = 0.05,
) -> PolicyValue:
    """Returns what policies of a kind are worth, each judged on rows that it was not learned from.

    The rows are cut into folds, clusters whole. For each fold a policy is learned from the rows outside it, and chooses
    for the rows inside it. So the value is that of policies learned from a part of the rows: of a policy learned from
    all of them it is, if anything, a little too low.

    Args:
        outcomes: each row's doubly robust outcome under each arm [arms, rows], from `arm_outcomes`.
        learn: takes the numbers of the rows to learn from [seen] and of the rows to choose for [unseen]. Returns the
            place of the arm that each of the latter should get [unseen].
        costs: of the arms, in the outcome's unit, as `choose_arms` takes them.
        folds: how many, at least 2.
        seed: of the folds.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        against: the arms that another policy gives [rows], to compare with.
        arms: the label of each arm; none for their places.
        alpha: the share of intervals that may miss.

    Returns:
        As `policy_value`; `choice` has the arm that each row gets from the policy that did not see it.

    Raises:
        ValueError: as `policy_value`; or `learn` returns something else, or there are more folds than clusters.

    Example:
        >>> x = np.linspace(-1, 1, 40)
        >>> outcomes = np.stack([np.zeros(40), x])  # who lies above 0 gains from treatment
        >>> def learn(seen, unseen):
        ...     return (x[unseen] > 0).astype(int)
        >>> judged_policy(outcomes, learn).shares
        {0: 0.5, 1: 0.5}

    Source: Zhou, Athey, Wager, "Offline multi-action policy learning: generalization and optimization", 2023.
    """
    outcomes = check_outcomes(outcomes)
    count, rows = outcomes.shape
    choice = np.zeros(rows, dtype=np.int64)
    for unseen in draw_parts(rows, groups, folds=folds, seed=seed):
        seen = np.setdiff1d(np.arange(rows), unseen)
        choice[unseen] = check_arm_of_rows("learn", learn(seen, unseen), count, len(unseen))
    return policy_value(outcomes, choice, costs, w=w, groups=groups, against=against, arms=arms, alpha=alpha)


def check_outcomes(outcomes: Any) -> Float[np.ndarray, "arms rows"]:
    """Returns doubly robust outcomes in float64; raises ValueError unless they are finite, of 2 arms and some rows."""
    array = np.asarray(outcomes)
    check_shape("outcomes", array, ("arms", "rows"))
    check_rows("outcomes", array.T)
    return check_of_arms("outcomes", array, array.shape[1])


def label_arms(arms: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Returns a label for each arm, its place where there are none; raises ValueError for another number of them."""
    labels = tuple(arms) or tuple(range(count))
    if len(labels) != count or len(set(labels)) != count:
        raise ValueError(f"arms: expected {count} different labels, got {list(labels)}")
    return labels
