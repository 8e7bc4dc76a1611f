"""Scores estimated effects on rows of their own, with outcomes and propensities estimated on those rows."""

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from ..learners.cross_fit import CrossFit
from ..propensities import cross_fitted_propensity
from ..rows import draw_folds

_FEWEST = 20  # rows in an arm: fewer say nothing about the outcomes


def score_effects(effects: Float[np.ndarray, "others rows"], data: TreatmentData, loss: str, seed: int = 0) -> float:
    """Returns the negative R-loss or DR-loss of effects on rows that their model did not see; more is better.

    What the losses compare with is the same for all models: boosted trees of scikit-learn and a logistic propensity,
    cross-fitted on these rows.

    Args:
        effects: the estimated effects of each arm against the first [arms - 1, rows].
        data: the rows.
        loss: `"r_loss"` or `"dr_loss"`.
        seed: of folds and trees.

    Returns:
        A number of at most 0, in the outcome's unit squared: the mean over the arms.

    Raises:
        ValueError: less than 20 rows in an arm, or another loss.
        ImportError: scikit-learn is not installed; the message names the extra.

    Source: Schuler, Baiocchi, Tibshirani, Shah, "A comparison of methods for model selection when estimating individual
    treatment effects", 2018.
    """
    check_choice("loss", loss, ("r_loss", "dr_loss"))
    first, *others = data.arms
    arms = range(len(data.arms))
    least = int(np.bincount(data.t, minlength=len(arms)).min())
    if least < _FEWEST:
        raise ValueError(f"t: expected at least {_FEWEST} rows of each arm to score effects on, got {least}")
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise ImportError("scores need scikit-learn: pip install 'twohead[estimator]'") from error
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    x, y = finite_features(data), data.y[:, 0]
    score, mu = cross_fitted_propensity(x, data.t, folds), np.zeros((len(arms), len(data)))
    for unseen in folds:
        for arm in arms:
            rows = ~unseen & (data.t == arm)
            trees = HistGradientBoostingRegressor(max_iter=100, min_samples_leaf=10, random_state=seed)
            trees.fit(x[rows], y[rows], sample_weight=None if data.w is None else data.w[rows])
            mu[arm, unseen] = trees.predict(x[unseen])
    rows, weights = np.arange(len(data)), {"model": np.ones(len(others))}
    found = CrossFit(rows, data.t, y, data.w, data.groups, data.arms, mu, score, {"model": effects}, weights)
    each = [found.contrast(first, label).losses()["model"] for label in others]
    return -float(np.mean(each, axis=0)[("r_loss", "dr_loss").index(loss)])
