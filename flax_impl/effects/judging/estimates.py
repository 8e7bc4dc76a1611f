"""Estimates with their standard errors, from what each row adds to the error."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_number

from .columns import row_weights


@dataclass(frozen=True)
class AverageEffect:
    """The average effect of the treatment on some rows; `average_effects` makes it.

    Args:
        value: the average, in the outcome's unit.
        standard_error: of the value; NaN where the rows are of one cluster only.
        low: lower end of the interval.
        high: upper end of the interval.
        rows: how many rows the average is over.

    Example:
        >>> AverageEffect(value=2.0, standard_error=0.1, low=1.8, high=2.2, rows=100).value
        2.0
    """

    value: float
    standard_error: float
    low: float
    high: float
    rows: int


def check_alpha(alpha: Any) -> float:
    """Returns the share of intervals that may miss; raises ValueError unless it lies between 0 and 1."""
    return check_number("alpha", alpha, above=0, below=1)


def covariance(
    influence: Float[np.ndarray, "estimates rows"], clusters: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "estimates estimates"]:
    """Returns the covariance of estimates from each row's share in their errors; NaN where there is one cluster only.

    Rows of one cluster are added first, so that what they have in common counts.
    """
    places = np.unique(clusters, return_inverse=True)[1]
    sums = np.stack([np.bincount(places, one) for one in influence])
    count = sums.shape[1]
    return sums @ sums.T * (count / (count - 1) if count > 1 else math.nan)


def mean_estimate(
    values: Float[np.ndarray, " rows"],
    w: Float[np.ndarray, " rows"] | None,
    clusters: Int[np.ndarray, " rows"],
    alpha: float,
) -> AverageEffect:
    """Returns the weighted mean of the rows' scores, its standard error and a normal interval.

    Args:
        values: one score for each row [rows].
        w: how many rows of the population each row stands for [rows]; None for the same.
        clusters: the cluster of each row [rows].
        alpha: the share of intervals that may miss.

    Raises:
        ValueError: weights that are negative or all zero.
    """
    w = row_weights(w, len(values))
    counted = w > 0
    values, w, clusters = values[counted], w[counted], clusters[counted]
    value = float(np.sum(w * values) / np.sum(w))
    influence = w * (values - value) / np.sum(w)
    return estimate_of(value, math.sqrt(covariance(influence[None], clusters)[0, 0]), len(values), alpha)


def estimate_of(value: float, error: float, rows: int, alpha: float) -> AverageEffect:
    """Returns an estimate with its normal interval."""
    reach = normal_reach(alpha) * error
    return AverageEffect(value, error, value - reach, value + reach, rows)


def normal_reach(alpha: float) -> float:
    """Returns how many standard errors an interval that misses in that share reaches to either side."""
    return -NormalDist().inv_cdf(alpha / 2)


def two_sided(value: float, error: float) -> float:
    """Returns the p-value of both sides of an estimate against 0; without an error, 1 at 0 and 0 elsewhere."""
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2))


def estimate_line(name: str, wide: int, found: AverageEffect) -> str:
    """Returns an estimate as a line of a table, as `estimate_head` has its columns."""
    between = f"{found.low:.4g} to {found.high:.4g}"
    return f"{name:{wide}}{found.value:>13.4g}{found.standard_error:>13.4g}  {between:>20}{found.rows:>10}"


def estimate_head(wide: int, alpha: float, what: str) -> str:
    """Returns the head of a table of estimates."""
    return f"{'':{wide}}{what:>13}{'std. error':>13}{f'{100 * (1 - alpha):.3g}% interval':>22}{'rows':>10}"
