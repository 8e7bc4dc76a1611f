"""Tables whose true average effect is known, or does not change: what refutations put an analysis to."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import finite_tables
from torch_ref.common.data.treatment_data import Scales, TreatmentData, sigmoid

from ..judging.columns import code_labels
from ..overlap import feature_names
from ..propensities import cross_fitted_propensity
from ..rows import draw_folds

_RIDGE = 1.0  # rows' worth of a prior that features do nothing, so that many features leave residuals


def placebo_treatment(
    data: TreatmentData, strata: Int[np.ndarray, " rows"], generator: np.random.Generator
) -> TreatmentData:
    """Returns the table with the treatment permuted within strata: an effect of 0.

    Where the treatment was given to whole clusters, clusters change it as a whole, whatever their stratum.

    Args:
        data: the table.
        strata: the stratum of each row, from `propensity_strata`.
        generator: draws the permutations.
    """
    units = np.arange(len(data)) if data.groups is None else code_labels("groups", data.groups, len(data))[1]
    _, first = np.unique(units, return_index=True)
    if (data.t != data.t[first][units]).any():
        units, first = np.arange(len(data)), np.arange(len(data))
    drawn = data.t[first].copy()
    of_units = strata[first] if len(first) == len(data) else np.zeros(len(first), int)
    for stratum in np.unique(of_units):
        rows = np.flatnonzero(of_units == stratum)
        drawn[rows] = drawn[generator.permutation(rows)]
    return replace(data, t=drawn[units], mu0=None, mu1=None)


def propensity_strata(data: TreatmentData, strata: int, seed: int) -> Int[np.ndarray, " rows"]:
    """Returns the stratum of each row, by its estimated propensity; strata that lack an arm join a neighbour.

    Args:
        data: the table.
        strata: how many; 1 is all rows together.
        seed: of the folds of the propensity.

    Source: Rosenbaum, Rubin, "Reducing bias in observational studies using subclassification", 1984.
    """
    if strata == 1:
        return np.zeros(len(data), int)
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    score = cross_fitted_propensity(finite_tables(data)[0].x, data.t, folds)[1]
    ends = np.quantile(score, np.linspace(0, 1, strata + 1)[1:-1])
    found = np.searchsorted(ends, score, side="right")
    for stratum in range(strata):
        rows = found == stratum
        if len(np.unique(data.t[rows])) < 2:
            found[rows] = stratum + 1 if stratum < strata - 1 else found[~rows].max()
    return found


def dummy_outcome(data: TreatmentData, binary: bool, generator: np.random.Generator) -> TreatmentData:
    """Returns the table with an outcome that the features move as they do, linearly, and the treatment does not.

    A linear regression on features and treatment is fitted, a logistic one for an outcome of 0 and 1. Its part by the
    features is kept; the residuals are shuffled, or the outcomes drawn.

    Args:
        data: the table.
        binary: the outcome is 0 or 1, and stays so.
        generator: shuffles and draws.
    """
    x = finite_tables(data)[0].x
    x = Scales.of(TreatmentData(x, data.t, data.y)).features(x)
    columns = np.column_stack([np.ones(len(x)), x, data.t])
    y, without = data.y[:, 0], np.column_stack([columns[:, :-1], np.zeros(len(x))])
    if binary:
        chance = sigmoid(without @ _logistic_weights(columns, y))
        drawn = (generator.random(len(x)) < chance).astype(float)
    else:
        penalty = np.full(columns.shape[1], _RIDGE)
        penalty[[0, -1]] = 0.0
        weights = np.linalg.lstsq(columns.T @ columns + np.diag(penalty), columns.T @ y)[0]
        drawn = without @ weights + generator.permutation(y - columns @ weights)
    return replace(data, y=drawn[:, None], mu0=None, mu1=None)


def random_common_cause(data: TreatmentData, generator: np.random.Generator) -> TreatmentData:
    """Returns the table with one more feature, which is noise; the effect stays.

    Args:
        data: the table.
        generator: draws the noise.
    """
    names = feature_names(data)
    name = next(f"noise{number}" for number in range(1, len(names) + 2) if f"noise{number}" not in names)
    return replace(
        data,
        x=np.column_stack([data.x, generator.standard_normal(len(data))]),
        feature_names=(*data.feature_names, name) if data.feature_names else (),
        columns=None if data.columns is None else (*data.columns, Column(name)),
    )


def subset(data: TreatmentData, share: float, generator: np.random.Generator) -> tuple[TreatmentData, float]:
    """Returns some of the rows of each arm, or of the clusters, and the share of those that were left out.

    Args:
        data: the table.
        share: of the rows of each arm, or of the clusters, that stay.
        generator: draws them.
    """
    if data.groups is None:
        arms = [np.flatnonzero(data.t == arm) for arm in (0, 1)]
        kept = np.concatenate([generator.permutation(arm)[: max(2, round(share * len(arm)))] for arm in arms])
        return data.take(np.sort(kept)), 1 - len(kept) / len(data)
    labels, units = code_labels("groups", data.groups, len(data))
    while True:
        some = generator.permutation(len(labels))[: max(2, round(share * len(labels)))]
        rows = np.flatnonzero(np.isin(units, some))
        if min(int((data.t[rows] == arm).sum()) for arm in (0, 1)) >= min(
            2, *(int((data.t == arm).sum()) for arm in (0, 1))
        ):
            return data.take(rows), 1 - len(some) / len(labels)


def _logistic_weights(columns: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " columns"]:
    """Returns the weights of a logistic regression with a ridge, by Newton's method."""
    penalty = np.full(columns.shape[1], _RIDGE)
    weights = np.zeros(columns.shape[1])
    for _ in range(25):
        chance = sigmoid(columns @ weights)
        gradient = columns.T @ (y - chance) - penalty * weights
        curvature = (columns * (chance * (1 - chance))[:, None]).T @ columns + np.diag(penalty)
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights
