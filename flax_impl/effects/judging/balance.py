"""Whether the arms are alike: how far their mean features lie apart, as they are and weighed by propensity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_arms, check_finite

from .columns import check_of_arms, row_weights

UNLIKE = 0.1  # a standardised difference that is commonly called an imbalance
_LEAST = 0.01  # a propensity: no row stands for more than a hundred


@dataclass(frozen=True)
class Balance:
    """How far two arms' mean features lie apart, in standard deviations; `covariate_balance` makes it.

    Args:
        names: of the features.
        before: the difference of the means as they are [features].
        after: that of means weighed by one over each row's probability of its own arm [features].

    Example:
        >>> Balance(("age",), before=np.array([0.5]), after=np.array([0.02])).unlike
        ()
    """

    names: tuple[str, ...]
    before: Float[np.ndarray, " features"]
    after: Float[np.ndarray, " features"]

    @property
    def unlike(self) -> tuple[str, ...]:
        """The features whose weighed means still lie more than 0.1 standard deviations apart, the farthest first."""
        order = np.argsort(-np.abs(self.after), kind="stable")
        return tuple(self.names[i] for i in order if abs(self.after[i]) > UNLIKE)


def covariate_balance(
    x: Float[np.ndarray, "rows features"],
    t: Int[np.ndarray, " rows"],
    score: Float[np.ndarray, "arms rows"],
    names: Sequence[str],
    pair: tuple[int, int] = (0, 1),
    w: Float[np.ndarray, " rows"] | None = None,
) -> Balance:
    """Returns how far the mean features of two arms lie apart, as they are and weighed by propensity.

    A difference is in units of the standard deviation, the root of the mean of both arms' variances. A feature that is
    constant in both arms has the difference 0.

    Args:
        x: the features [rows, features].
        t: the arm of each row [rows], from 0 on.
        score: each row's probability of each arm [arms, rows].
        names: of the features.
        pair: the two arms, the one to compare with first.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.

    Returns:
        The differences of the second arm from the first, for each feature.

    Raises:
        ValueError: other shapes, numbers that are not finite, an arm that is not there, one of the two without rows or
            with weights that are all 0, or weights that are negative.

    Example:
        >>> x, t = np.array([[0.0], [2.0], [1.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> found = covariate_balance(x, t, np.full((2, 4), 0.5), ["age"])
        >>> found.before.tolist(), found.after.tolist()
        ([1.0], [1.0])

    Source: Austin, "Balance diagnostics for comparing the distribution of baseline covariates between treatment groups
    in propensity-score matched samples", 2009.
    """
    check_shape("x", x, ("rows", len(names)))
    check_finite("x", x)
    score = check_of_arms("score", score, len(x))
    check_shape("t", t, (len(x),))
    check_arms("t", t, len(score))
    w = row_weights(w, len(x))
    means, weighed, variances, varies = [], [], [], np.full(len(names), False)
    for arm in pair:
        rows = (t == arm) & (w > 0)
        if not rows.any():
            raise ValueError(f"t: expected rows of arm {arm}, got none")
        of_arm, shares = x[rows], w[rows]
        means.append(np.average(of_arm, axis=0, weights=shares))
        weighed.append(np.average(of_arm, axis=0, weights=shares / np.maximum(score[arm][rows], _LEAST)))
        varies |= np.ptp(of_arm, axis=0) > 0  # a variance of rounding alone is none
        variances.append(np.average((of_arm - means[-1]) ** 2, axis=0, weights=shares))
    unit = np.sqrt(np.mean(variances, axis=0))
    before, after = (
        np.divide(second - first, unit, out=np.zeros(len(names)), where=varies & (unit > 0))
        for first, second in (means, weighed)
    )
    return Balance(tuple(names), before, after)
