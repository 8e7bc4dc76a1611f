"""Scores of estimated effects where no row's effect is known: losses whose least value the true effects have."""

import warnings

import numpy as np
from jaxtyping import Float, Int

from .columns import check_columns, check_inside, row_weights

_LEAST = 1e-6  # a propensity: below it one row would stand for more than a million


def pseudo_outcomes(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
) -> Float[np.ndarray, " rows"]:
    """Returns each row's doubly robust pseudo-outcome, whose mean among like rows is their effect.

    It is mu1 - mu0, corrected by the error of the row's own arm over the probability of that arm. The mean is right
    where either the expected outcomes or the propensities are. Both should come from nets that did not see the row.

    Args:
        t: the treatment [rows], 0 or 1.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows].
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows], above 0 and below 1.

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
    t, y, mu0, mu1, score = check_columns(t=t, y=y, mu0=mu0, mu1=mu1, score=score)
    score = inner_score(score)
    return mu1 - mu0 + np.where(t == 1, (y - mu1) / score, (mu0 - y) / (1 - score))


def inner_score(score: np.ndarray) -> np.ndarray:
    """Returns propensities kept away from 0 and 1; warns where that moves one, and raises ValueError at 0 and 1."""
    check_inside(score)
    near = int(((score < _LEAST) | (score > 1 - _LEAST)).sum())
    if near:
        warnings.warn(
            f"score: {near} of {len(score)} propensities are nearer than {_LEAST:g} to 0 or 1 and are taken as that "
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
    [effect, _] = check_columns(effect=effect, t=t)
    return float(np.mean(row_weights(w, len(effect)) * (pseudo_outcomes(t, y, mu0, mu1, score) - effect) ** 2))
