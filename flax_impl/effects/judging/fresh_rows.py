"""Scores estimated effects on rows of their own, with outcomes and propensities estimated on those rows."""

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from ..propensities import cross_fitted_propensity
from ..rows import draw_folds
from .scores import dr_loss, r_loss

_FEWEST = 20  # rows in an arm: fewer say nothing about the outcomes


def score_effects(effect: Float[np.ndarray, " rows"], data: TreatmentData, loss: str, seed: int = 0) -> float:
    """Returns the negative R-loss or DR-loss of effects on rows that their model did not see; more is better.

    What the losses compare with is the same for all models: boosted trees of scikit-learn and a logistic propensity,
    cross-fitted on these rows.

    Args:
        effect: the estimated effects [rows].
        data: the rows.
        loss: `"r_loss"` or `"dr_loss"`.
        seed: of folds and trees.

    Returns:
        A number of at most 0, in the outcome's unit squared.

    Raises:
        ValueError: less than 20 rows in an arm, or another loss.
        ImportError: scikit-learn is not installed; the message names the extra.

    Source: Schuler, Baiocchi, Tibshirani, Shah, "A comparison of methods for model selection when estimating individual
    treatment effects", 2018.
    """
    check_choice("loss", loss, ("r_loss", "dr_loss"))
    least = min(int((data.t == arm).sum()) for arm in (0, 1))
    if least < _FEWEST:
        raise ValueError(f"t: expected at least {_FEWEST} rows of each arm to score effects on, got {least}")
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise ImportError("scores need scikit-learn: pip install 'twohead[estimator]'") from error
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    x, y = finite_features(data), data.y[:, 0]
    score, mu = cross_fitted_propensity(x, data.t, folds), np.zeros((2, len(data)))
    for unseen in folds:
        for arm in (0, 1):
            rows = ~unseen & (data.t == arm)
            trees = HistGradientBoostingRegressor(max_iter=100, min_samples_leaf=10, random_state=seed)
            trees.fit(x[rows], y[rows], sample_weight=None if data.w is None else data.w[rows])
            mu[arm, unseen] = trees.predict(x[unseen])
    if loss == "dr_loss":
        return -dr_loss(effect, data.t, y, mu[0], mu[1], score, data.w)
    return -r_loss(effect, data.t, y, (1 - score) * mu[0] + score * mu[1], score, data.w)
