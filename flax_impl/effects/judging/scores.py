"""Scores of estimated effects where no row's effect is known: losses whose least value the true effects have."""

import warnings

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape

from .columns import check_arm_numbers, check_columns, check_inside, check_of_arms, row_weights

_LEAST = 1e-6  # a propensity: below it one row would stand for more than a million


def arm_outcomes(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu: Float[np.ndarray, "arms rows"],
    score: Float[np.ndarray, "arms rows"],
) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's doubly robust outcome under each arm, whose mean is what all rows of that arm would have.

    It is the expected outcome mu, corrected in the row's own arm by its error over the probability of that arm. The
    mean is right where either the expected outcomes or the propensities are. Both should come from models that did
    not see the row. A difference of two arms is what `pseudo_outcomes` gives.

    Args:
        t: the arm of each row [rows], from 0 to arms - 1.
        y: the outcome that was observed [rows].
        mu: the outcome that was expected under each arm [arms, rows].
        score: each row's probability of each arm [arms, rows], above 0 and below 1.

    Returns:
        One number for each arm and row [arms, rows], in the outcome's unit.

    Raises:
        ValueError: other shapes, no rows, less than two arms, numbers that are not finite, an arm that is not there, or
            a propensity of 0 or 1.

    Warns:
        UserWarning: propensities nearer than 1e-6 to 0 or 1, which are taken as that near.

    Example:
        >>> t, y = np.array([0, 2]), np.array([2.0, 6.0])
        >>> mu = np.array([[1.0, 1.0], [4.0, 4.0], [5.0, 5.0]])
        >>> arm_outcomes(t, y, mu, score=np.array([[0.5, 0.5], [0.25, 0.25], [0.25, 0.25]])).tolist()
        [[3.0, 1.0], [4.0, 4.0], [5.0, 9.0]]

    Source: Robins, Rotnitzky, Zhao, "Estimation of regression coefficients when some regressors are not always
    observed", 1994.
    """
    [y] = check_columns(y=y)
    mu = check_of_arms("mu", mu, len(y))
    t = check_arm_numbers(t, len(mu))
    check_shape("t", t, (len(y),))
    score = _inner("score", check_of_arms("score", score, len(y), len(mu)))
    found, rows = mu.copy(), np.arange(len(y))
    found[t, rows] += (y - mu[t, rows]) / score[t, rows]
    return found


def pseudo_outcomes(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    score0: Float[np.ndarray, " rows"] | None = None,
) -> Float[np.ndarray, " rows"]:
    """Returns each row's doubly robust pseudo-outcome, whose mean among like rows is their effect.

    It is mu1 - mu0, corrected by the error of the row's own arm over the probability of that arm. The mean is right
    where either the expected outcomes or the propensities are. Both should come from nets that did not see the row.

    Args:
        t: the treatment [rows], 0 or 1; with `score0` also -1, a third arm.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows].
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows], above 0 and below 1.
        score0: each row's probability of no treatment [rows], where there are more arms; None is `1 - score`.

    Returns:
        One number for each row [rows], in the outcome's unit.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, a treatment that is not 0 or 1, or a propensity
            of 0 or 1.

    Warns:
        UserWarning: propensities nearer than 1e-6 to 0 or 1, which are taken as that near.

    Example:
        >>> t, y, score = np.array([0, 1]), np.array([2.0, 6.0]), np.array([0.5, 0.5])
        >>> pseudo_outcomes(t, y, mu0=np.array([1.0, 1.0]), mu1=np.array([4.0, 4.0]), score=score).tolist()
        [1.0, 7.0]

    Source: Kennedy, "Towards optimal doubly robust estimation of heterogeneous causal effects", 2023.
    """
    t, y, mu0, mu1, score = check_columns(t=t, y=y, mu0=mu0, mu1=mu1, score=score, third=score0 is not None)
    score, score0 = inner_scores(score, score0)
    corrected = np.where(t == 1, (y - mu1) / score, np.where(t == 0, (mu0 - y) / score0, 0))
    return mu1 - mu0 + corrected


def inner_scores(score: np.ndarray, score0: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the propensities of treatment and of none, kept away from 0 and 1; `score0` is None for two arms.

    Warns where that moves one, and raises ValueError at 0 and 1.
    """
    score = _inner("score", score)
    if score0 is None:
        return score, 1 - score
    [score0] = check_columns(score0=score0)
    check_shape("score0", score0, (len(score),))
    return score, _inner("score0", score0)


