"""What is expected of each row by models that did not see it: the ground that averages and scores stand on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import shown
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from ..averages import AverageEffects
from ..intervals.held_out import in_held_out
from ..propensities import blended_propensity, cross_fitted_propensity
from ..rows import draw_folds
from .contrast import Contrast, find_pair


@dataclass(frozen=True)
class CrossFit:
    """What models that did not see a row expect of it, in the unit of the outcome; `EffectModel.cross_fit` makes it.

    Args:
        rows: the numbers of the rows that at least one net did not see [held_out].
        t: their treatment [held_out], the place of their arm in `arms`.
        y: their outcome [held_out].
        w: their weights [held_out], or None.
        groups: their clusters [held_out], or None.
        arms: the label of each arm.
        mu: the outcome that is expected in each arm [arms, held_out].
        score: their probability of each arm [arms, held_out], at least 0.01 and at most 0.99.
        effects: the effect of each arm against the first, by each learner [arms - 1, held_out].
        weights: of each learner in the effect of each arm [arms - 1].

    Example:
        >>> from flax_impl.data import synthetic
        >>> from flax_impl.effects import EffectSettings, fit_effects
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=5, steps=3)
        >>> unseen = fit_effects(data, small, progress=False).cross_fit(data)
        >>> len(unseen.rows), unseen.averages().ate.rows  # among five members, each row is held out
        (80, 80)
        >>> list(unseen.contrast().losses())
        ['nets']
    """

    rows: Int[np.ndarray, " held_out"]
    t: Int[np.ndarray, " held_out"]
    y: Float[np.ndarray, " held_out"]
    w: Float[np.ndarray, " held_out"] | None
    groups: Shaped[np.ndarray, " held_out"] | None
    arms: tuple[Any, ...]
    mu: Float[np.ndarray, "arms held_out"]
    score: Float[np.ndarray, "arms held_out"]
    effects: dict[str, Float[np.ndarray, "others held_out"]]
    weights: dict[str, Float[np.ndarray, " others"]]

    def contrast(self, control: Any = None, treatment: Any = None) -> Contrast:
        """Returns two of the arms, side by side.

        Args:
            control: label of the arm to compare with; None is the first.
            treatment: label of the other arm; None is the second of two.

        Raises:
            ValueError: a label that no arm has, the same twice, or None where there are more than two arms.
        """
        first, second = find_pair(self.arms, control, treatment)
        if first == second:
            raise ValueError(f"treatment: expected another arm than {shown(self.arms[first])}, got the same")
        each = {
            name: np.vstack([np.zeros((1, len(self.rows))), of_arms]) for name, of_arms in self.effects.items()
        }  # the first arm gains nothing over itself
        ones = {name: np.append(1.0, of_arms)[:, None] for name, of_arms in self.weights.items()}
        joined = np.sum([ones[name] * of_arms for name, of_arms in each.items()], axis=0)
        t = np.where(self.t == second, 1, np.where(self.t == first, 0, -1))
        weights = {} if first else {name: float(of_arms[second - 1]) for name, of_arms in self.weights.items()}
        return Contrast(
            t, self.y, self.w, self.groups, self.mu[first], self.mu[second], self.score[first], self.score[second],
            joined[second] - joined[first], {name: of_arms[second] - of_arms[first] for name, of_arms in each.items()},
            weights,
        )  # fmt: skip

    def averages(self, *, control: Any = None, treatment: Any = None, **settings: Any) -> AverageEffects:
        """Returns the average effects of an arm against another on these rows, see `average_effects`.

        Args:
            control: as for `contrast`.
            treatment: as for `contrast`.
            settings: `by`, `trim`, `alpha` and `target` of `average_effects`; `by` has an entry for each of `rows`.
        """
        return self.contrast(control, treatment).averages(**settings)


def cross_fit(
    data: TreatmentData,
    outcomes: Float[np.ndarray, "arms members rows"],
    held_out: Int[np.ndarray, "members held_out"] | None,
    seed: int = 0,
) -> CrossFit:
    """Returns what the nets that did not see a row expect of it, and its probability of each arm.

    Args:
        data: the table that the nets were trained on.
        outcomes: what each net expects of each row in each arm, in the unit of the outcome.
        held_out: the rows that each net did not see; None where none was held out, and all nets have seen all rows.
        seed: of the folds of the propensity.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: an arm with a single row, which cannot be in training and out of it.
    """
    x, (rows, mu) = finite_features(data), unseen_mean(held_out, outcomes)
    score = blended_propensity(x, data.t, draw_folds(data.t, seed=seed, groups=data.groups))
    w = None if data.w is None else data.w[rows]
    groups = None if data.groups is None else np.asarray(data.groups)[rows]
    return CrossFit(
        rows, data.t[rows], data.y[rows, 0], w, groups, data.arms, mu, score[:, rows],
        {"nets": mu[1:] - mu[0]}, {"nets": np.ones(len(mu) - 1)},
    )  # fmt: skip


def unseen_logistic(data: TreatmentData, seed: int = 0) -> Float[np.ndarray, "arms rows"]:
    """Returns each row's probability of each arm by logistic regressions that did not see it.

    For what is computed of new rows as well, by `logistic_scores`; averages have `CrossFit.score`.

    Args:
        data: the table that the nets were trained on.
        seed: of the folds, which are those of `cross_fit`.
    """
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    return cross_fitted_propensity(finite_features(data), data.t, folds)


def unseen_mean(
    held_out: Int[np.ndarray, "members held_out"] | None, each: Float[np.ndarray, "kinds members rows"]
) -> tuple[Int[np.ndarray, " unseen"], Float[np.ndarray, "kinds unseen"]]:
    """Returns the rows that some member did not see, and the means of what those members expect of them.

    Where nothing was held out, these are all rows and the means of all members.
    """
    if held_out is None:
        return np.arange(each.shape[2]), each.mean(axis=1)
    unseen = in_held_out(held_out, each.shape[2])
    rows = np.flatnonzero(unseen.any(axis=0))
    return rows, np.where(unseen, each, 0).sum(axis=1)[:, rows] / unseen.sum(axis=0)[rows]
