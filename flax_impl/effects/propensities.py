"""Each row's probability of treatment, or of each of several arms: by logistic regression, or by several models."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_shape, listed
from torch_ref.common.checks.arrays import check_arms, check_data
from torch_ref.common.data.treatment_data import Scales, TreatmentData, sigmoid

_TREES: dict[str, Any] = {
    "max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 8, "early_stopping": False, "random_state": 0,
}  # fmt: skip
_PRODUCTS = 20_000_000  # numbers that squares and products of features may be
_ROUNDS = 200  # until the weights of propensities stand still
_MOST = 20_000  # rows that a propensity is fitted on: more change no digit that a warning or a picture shows
NEAREST = 0.01  # to 0 or 1 that an unseen row's propensity comes: below, it would stand for more than a hundred rows


def propensity(x: Float[np.ndarray, "rows features"], t: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Returns each row's probability of treatment, estimated by a logistic regression on standardised features.

    Args:
        x: the features [rows, features].
        t: the treatment [rows], 0 or 1, both of which occur.

    Returns:
        One probability for each row [rows], in float64.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: there are no rows, one arm only, a treatment that is not 0 or 1, or features that are no finite
            numbers.

    Example:
        >>> score = propensity(np.array([[0.0], [1.0], [2.0], [3.0]]), t=np.array([0, 1, 0, 1]))
        >>> score.shape, bool(score[0] < score[3])
        ((4,), True)

    Source: Rosenbaum, Rubin, "The central role of the propensity score", 1983.
    """
    return arm_propensities(x, t)[1]


def arm_propensities(
    x: Float[np.ndarray, "rows features"], t: Int[np.ndarray, " rows"], arms: int = 2
) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's probability of each arm, as `propensity` does for two.

    Args:
        x: the features [rows, features].
        t: the treatment [rows], from 0 to `arms - 1`, all of which occur.
        arms: how many there are.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: as `propensity`.
    """
    [x] = check_data({"x": x}, ("x",)).values()
    check_shape("t", t, (len(x),))
    check_arms("t", t, arms)
    if len(np.unique(t)) < arms:
        raise ValueError(
            f"t: expected rows of {'both' if arms == 2 else 'all'} arms, got {listed(np.unique(t))} in all"
        )
    rows = np.arange(len(x))
    if len(x) > _MOST:
        rows = np.random.default_rng(0).choice(len(x), _MOST, replace=False)
        rows = np.union1d(rows, [np.argmax(t == arm) for arm in range(arms)])  # an arm may be rare
    scales = Scales.of(TreatmentData(x, t, np.zeros((len(x), 1))))
    return _regression(scales, x[rows], t[rows]).predict_proba(scales.features(x)).T


def cross_fitted_propensity(
    x: Float[np.ndarray, "rows features"], t: Int[np.ndarray, " rows"], folds: list[Bool[np.ndarray, " rows"]]
) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's probability of each arm by logistic regressions that did not see it.

    Args:
        x: the features, in any unit.
        t: the treatment, from 0 on; all arms have rows outside each fold.
        folds: for each, the rows that are left out; every row is in one.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
    """
    score = np.zeros((int(t.max()) + 1, len(t)))
    for unseen in folds:
        score[:, unseen] = logistic_scores(*logistic_weights(x[~unseen], t[~unseen]), x[unseen])
    return score


def blended_propensity(
    x: Float[np.ndarray, "rows features"], t: Int[np.ndarray, " rows"], folds: list[Bool[np.ndarray, " rows"]]
) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's probability of each arm by several models that did not see it, weighed by how well they do.

    A line through the features misses treatments that go by a product or a curve of them, and an average effect that
    divides by such a propensity is off by more than its interval says. So the same with squares and products, and
    boosted trees, stand beside it. The weights are those under which the arms of unseen rows are the most likely.

    Args:
        x: the features, in any unit.
        t: the treatment, from 0 on; all arms have rows outside each fold.
        folds: for each, the rows that are left out; every row is in one.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.

    Source: van der Laan, Polley, Hubbard, "Super learner", 2007.
    """
    each = [cross_fitted_propensity(x, t, folds), *(_unseen(model, x, t, folds) for model in _bent_models(x))]
    likely = np.stack([score[t, np.arange(len(t))] for score in each])
    weights = np.full(len(each), 1 / len(each))
    for _ in range(_ROUNDS):  # of expectation and maximisation, which never gets worse
        weights = weights * np.mean(likely / (weights @ likely), axis=1)
    return np.tensordot(weights, np.stack(each), axes=1)


def _bent_models(x: np.ndarray) -> list[Any]:
    """Returns scikit-learn's models of what a line cannot follow, untrained."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    trees = HistGradientBoostingClassifier(**_TREES)
    rows, features = x.shape
    if rows * features**2 > _PRODUCTS:
        return [trees]
    products = PolynomialFeatures(2, include_bias=False)
    line = LogisticRegression(C=0.1, max_iter=1000)
    return [trees, make_pipeline(StandardScaler(), products, StandardScaler(), line)]


def _unseen(model: Any, x: np.ndarray, t: np.ndarray, folds: list[np.ndarray]) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's probability of each arm by a model that did not see it."""
    from threadpoolctl import threadpool_limits

    score = np.zeros((int(t.max()) + 1, len(t)))
    with threadpool_limits(1, "openmp"):  # threads wait for each other, on a busy machine for a minute
        for unseen in folds:
            score[:, unseen] = model.fit(x[~unseen], t[~unseen]).predict_proba(x[unseen]).T
    return np.clip(score, NEAREST, 1 - NEAREST)


def logistic_weights(
    x: np.ndarray, t: np.ndarray
) -> tuple[Float[np.ndarray, " logits"], Float[np.ndarray, "logits features"]]:
    """Returns the intercepts and the weights of a logistic regression of the arm, for features as they are.

    Two arms have a single logit, that of the second; several have one each.
    """
    scales = Scales.of(TreatmentData(x, t, np.zeros((len(t), 1))))
    model = _regression(scales, x, t)
    weights = model.coef_ / scales.x_std
    return model.intercept_ - weights @ scales.x_mean, weights


def logistic_scores(intercepts: np.ndarray, weights: np.ndarray, x: np.ndarray) -> Float[np.ndarray, "arms rows"]:
    """Returns the probabilities of each arm by `logistic_weights`, at least 0.01 and at most 0.99."""
    logits = intercepts[:, None] + weights @ x.T
    if len(logits) == 1:
        score = np.clip(sigmoid(logits[0]), NEAREST, 1 - NEAREST)
        return np.stack([1 - score, score])
    shares = np.exp(logits - logits.max(axis=0))
    return np.clip(shares / shares.sum(axis=0), NEAREST, 1 - NEAREST)


def _regression(scales: Scales, x: np.ndarray, t: np.ndarray) -> Any:
    """Returns scikit-learn's logistic regression of the treatment on standardised features."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("propensities need scikit-learn: pip install 'twohead[estimator]'") from error
    return LogisticRegression(max_iter=1000).fit(scales.features(x), t)
