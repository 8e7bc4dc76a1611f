"""Checks whether a table can show effects: enough rows in each arm, and arms that overlap."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import listed
from torch_ref.common.data.treatment_data import TreatmentData

from .judging.estimates import mean_estimate
from .judging.suspects import examine_identifiers, examine_numbers

FEW_ROWS = 20  # in an arm: below it a head learns little but the mean
POOR, SHARE = 0.02, 0.1  # a warning where more than this share of rows has a propensity this near 0 or 1
_FAR = 10  # standard deviations, beyond which no more than a hundredth of the training's own rows can lie (Chebyshev)
_OFF, _SURE = 0.1, 2.5  # a warning where weights are off by more than this share, and than so many standard errors


def examine(data: TreatmentData) -> list[str]:
    """Returns a sentence for each thing that makes the effects of a table doubtful.

    Looks for arms with few rows, a constant outcome, constant columns, features that determine the treatment, numbers
    that look like marks for gaps, and whole numbers that look like identifiers.
    """
    found = []
    if len(data) and np.ptp(data.y) == 0:
        found.append(f"the outcome is {data.y[0, 0]:.4g} in all rows: no effect can show")
    for arm, name in enumerate(arm_names(data.arms)):
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
    numbers = [(name, column) for name, column, of in zip(names, data.x.T, levels, strict=True) if of is None]
    others = [("the outcome", np.asarray(data.y, float)[:, 0])]
    if all(isinstance(label, int | float | np.number) for label in data.arms):
        others.append(("the treatment", np.asarray(data.arms, float)[data.t]))
    found += examine_numbers([*numbers, *others])
    return found + examine_identifiers(numbers)


def examine_overlap(score: Float[np.ndarray, "arms rows"]) -> list[str]:
    """Returns a sentence where the arms overlap poorly: many rows that are almost surely not in one of them.

    Args:
        score: each row's probability of each arm.
    """
    outside = poor_overlap(score)
    if outside.mean() <= SHARE:
        return []
    limits = f"below {POOR} or above {1 - POOR}" if len(score) == 2 else f"of some arm below {POOR}"
    return [
        f"poor overlap: {outside.sum()} of {len(outside)} rows have a propensity {limits}; "
        "their effects are extrapolated, or a feature tells what came after the treatment"
    ]


def examine_weights(
    score: Float[np.ndarray, "arms rows"],
    t: Int[np.ndarray, " rows"],
    names: Sequence[str],
    w: Float[np.ndarray, " rows"] | None = None,
    clusters: Int[np.ndarray, " rows"] | None = None,
) -> list[str]:
    """Returns a sentence for each arm whose rows, weighed by one over their propensities, do not stand for all rows.

    They do where propensities are right. Where models cannot draw their shape, or have many features and few rows,
    averages that divide by them are further off than their intervals say.

    Args:
        score: each row's probability of each of these arms, by models that did not see it.
        t: the arm of each row, from 0 on; others have another number.
        names: of the arms.
        w: how many rows of the population each row stands for; None for the same.
        clusters: the number of each row's cluster; None gives each its own.
    """
    found = []
    for arm, name in enumerate(names):
        stands_for = mean_estimate(
            (t == arm) / score[arm], w, np.arange(len(t)) if clusters is None else clusters, 0.05
        )
        off = stands_for.value - 1
        if abs(off) > max(_OFF, _SURE * stands_for.standard_error):
            found.append(
                f"propensities that do not fit: weighed by them, rows that are {name} stand for {1 + off:.0%} of all "
                "rows, not 100%; average effects may be further off than their intervals say: "
                "fewer features may help where they are many, and trimming where overlap is poor"
            )
    return found


def examine_distance(
    x: Float[np.ndarray, "rows numbers"],
    mean: Float[np.ndarray, " numbers"],
    std: Float[np.ndarray, " numbers"],
    names: Sequence[str],
) -> list[str]:
    """Returns a sentence where new rows are far from those of training, as they are in another unit.

    Args:
        x: the features that are numbers; NaN for a gap.
        mean: of each in training.
        std: of each in training.
        names: of these features.
    """
    often = (np.abs(x - mean) > _FAR * std).mean(axis=0) > 1 / _FAR**2
    far = [name for name, is_far in zip(names, often, strict=True) if is_far]
    if not far:
        return []
    return [
        f"far from training, by more than {_FAR} standard deviations: {listed(far)}; "
        "effects there are guesses, and the unit may be another"
    ]


def poor_overlap(score: Float[np.ndarray, "arms rows"]) -> Bool[np.ndarray, " rows"]:
    """Returns which rows are almost surely not in one of the arms."""
    return np.any(score < POOR, axis=0)


def arm_names(arms: Sequence[Any]) -> tuple[str, ...]:
    """Returns what reports call the arms: untreated and treated where their labels are 0 and 1."""
    return ("untreated", "treated") if tuple(arms) == (0, 1) else tuple(map(str, arms))


def feature_names(data: TreatmentData) -> tuple[str, ...]:
    """Returns the names of the features, x1, x2, … where they have none."""
    of_columns = tuple(column.name for column in data.columns or ())
    return data.feature_names or of_columns or tuple(f"x{i + 1}" for i in range(data.x.shape[1]))


def _determines(column: np.ndarray, t: np.ndarray) -> bool:
    """Returns whether the feature's values in each arm all lie on one side of those in every other."""
    gaps = np.isnan(column)
    if gaps.any():  # a gap is a side of its own
        of_gaps = np.unique(t[gaps])
        return len(of_gaps) == 1 and (_is_pure(gaps, t) or _determines(column[~gaps], t[~gaps]))
    of_arms = [column[t == arm] for arm in np.unique(t)]
    if len(of_arms) < 2:
        return False
    return all(one.max() < two.min() or two.max() < one.min() for one, two in combinations(of_arms, 2))


def _is_pure(column: np.ndarray, t: np.ndarray) -> bool:
    """Returns whether all rows with one value, or without any, are in one arm, and there are several arms."""
    _, level = np.unique(column, return_inverse=True)
    pairs = np.unique(np.stack([level, t]), axis=1)
    return len(np.unique(t)) > 1 and pairs.shape[1] == len(np.unique(level))
