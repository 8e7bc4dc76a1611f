"""The columns that bounds of an average effect are made of, and how sure their means are."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_shape

from ..judging.columns import check_columns, check_comparable, cluster_places, row_weights
from ..judging.estimates import covariance
from ..judging.scores import inner_scores


@dataclass(frozen=True)
class AverageBounds:
    """Between what an average lies, in the outcome's unit; without a hidden confounder, both ends are the estimate.

    Args:
        low: lower end of the estimate.
        high: upper end of the estimate.
        interval_low: lower end of the interval.
        interval_high: upper end of the interval.

    Example:
        >>> print(AverageBounds(low=1.0, high=3.0, interval_low=0.5, interval_high=3.5))
        1 to 3 (interval 0.5 to 3.5)
    """

    low: float
    high: float
    interval_low: float
    interval_high: float

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g} (interval {self.interval_low:.4g} to {self.interval_high:.4g})"


class AverageColumns(NamedTuple):
    """What an average effect is made of, checked, in float64; rows without a weight are left out.

    Attributes:
        t: the treatment.
        y: the outcome.
        mu0: the outcome that was expected without treatment.
        mu1: the outcome that was expected with treatment.
        score: the probability of treatment, above 0 and below 1.
        w: the weights, whose mean is 1.
        clusters: the number of each row's cluster.
    """

    t: Float[np.ndarray, " rows"]
    y: Float[np.ndarray, " rows"]
    mu0: Float[np.ndarray, " rows"]
    mu1: Float[np.ndarray, " rows"]
    score: Float[np.ndarray, " rows"]
    w: Float[np.ndarray, " rows"]
    clusters: Int[np.ndarray, " rows"]

    def swapped(self) -> "AverageColumns":
        """Returns the same rows with the names of the arms exchanged."""
        return self._replace(t=1 - self.t, mu0=self.mu1, mu1=self.mu0, score=1 - self.score)

    def mean(self, values: Float[np.ndarray, " rows"]) -> float:
        """Returns the weighted mean of the rows' values."""
        return float(np.mean(self.w * values))

    def covariance(self, *influences: Float[np.ndarray, " rows"]) -> Float[np.ndarray, "means means"]:
        """Returns the covariance of several means, each given by its rows' influences, whose mean is 0."""
        return covariance(np.stack(influences) * self.w / len(self.w), self.clusters)


def check_average(
    t: Any,
    y: Any,
    mu0: Any,
    mu1: Any,
    score: Any,
    w: Any,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None,
    score0: Any = None,
) -> AverageColumns:
    """Returns the columns of `average_effects`, checked as it checks them.

    With `score0`, the probability of no treatment where there are more arms, rows of these (`t` is -1) are left out.
    Then `score` becomes the probability of treatment among the two.

    Raises:
        ValueError: as `average_effects`.

    Warns:
        UserWarning: as `average_effects`.
    """
    t, y, mu0, mu1, score = check_columns(t=t, y=y, mu0=mu0, mu1=mu1, score=score, third=score0 is not None)
    clusters = cluster_places(groups, len(t))
    if score0 is not None:
        own, either = t >= 0, score + check_columns(t=t, score0=score0, third=True)[1]
        score = np.divide(score, either, out=np.zeros(len(t)), where=either > 0)
        if w is not None:
            check_shape("w", np.asarray(w), (len(t),))
            w = np.asarray(w)[own]
        t, y, mu0, mu1, score, clusters = (column[own] for column in (t, y, mu0, mu1, score, clusters))
    w, (score, _) = row_weights(w, len(t)), inner_scores(score, None)
    kept = w > 0
    t, y, mu0, mu1, score, w, clusters = (column[kept] for column in (t, y, mu0, mu1, score, w, clusters))
    check_comparable(t, w, clusters)
    return AverageColumns(t, y, mu0, mu1, score, w / w.mean(), clusters)
