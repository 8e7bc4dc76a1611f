"""Weighs learners by how well they do on rows that they did not see."""

import numpy as np
from jaxtyping import Float, Int

from ..judging.columns import row_weights
from ..judging.scores import pseudo_outcomes


def stack_outcomes(
    expected: Float[np.ndarray, "rows learners"], y: Float[np.ndarray, " rows"], w: Float[np.ndarray, " rows"] | None
) -> Float[np.ndarray, " learners"]:
    """Returns weights of the learners, at least 0 and 1 in all, under which their outcomes come closest to those seen.

    Args:
        expected: what each learner expected of rows that it did not see.
        y: what was observed.
        w: weights of the rows, or None.

    Where there are no rows, or none with a weight, all learners weigh the same.

    Source: Breiman, "Stacked regressions", 1996.
    """
    return _closest(expected, y, _of_rows(w, len(y)))


def stack_effects(
    effects: Float[np.ndarray, "rows learners"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    w: Float[np.ndarray, " rows"] | None,
    score0: Float[np.ndarray, " rows"] | None = None,
) -> Float[np.ndarray, " learners"]:
    """Returns weights of the learners, at least 0 and 1 in all: the mean of those of least DR-loss and of least R-loss.

    The two err in other places: the DR-loss trusts rows of small propensity much, the R-loss little.

    Args:
        effects: what each learner expected of rows that it did not see.
        t: the treatment, 0 or 1; with `score0` also -1, a third arm, which the R-loss does not look at.
        y: what was observed.
        mu0: the outcome that was expected without treatment.
        mu1: the outcome that was expected with treatment.
        score: each row's probability of treatment, above 0 and below 1.
        w: weights of the rows, or None.
        score0: each row's probability of no treatment, where there are more arms; None is `1 - score`.

    Source: Han, Wu, "Ensemble method for estimating individualized treatment effects", 2022; Nie, Wager,
    "Quasi-oracle estimation of heterogeneous treatment effects", 2021.
    """
    of_rows = _of_rows(w, len(y))
    by_dr = _closest(effects, pseudo_outcomes(t, y, mu0, mu1, score, score0), of_rows)
    if score0 is not None:
        own = t >= 0
        score = score / (score + score0)
        effects, t, y, mu0, mu1, score, of_rows = (column[own] for column in (effects, t, y, mu0, mu1, score, of_rows))
    mean = (1 - score) * mu0 + score * mu1
    by_r = _closest((t - score)[:, None] * effects, y - mean, of_rows)
    return (by_dr + by_r) / 2


def _of_rows(w: np.ndarray | None, rows: int) -> np.ndarray:
    return np.zeros(rows) if w is not None and not w.any() else row_weights(w, rows)


def _closest(columns: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Returns the weights of the columns, at least 0 and 1 in all, whose sum is closest to the target."""
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise ImportError("learners need scipy: pip install 'twohead[jax]'") from error
    largest = max(np.abs(columns).max(initial=0), np.abs(target).max(initial=0))
    if not w.any() or largest == 0:  # nothing tells one from the other
        return np.full(columns.shape[1], 1 / columns.shape[1])
    root = np.sqrt(w)
    a, b = root[:, None] * (columns / largest), root * (target / largest)
    # A heavy row that asks for a sum of 1: nnls itself knows no such bound.
    heavy = 1e4 * max(float(np.abs(a).max()), float(np.abs(b).max())) * np.sqrt(len(b))
    found, _ = nnls(np.vstack([a, np.full(a.shape[1], heavy)]), np.append(b, heavy))
    return found / found.sum()
