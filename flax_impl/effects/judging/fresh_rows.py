"""Scores estimated effects on rows of their own, with outcomes and propensities estimated on those rows."""

from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from ..learners.cross_fit import CrossFit
from ..overlap import FEW_ROWS
from ..propensities import cross_fitted_propensity
from ..rows import draw_folds


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
    least = int(np.bincount(data.t, minlength=len(data.arms)).min())
    if least < FEW_ROWS:
        raise ValueError(f"t: expected at least {FEW_ROWS} rows of each arm to score effects on, got {least}")
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    x, y = finite_features(data), data.y[:, 0]
    score = cross_fitted_propensity(x, data.t, folds)
    mu = cross_fitted_outcomes(x, data, folds, max_iter=100, min_samples_leaf=10, random_state=seed)
    rows, weights = np.arange(len(data)), {"model": np.ones(len(others))}
    found = CrossFit(rows, data.t, y, data.w, data.groups, data.arms, mu, score, {"model": effects}, weights)
    each = [found.contrast(first, label).losses()["model"] for label in others]
    return -float(np.mean(each, axis=0)[("r_loss", "dr_loss").index(loss)])


def cross_fitted_outcomes(
    x: Float[np.ndarray, "rows features"], data: TreatmentData, folds: list[Bool[np.ndarray, " rows"]], **settings: Any
) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's expected outcome under each arm, by boosted trees of that arm's rows that did not see it.

    Args:
        x: the features, all finite.
        data: treatment, outcome and weights of the rows.
        folds: for each, the rows that are left out; every row is in one.
        settings: of scikit-learn's `HistGradientBoostingRegressor`.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise ImportError("trees need scikit-learn: pip install 'twohead[estimator]'") from error
    mu = np.zeros((len(data.arms), len(data)))
    for unseen, arm in product(folds, range(len(mu))):
        rows = ~unseen & (data.t == arm)
        trees = HistGradientBoostingRegressor(**settings)
        trees.fit(x[rows], data.y[rows, 0], sample_weight=None if data.w is None else data.w[rows])
        mu[arm, unseen] = trees.predict(x[unseen])
    return mu
