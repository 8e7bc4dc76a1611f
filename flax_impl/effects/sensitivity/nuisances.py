"""What is expected of rows by models that did not see them, from cheap learners or from the nets."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_integer
from torch_ref.common.checks.arrays import check_binary
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from ..averages import average_effects
from ..judging.fresh_rows import cross_fitted_outcomes
from ..learners.contrast import take_pair
from ..overlap import FEW_ROWS
from ..propensities import cross_fitted_propensity
from ..rows import draw_folds
from ..settings import EffectSettings


@dataclass(frozen=True)
class OutOfFold:
    """What models that did not see a row expect of it: the arguments of `average_effects`, by their names.

    Args:
        t: the treatment [rows], 0 or 1.
        y: the outcome [rows].
        mu0: the outcome that is expected without treatment [rows].
        mu1: the outcome that is expected with treatment [rows].
        score: the probability of treatment [rows].
        w: the weights [rows], or None.
        groups: the cluster of each row [rows], or None.

    Example:
        >>> from flax_impl.effects import average_effects
        >>> t, y, half = np.array([0, 1, 0, 1]), np.array([1.0, 3.0, 1.0, 5.0]), np.full(4, 0.5)
        >>> average_effects(**OutOfFold(t, y, np.full(4, 1.0), np.full(4, 4.0), half).arrays()).ate.value
        3.0
    """

    t: Int[np.ndarray, " rows"]
    y: Float[np.ndarray, " rows"]
    mu0: Float[np.ndarray, " rows"]
    mu1: Float[np.ndarray, " rows"]
    score: Float[np.ndarray, " rows"]
    w: Float[np.ndarray, " rows"] | None = None
    groups: Shaped[np.ndarray, " rows"] | None = None

    def arrays(self) -> dict[str, Any]:
        """Returns the columns by their names, as `average_effects` and the bounds take them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


Fit = Callable[[TreatmentData], OutOfFold]
Estimate = Callable[[TreatmentData], tuple[float, float]]


def cross_fit_trees(data: TreatmentData, seed: int = 0, *, control: Any = None, treatment: Any = None) -> OutOfFold:
    """Returns what boosted trees and a logistic propensity, cross-fitted in five folds, expect of each row.

    They are small, so that refutations and benchmarks can ask them again and again.

    Args:
        data: the table; categories and gaps are taken, of several arms the rows of two.
        seed: of folds and trees.
        control: label of the arm to compare with; None is the first of `data.arms`.
        treatment: label of the other arm; None is the second of two, and is refused where there are more.

    Returns:
        The expected outcomes and propensities of all rows of the two arms, in their order.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: a label that no arm has, less than 20 rows in an arm, or a negative seed.

    Example:
        >>> from flax_impl.data import synthetic
        >>> found = cross_fit_trees(synthetic(rows=200))
        >>> found.mu0.shape, bool(0.01 <= found.score.min() < found.score.max() <= 0.99)
        ((200,), True)

    Source: Chernozhukov and others, "Double/debiased machine learning", 2018.
    """
    check_integer("seed", seed, at_least=0)
    data = take_pair(data, control, treatment)
    check_two_arms(data.t)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError("trees need scikit-learn: pip install 'twohead[estimator]'") from error
    x = finite_features(data)
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    with threadpool_limits(1, "openmp"):  # on few rows threads wait for each other, on a busy machine for long
        mu0, mu1 = cross_fitted_outcomes(x, data, folds, max_iter=30, learning_rate=0.2, random_state=seed)
    score = cross_fitted_propensity(x, data.t, folds)[1]
    return OutOfFold(data.t, data.y[:, 0], mu0, mu1, score, data.w, data.groups)


def cross_fit_nets(
    data: TreatmentData, settings: EffectSettings | None = None, *, control: Any = None, treatment: Any = None
) -> OutOfFold:
    """Returns what an ensemble of two-head nets expects of the rows that its members did not see.

    Args:
        data: the table; of several arms the nets see the rows of two.
        settings: of the nets; None for five of the default ones, which hold out every row once.
        control: label of the arm to compare with; None is the first of `data.arms`.
        treatment: label of the other arm; None is the second of two, and is refused where there are more.

    Returns:
        The expected outcomes and propensities of the rows that a net did not see.

    Raises:
        ImportError: jax or scikit-learn is not installed; the message names the extra.
        ValueError: as `fit_effects`, or a label that no arm has.

    Example:
        >>> from flax_impl.data import synthetic
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=5, steps=3)
        >>> cross_fit_nets(synthetic(rows=80, features=4), small).mu1.shape
        (80,)
    """
    from ..fit import fit_effects

    data = take_pair(data, control, treatment)
    found = fit_effects(data, settings or EffectSettings(members=5), progress=False).cross_fit(data).contrast()
    return OutOfFold(found.t, found.y, found.mu0, found.mu1, found.score, found.w, found.groups)


def average_by(fit: Fit) -> Estimate:
    """Returns an analysis: a function from a table to its average effect (ATE) and standard error.

    Args:
        fit: what gives expected outcomes and propensities, such as `cross_fit_trees`.

    Returns:
        A function that takes a table, for `refute`.

    Example:
        >>> from flax_impl.data import synthetic
        >>> estimate = average_by(cross_fit_trees)
        >>> value, error = estimate(synthetic(rows=200))
        >>> abs(value - 1) < 4 * error
        True
    """

    def estimate(data: TreatmentData) -> tuple[float, float]:
        found = average_effects(**fit(data).arrays()).ate
        return found.value, found.standard_error

    return estimate


def check_two_arms(t: np.ndarray) -> None:
    """Raises ValueError unless the treatment is 0 or 1 and both arms have rows enough."""
    check_binary("t", np.asarray(t))
    least = min(int((t == arm).sum()) for arm in (0, 1))
    if least < FEW_ROWS:
        raise ValueError(f"t: expected at least {FEW_ROWS} rows of each arm, got {least}")
