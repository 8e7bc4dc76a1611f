"""Who gains: average effects in groups of rising estimated effect (GATES)."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_integer

from ..judging.columns import check_columns, cluster_places, row_weights
from ..judging.estimates import (
    AverageEffect,
    check_alpha,
    covariance,
    estimate_head,
    estimate_line,
    estimate_of,
    mean_estimate,
    two_sided,
)
from .policy import Labels


@dataclass(frozen=True)
class GroupEffects:
    """Average effects in groups of rising estimated effect; `print` shows them. `group_effects` makes it.

    Args:
        effects: the average effect of each group, from the least to the most estimated effect.
        predicted: the mean estimated effect of each group [groups].
        difference: the average effect of the last group, less that of the first.
        p_difference: of both sides, that the first and the last group are alike.
        p_equal: that all groups are alike, by a Wald test.
        p_order: that the effects never fall from a group to the next. A small one says that the ranking is wrong.
        slope: the slope of the effects over the estimated effects: 1 where these are right, 0 where they say nothing.
        quantile: the place of each row's group [rows]; -1 for a row whose weight is 0.
        alpha: the share of intervals that may miss.

    Example:
        >>> effect = np.repeat([1.0, 1.2, 1.4, 1.6], 50)
        >>> print(group_effects(effect, effect + np.tile([-1.0, 1.0], 100), quantiles=2))
                              effect   std. error          95% interval      rows
        group 1, least           1.1        0.101        0.902 to 1.298       100
        group 2, most            1.5        0.101        1.302 to 1.698       100
        most less least          0.4       0.1425      0.1207 to 0.6793       200
        slope                      1        0.317       0.3786 to 1.621       200
        all groups alike: p = 0.005; no fall between groups: p = 1
    """

    effects: tuple[AverageEffect, ...]
    predicted: Float[np.ndarray, " groups"]
    difference: AverageEffect
    p_difference: float
    p_equal: float
    p_order: float
    slope: AverageEffect
    quantile: Int[np.ndarray, " rows"]
    alpha: float = 0.05

    def __str__(self) -> str:
        last = len(self.effects)
        ends = {1: ", least", last: ", most"}
        named = {f"group {place}{ends.get(place, '')}": one for place, one in enumerate(self.effects, 1)}
        named |= {"most less least": self.difference, "slope": self.slope}
        wide = max(map(len, named))
        lines = [estimate_head(wide, self.alpha, "effect")]
        lines += [estimate_line(name, wide, found) for name, found in named.items()]
        return "\n".join(
            [*lines, f"all groups alike: p = {self.p_equal:.2g}; no fall between groups: p = {self.p_order:.2g}"]
        )


def group_effects(
    effect: Float[np.ndarray, " rows"],
    pseudo: Float[np.ndarray, " rows"],
    *,
    quantiles: int = 5,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Labels | None = None,
    alpha: float = 0.05,
) -> GroupEffects:
    """Returns the average effects in groups of rising estimated effect (GATES), and whether they differ.

    The rows are cut by quantiles of the estimated effect into groups of equal weight; rows that are alike in it stay
    together, so that there may be fewer groups. A group's effect is the mean of its doubly robust pseudo-outcomes.

    Args:
        effect: the estimated effects [rows], by models that did not see the row; any other ranking will do.
        pseudo: the same rows' doubly robust pseudo-outcomes [rows], from `pseudo_outcomes`; of several arms the
            difference of two rows of `arm_outcomes`.
        quantiles: how many groups, at least 2.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        alpha: the share of intervals that may miss.

    Returns:
        The average effects with intervals, the difference of the last and the first, and tests.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, weights that are negative or all zero, estimated
            effects that are all alike, or less than two clusters.
        ImportError: scipy is not installed; the message names the extra.

    Example:
        >>> effect = np.linspace(0, 1, 100)
        >>> found = group_effects(effect, pseudo=2 * effect, quantiles=4)
        >>> [round(one.value, 2) for one in found.effects], round(found.slope.value, 2)
        ([0.24, 0.75, 1.25, 1.76], 2.0)

    Source: Chernozhukov, Demirer, Duflo, Fernandez-Val, "Fisher-Schultz lecture: generic machine learning inference on
    heterogeneous treatment effects in randomized experiments", 2025. They cut the rows into two halves many times; here
    each row is judged once, by models that did not see it.
    """
    effect, pseudo = check_columns(effect=effect, pseudo=pseudo)
    quantiles = check_integer("quantiles", quantiles, at_least=2)
    alpha, w, places = check_alpha(alpha), row_weights(w, len(effect)), cluster_places(groups, len(effect))
    counted = w > 0
    quantile = np.full(len(effect), -1)
    quantile[counted] = _cut(effect[counted], w[counted], quantiles)
    effect, pseudo, w, places = (column[counted] for column in (effect, pseudo, w, places))
    of_row = quantile[counted]
    count = int(of_row.max()) + 1
    if count < 2:
        raise ValueError(f"effect: expected values that make at least 2 groups, got {effect[0]} in every row")
    if len(np.unique(places)) < 2:
        raise ValueError(f"groups: expected rows of at least two clusters, got {len(effect)} rows of one")
    member = of_row == np.arange(count)[:, None]
    weights = w * member / (w * member).sum(axis=1, keepdims=True)
    means = weights @ pseudo
    influence = weights * (pseudo - means[:, None])
    spread = covariance(influence, places)
    effects = tuple(mean_estimate(pseudo[one], w[one], places[one], alpha) for one in member)
    change = np.zeros(count)
    change[[0, -1]] = -1, 1
    difference = estimate_of(float(change @ means), math.sqrt(max(change @ spread @ change, 0)), len(effect), alpha)
    steps = np.diff(np.eye(count), axis=0)
    return GroupEffects(
        effects=effects,
        predicted=weights @ effect,
        difference=difference,
        p_difference=two_sided(difference.value, difference.standard_error),
        p_equal=_wald(steps @ means, steps @ spread @ steps.T),
        p_order=_never_falls(steps @ means, np.sqrt(np.maximum(np.diag(steps @ spread @ steps.T), 0))),
        slope=_slope(effect, pseudo, w, places, alpha),
        quantile=quantile,
        alpha=alpha,
    )


def _cut(effect: np.ndarray, w: np.ndarray, quantiles: int) -> np.ndarray:
    """Returns the group of each row by rising effect, from 0 on without gaps; equal effects are in one group."""
    place = np.unique(effect, return_inverse=True)[1]
    weight = np.bincount(place, w)
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    group = np.minimum((quantiles * middle).astype(int), quantiles - 1)
    return np.unique(group, return_inverse=True)[1][place]


def _wald(differences: np.ndarray, spread: np.ndarray) -> float:
    """Returns the p-value of differences that are all 0, by the chi-squared distribution."""
    try:
        from scipy.special import gammaincc
    except ImportError as error:
        raise ImportError("tests of groups need scipy: pip install 'twohead[jax]'") from error
    if not spread.any():
        return 0.0 if differences.any() else 1.0
    statistic = float(differences @ np.linalg.pinv(spread, hermitian=True) @ differences)
    return float(gammaincc(np.linalg.matrix_rank(spread, hermitian=True) / 2, max(statistic, 0) / 2))


def _never_falls(differences: np.ndarray, errors: np.ndarray) -> float:
    """Returns the p-value of differences that are at least 0: the least one's, times their number (Bonferroni)."""
    one_sided = [
        NormalDist().cdf(value / error) if error > 0 else float(value >= 0)
        for value, error in zip(differences.tolist(), errors.tolist(), strict=True)
    ]
    return min(1.0, len(one_sided) * min(one_sided))


def _slope(effect: np.ndarray, pseudo: np.ndarray, w: np.ndarray, places: np.ndarray, alpha: float) -> AverageEffect:
    """Returns the weighted least-squares slope of pseudo-outcomes over estimated effects (best linear predictor)."""
    centred = effect - np.average(effect, weights=w)
    weight = w * centred / np.sum(w * centred**2)
    value = float(weight @ pseudo)
    residual = pseudo - np.average(pseudo, weights=w) - value * centred
    error = math.sqrt(covariance((weight * residual)[None], places)[0, 0])
    return estimate_of(value, error, len(effect), alpha)
