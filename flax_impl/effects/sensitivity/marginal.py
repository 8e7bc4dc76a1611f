"""Bounds of averages where hidden confounding moves a row's odds of treatment by a factor: the marginal model."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_number

from ..judging.estimates import normal_reach
from .columns import AverageBounds, AverageColumns, check_average

_LARGEST = 1e4  # factor that is looked at: what moves odds by more is a determined treatment
_NEAR = 1e-4  # of the factor that brings an effect to 0, as a share of it


@dataclass(frozen=True)
class MarginalBounds:
    """Between what averages lie under the marginal sensitivity model; `marginal_bounds` makes it.

    Args:
        odds_ratio: the factor by which hidden confounding may move a row's odds of treatment, up or down.
        y0: of the average outcome without treatment.
        y1: of the average outcome with treatment.
        ate: of the average effect.
        alpha: the share of intervals that may miss.

    Example:
        >>> ends = AverageBounds(low=1.0, high=3.0, interval_low=0.5, interval_high=3.5)
        >>> print(MarginalBounds(odds_ratio=2.0, y0=ends, y1=ends, ate=ends))
        where a hidden confounder moves the odds of treatment by up to 2 times, up or down:
        average without treatment   1 to 3 (interval 0.5 to 3.5)
        average with treatment      1 to 3 (interval 0.5 to 3.5)
        average effect              1 to 3 (interval 0.5 to 3.5)
    """

    odds_ratio: float
    y0: AverageBounds
    y1: AverageBounds
    ate: AverageBounds
    alpha: float = 0.05

    def __str__(self) -> str:
        times = f"{self.odds_ratio:.4g} times, up or down"
        lines = [f"where a hidden confounder moves the odds of treatment by up to {times}:"]
        named = {"average without treatment": self.y0, "average with treatment": self.y1, "average effect": self.ate}
        return "\n".join([*lines, *(f"{name:<28}{ends}" for name, ends in named.items())])


def marginal_bounds(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    *,
    odds_ratio: float = 2.0,
    score0: Float[np.ndarray, " rows"] | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
    alpha: float = 0.05,
) -> MarginalBounds:
    """Returns between what average outcomes and effect lie if hidden confounding moves the odds of treatment so much.

    Whatever was not measured, a row's odds of treatment are at most `odds_ratio` times those by its features, and at
    least those divided by it. The bounds hold where the propensities are right, or the expected outcomes and the
    distribution of residuals are. They are as narrow as can be for outcomes of 0 and 1, and where residuals spread
    alike in all rows of an arm; wider than need be otherwise.

    Args:
        t: the treatment [rows], 0 or 1, both of which occur; with `score0` also -1, a third arm.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows], by a model that did not see the row; of an outcome
            of 0 and 1, the probability of 1.
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows].
        odds_ratio: Lambda, at least 1, which is no hidden confounding.
        score0: each row's probability of no treatment [rows], where there are more arms; None is `1 - score`. Rows of
            other arms, whose `t` is -1, are left out: what is found speaks of the rows of the two.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        alpha: the share of intervals that may miss.

    Returns:
        The bounds, with normal intervals; at 1, the estimate and the interval of `average_effects`.

    Raises:
        ValueError: as `average_effects`, or an `odds_ratio` below 1.

    Warns:
        UserWarning: propensities nearer than 1e-6 to 0 or 1, which are taken as that near.

    Example:
        >>> t, y, half = np.array([0, 1, 0, 1]), np.array([1.0, 3.0, 1.0, 5.0]), np.full(4, 0.5)
        >>> table = {"t": t, "y": y, "mu0": np.full(4, 1.0), "mu1": np.full(4, 4.0), "score": half}
        >>> print(marginal_bounds(**table, odds_ratio=1.0).ate)
        3 to 3 (interval 1.4 to 4.6)
        >>> print(marginal_bounds(**table, odds_ratio=3.0).ate)
        2.667 to 3.333 (interval 1.535 to 4.465)

    Source: Tan, "A distributional approach for causal inference using propensity scores", 2006; Dorn, Guo, "Sharp
    sensitivity analysis for inverse propensity weighting via quantile balancing", 2023; Dorn, Guo, Kallus,
    "Doubly-valid doubly-sharp sensitivity analysis for causal inference with unmeasured confounding", 2024.
    """
    odds_ratio = check_number("odds_ratio", odds_ratio, at_least=1)
    alpha = check_number("alpha", alpha, above=0, below=1)
    rows = check_average(t, y, mu0, mu1, score, w, groups, score0)
    high1, high0 = _highest(rows, odds_ratio), _highest(rows.swapped(), odds_ratio)
    low1, low0 = _lowest(rows, odds_ratio), _lowest(rows.swapped(), odds_ratio)
    reach = normal_reach(alpha)
    ends = ((low0, high0), (low1, high1), (low1 - high0, high1 - low0))
    return MarginalBounds(odds_ratio, *(_bounds(rows, low, high, reach) for low, high in ends), alpha=alpha)


def tipping_odds_ratio(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    *,
    interval: bool = False,
    score0: Float[np.ndarray, " rows"] | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
    alpha: float = 0.05,
) -> float:
    """Returns the least Lambda of `marginal_bounds` at which the average effect may be 0: where its sign is lost.

    Args:
        t: the treatment [rows], 0 or 1, both of which occur; with `score0` also -1, a third arm.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows].
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows].
        interval: asks for the end of the interval to reach 0, not for the estimate.
        score0: as for `marginal_bounds`.
        w: the weights [rows], as for `marginal_bounds`.
        groups: the cluster of each row [rows], as for `marginal_bounds`.
        alpha: the share of intervals that may miss.

    Returns:
        A factor of odds, right to a ten-thousandth part: 1 where 0 lies in the interval already, infinity where even
        10,000 does not reach 0.

    Raises:
        ValueError: as `marginal_bounds`.

    Warns:
        UserWarning: as `marginal_bounds`.

    Example:
        >>> t, y, half = np.array([0, 1, 0, 1]), np.array([1.0, 3.0, 2.0, 5.0]), np.full(4, 0.5)
        >>> table = {"t": t, "y": y, "mu0": np.full(4, 1.5), "mu1": np.full(4, 1.8), "score": half}
        >>> tipping_odds_ratio(**table, interval=True)
        1.0

    Source: Tan, 2006; see `marginal_bounds`.
    """
    alpha = check_number("alpha", alpha, above=0, below=1)
    rows = check_average(t, y, mu0, mu1, score, w, groups, score0)
    if rows.mean(_highest(rows, 1) - _lowest(rows.swapped(), 1)) < 0:
        rows = rows.swapped()  # the effect of the other arm is above 0
    reach = normal_reach(alpha) if interval else 0.0

    def least(odds_ratio: float) -> float:
        each = _lowest(rows, odds_ratio) - _highest(rows.swapped(), odds_ratio)
        return _bounds(rows, each, each, reach).interval_low

    low, high = 1.0, _LARGEST
    if least(low) <= 0:
        return 1.0
    if least(high) > 0:
        return math.inf
    while high / low - 1 > _NEAR:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if least(middle) > 0 else (low, middle)
    return high


def _bounds(rows: AverageColumns, low: np.ndarray, high: np.ndarray, reach: float) -> AverageBounds:
    """Returns the means of what each row adds to both ends, and how far their intervals reach."""
    ends = []
    for each, sign in ((low, -1), (high, 1)):
        value = rows.mean(each)
        error = math.sqrt(rows.covariance(each - value)[0, 0])
        ends.append((value, value + sign * reach * error))
    (lower, interval_low), (upper, interval_high) = ends
    return AverageBounds(lower, upper, interval_low, interval_high)


def _lowest(rows: AverageColumns, odds_ratio: float) -> Float[np.ndarray, " rows"]:
    """Returns what each row adds to the least possible mean of the outcome with treatment."""
    if _is_binary(rows):
        return 1 - _highest(rows._replace(y=1 - rows.y, mu0=1 - rows.mu0, mu1=1 - rows.mu1), odds_ratio)
    return -_highest(rows._replace(y=-rows.y, mu0=-rows.mu0, mu1=-rows.mu1), odds_ratio)


def _highest(rows: AverageColumns, odds_ratio: float) -> Float[np.ndarray, " rows"]:
    """Returns what each row adds to the largest possible mean of the outcome with treatment.

    A treated row stands for itself and for `odds` untreated ones, whose unseen outcomes may be higher: at the
    worst, outcomes above a quantile count `odds_ratio` times among them, and the rest as little as may be.
    """
    treated, odds = rows.t == 1, (1 - rows.score) / rows.score
    quantile = odds_ratio / (1 + odds_ratio)
    if _is_binary(rows):
        cut = (rows.mu1 > 1 - quantile).astype(float)
        expected = np.minimum(1 - 1 / odds_ratio + rows.mu1 / odds_ratio, rows.mu1 * odds_ratio)
        worst = cut + np.where(rows.y > cut, odds_ratio, 1 / odds_ratio) * (rows.y - cut)
        return np.where(treated, rows.y + odds * (worst - expected), expected)
    residual, weight = (rows.y - rows.mu1)[treated], (rows.w * odds)[treated]
    cut = _weighted_quantile(residual, weight, quantile)
    beyond = cut + (1 + odds_ratio) * np.maximum(rows.y - rows.mu1 - cut, 0)  # its mean: that of the worst residuals
    share = 1 - 1 / odds_ratio
    worse = share * float(np.average(beyond[treated] - residual, weights=weight))
    worst = (1 - share) * (rows.y - rows.mu1) + share * beyond
    return np.where(treated, rows.y + odds * (worst - worse), rows.mu1 + worse)


def _is_binary(rows: AverageColumns) -> bool:
    """Returns whether all outcomes are 0 or 1, and what is expected of them are probabilities."""
    expected = np.concatenate([rows.mu0, rows.mu1])
    return bool(np.isin(rows.y, (0, 1)).all() and expected.min() >= 0 and expected.max() <= 1)


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Returns the least value at or below which lies at least that share of the weights."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(reached, share * reached[-1]), len(values) - 1)])