def _inner(name: str, score: np.ndarray) -> np.ndarray:
    """Returns propensities [rows] or [arms, rows] kept away from 0 and 1."""
    check_inside(name, score)
    rows = score.shape[-1]
    near = int(((score < _LEAST) | (score > 1 - _LEAST)).reshape(-1, rows).any(axis=0).sum())
    if near:
        warnings.warn(
            f"{name}: {near} of {rows} propensities are nearer than {_LEAST:g} to 0 or 1 and are taken as that "
            "near; leave such rows out, as trim=0.01 of average_effects does",
            stacklevel=3,
        )
    return np.clip(score, _LEAST, 1 - _LEAST)


def r_loss(
    effect: Float[np.ndarray, " rows"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mean: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    w: Float[np.ndarray, " rows"] | None = None,
) -> float:
    """Returns the R-loss: how badly the effects explain what the treatment's surprise does to the outcome's.

    It is the mean of ((y - mean) - (t - score) * effect) squared. It tells which of several estimates is nearer to the
    truth; its own size says little, as the outcome's noise is in it.

    Args:
        effect: the estimated effects [rows], of rows that the estimate did not see.
        t: the treatment [rows], 0 or 1.
        y: the outcome that was observed [rows].
        mean: the outcome that was expected of the row, whatever its arm [rows].
        score: each row's probability of treatment [rows].
        w: weights of the rows [rows]; None for equal ones.

    Returns:
        A number of at least 0, in the outcome's unit squared; less is better.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, a treatment that is not 0 or 1, a propensity
            outside 0 to 1, or weights that are negative or all zero.

    Example:
        >>> t, y, half = np.array([0, 1]), np.array([1.0, 5.0]), np.array([0.5, 0.5])
        >>> mean = np.array([3.0, 3.0])  # an effect of 4 explains both rows
        >>> r_loss(np.array([4.0, 4.0]), t, y, mean, half), r_loss(np.array([2.0, 2.0]), t, y, mean, half)
        (0.0, 1.0)

    Source: Nie, Wager, "Quasi-oracle estimation of heterogeneous treatment effects", 2021.
    """
    effect, t, y, mean, score = check_columns(effect=effect, t=t, y=y, mean=mean, score=score)
    return float(np.mean(row_weights(w, len(y)) * ((y - mean) - (t - score) * effect) ** 2))


def dr_loss(
    effect: Float[np.ndarray, " rows"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    w: Float[np.ndarray, " rows"] | None = None,
    score0: Float[np.ndarray, " rows"] | None = None,
) -> float:
    """Returns the DR-loss: the mean squared distance of the effects from the doubly robust pseudo-outcomes.

    It tells which of several estimates is nearer to the truth; its own size says little, as the outcome's noise is in
    it.

    Args:
        effect: the estimated effects [rows], of rows that the estimate did not see.
        t: the treatment [rows], 0 or 1.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows].
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows], above 0 and below 1.
        w: weights of the rows [rows]; None for equal ones.
        score0: as for `pseudo_outcomes`.

    Returns:
        A number of at least 0, in the outcome's unit squared; less is better.

    Raises:
        ValueError: as `pseudo_outcomes`, or weights that are negative or all zero.

    Warns:
        UserWarning: as `pseudo_outcomes`.

    Example:
        >>> t, y, half = np.array([0, 1]), np.array([2.0, 6.0]), np.array([0.5, 0.5])
        >>> mu0, mu1 = np.array([1.0, 1.0]), np.array([4.0, 4.0])  # the pseudo-outcomes are 1 and 7
        >>> dr_loss(np.array([1.0, 5.0]), t, y, mu0, mu1, half)
        2.0

    Source: Kennedy, "Towards optimal doubly robust estimation of heterogeneous causal effects", 2023.
    """
    [effect, _] = check_columns(effect=effect, t=t, third=score0 is not None)
    pseudo = pseudo_outcomes(t, y, mu0, mu1, score, score0)
    return float(np.mean(row_weights(w, len(effect)) * (pseudo - effect) ** 2))
