"""Checks whether a table can show effects: enough rows in each arm, and arms that overlap."""

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import listed
from torch_ref.common.data.treatment_data import TreatmentData

FEW_ROWS = 20  # in an arm: below it a head learns little but the mean
POOR, SHARE = 0.02, 0.1  # a warning where more than this share of rows has a propensity this near 0 or 1


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
    low, high = data.x.min(axis=0), data.x.max(axis=0)  # NaN where there are gaps, which tell something themselves
    nothing = (low == high) | np.isnan(data.x).all(axis=0)
    constant = [name for name, is_constant in zip(names, nothing, strict=True) if is_constant]
    if constant:
        found.append(f"constant columns tell nothing: {listed(constant)}")
    levels = [None if data.columns is None else data.columns[i].levels for i in range(len(names))]
    determined = [
        name
        for name, column, of_column in zip(names, data.x.T, levels, strict=True)
        if (_determines(column, data.t) if of_column is None else _is_pure(column, data.t))
    ]
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
    of_columns = tuple(column.name for column in data.columns or ())
    return data.feature_names or of_columns or tuple(f"x{i + 1}" for i in range(data.x.shape[1]))


def _determines(column: np.ndarray, t: np.ndarray) -> bool:
    """Returns whether the feature's values in one arm all lie on one side of those in the other."""
    gaps = np.isnan(column)
    if gaps.any():  # a gap is a side of its own
        of_gaps = np.unique(t[gaps])
        return len(of_gaps) == 1 and (_is_pure(gaps, t) or _determines(column[~gaps], t[~gaps]))
    untreated, treated = column[t == 0], column[t == 1]
    if not len(untreated) or not len(treated):
        return False
    return bool(untreated.max() < treated.min() or treated.max() < untreated.min())


def _is_pure(column: np.ndarray, t: np.ndarray) -> bool:
    """Returns whether all rows with one value, or without any, are in one arm, and there are several arms."""
    _, level = np.unique(column, return_inverse=True)
    pairs = np.unique(np.stack([level, t]), axis=1)
    return len(np.unique(t)) > 1 and pairs.shape[1] == len(np.unique(level))
