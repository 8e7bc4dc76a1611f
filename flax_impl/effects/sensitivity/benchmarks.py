"""How strong observed features are as confounders: a measure for the strength that a hidden one may have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import listed
from torch_ref.common.data.treatment_data import TreatmentData

from ..learners.contrast import take_pair
from ..overlap import feature_names
from .columns import check_average
from .nuisances import Fit, OutOfFold, cross_fit_trees

_MOST = 0.99  # of the treatment explained: beyond, no bound says anything


@dataclass(frozen=True)
class Benchmark:
    """What one observed feature explains, or several together; `confounding_benchmarks` makes it.

    Args:
        name: of the feature, or of the group of features.
        eta_y: the share of the outcome that it explains, of what all others leave, from 0 to 1.
        eta_d: the share of the treatment that it explains, of what all others leave, from 0 to 0.99.
        change: by how much the average effect moves where it is left out, in the outcome's unit.

    Example:
        >>> Benchmark(name="age", eta_y=0.04, eta_d=0.01, change=0.3).name
        'age'
    """

    name: str
    eta_y: float
    eta_d: float
    change: float


def confounding_benchmarks(
    data: TreatmentData,
    fit: Fit = cross_fit_trees,
    leave_out: Mapping[str, Sequence[str]] | None = None,
    *,
    control: Any = None,
    treatment: Any = None,
) -> tuple[Benchmark, ...]:
    """Returns how strong observed features are: each is left out, and all is estimated again.

    The shares are those that `hidden_confounding` asks for, had this feature been the hidden one: of what the others
    leave.

    Args:
        data: the table; of several arms the rows of two are taken.
        fit: what gives the expected outcomes and propensities of a table of two arms.
        leave_out: the features of each benchmark, by its name; None for each feature by itself.
        control: label of the arm to compare with; None is the first of `data.arms`.
        treatment: label of the other arm; None is the second of two, and is refused where there are more.

    Returns:
        A benchmark for each, the strongest first.

    Raises:
        ValueError: a feature that the table lacks, a benchmark without features or with all of them, a label that no
            arm has, or what `fit` refuses.

    Example:
        >>> from flax_impl.data import synthetic
        >>> found = confounding_benchmarks(synthetic(rows=400, features=4), leave_out={"x1": ["x1"], "x2": ["x2"]})
        >>> [one.name for one in found]
        ['x1', 'x2']

    Source: Chernozhukov, Cinelli, Newey, Sharma, Syrgkanis, "Long story short", 2022, whose benchmarks are
    shares of what the feature itself leaves, too.
    """
    data = take_pair(data, control, treatment)
    names = feature_names(data)
    groups = {name: [name] for name in names} if leave_out is None else leave_out
    for name, features in groups.items():
        unknown = [feature for feature in features if feature not in names]
        if unknown or not 0 < len(set(features)) < len(names):
            expected = f"some, but not all, of the features {listed(names)}"
            raise ValueError(f"leave_out: expected {expected}, got {listed(features)} for {name}")
    squares, precision, value = _measures(fit(data))
    found = []
    for name, features in groups.items():
        kept = [place for place, feature in enumerate(names) if feature not in features]
        less_squares, less_precision, less_value = _measures(fit(_with_features(data, kept)))
        eta_y = max(0.0, 1 - squares / less_squares) if less_squares else 0.0
        eta_d = min(max(0.0, 1 - less_precision / precision), _MOST)
        found.append(Benchmark(name, eta_y, eta_d, less_value - value))
    return tuple(sorted(found, key=lambda one: one.eta_y * one.eta_d / (1 - one.eta_d), reverse=True))


def _measures(found: OutOfFold) -> tuple[float, float, float]:
    """Returns the mean squared residual, the mean precision of the treatment, and the average effect."""
    rows = check_average(**found.arrays())
    residual = rows.y - np.where(rows.t == 1, rows.mu1, rows.mu0)
    precision = 1 / rows.score + 1 / (1 - rows.score)
    weight = np.where(rows.t == 1, 1 / rows.score, -1 / (1 - rows.score))
    value = rows.mean(rows.mu1 - rows.mu0 + weight * residual)
    return rows.mean(residual**2), rows.mean(precision), value


def _with_features(data: TreatmentData, kept: Sequence[int]) -> TreatmentData:
    """Returns the table with these columns only."""
    names = tuple(data.feature_names[place] for place in kept) if data.feature_names else ()
    columns = None if data.columns is None else tuple(data.columns[place] for place in kept)
    return replace(data, x=data.x[:, list(kept)], feature_names=names, columns=columns)
