"""Checks whether a table can show effects: enough rows in each arm, and arms that overlap."""

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape, listed
from torch_ref.common.checks.arrays import check_binary, check_data
from torch_ref.common.data.treatment_data import Scales, TreatmentData

FEW_ROWS = 20  # in an arm: below it a head learns little but the mean
POOR, SHARE = 0.02, 0.1  # a warning where more than this share of rows has a propensity this near 0 or 1
_MOST = 20_000  # rows that a propensity is fitted on: more change no digit that a warning or a picture shows


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
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("propensities need scikit-learn: pip install 'twohead[estimator]'") from error
    [x] = check_data({"x": x}, ("x",)).values()
    check_shape("t", t, (len(x),))
    check_binary("t", t)
    if len(np.unique(t)) < 2:
        raise ValueError(f"t: expected rows of both arms, got {t[0]} in all")
    scaled = Scales.of(TreatmentData(x, t, np.zeros((len(x), 1)))).features(x)
    rows = np.arange(len(x))
    if len(x) > _MOST:
        rows = np.random.default_rng(0).choice(len(x), _MOST, replace=False)
        rows = np.union1d(rows, [np.argmin(t), np.argmax(t)])  # an arm may be rare
    return LogisticRegression(max_iter=1000).fit(scaled[rows], t[rows]).predict_proba(scaled)[:, 1]


def examine(data: TreatmentData) -> list[str]:
    """Returns a sentence for each thing that makes the effects of a table doubtful.

    Looks for arms with few rows, constant columns, and features that determine the treatment.
    """
    found = []
    for arm, name in ((0, "untreated"), (1, "treated")):
        count = int((data.t == arm).sum())
        if count < FEW_ROWS:
            found.append(f"only {count} of {len(data)} rows are {name}: their outcome is little more than a guess")
    names = feature_names(data)
    low, high = data.x.min(axis=0), data.x.max(axis=0)
    constant = [name for name, is_constant in zip(names, low == high, strict=True) if is_constant]
    if constant:
        found.append(f"constant columns tell nothing: {listed(constant)}")
    determined = [name for name, column in zip(names, data.x.T, strict=True) if _determines(column, data.t)]
    if determined:
        found.append(
            f"the treatment is determined by {listed(determined)}: no row says what it would have had in the other arm"
        )
    return found


def examine_overlap(score: Float[np.ndarray, " rows"]) -> list[str]:
    """Returns a sentence where the arms overlap poorly: many rows that are almost surely in one of them.

    Args:
        score: each row's probability of treatment.
    """
    outside = (score < POOR) | (score > 1 - POOR)
    if outside.mean() <= SHARE:
        return []
    return [
        f"poor overlap: {outside.sum()} of {len(score)} rows have a propensity below {POOR} or above {1 - POOR}; "
        "their effects are extrapolated"
    ]


def feature_names(data: TreatmentData) -> tuple[str, ...]:
    """Returns the names of the features, x1, x2, … where they have none."""
    return data.feature_names or tuple(f"x{i + 1}" for i in range(data.x.shape[1]))


def _determines(column: np.ndarray, t: np.ndarray) -> bool:
    """Returns whether the feature's values in one arm all lie on one side of those in the other."""
    untreated, treated = column[t == 0], column[t == 1]
    if not len(untreated) or not len(treated):
        return False
    return bool(untreated.max() < treated.min() or treated.max() < untreated.min())
