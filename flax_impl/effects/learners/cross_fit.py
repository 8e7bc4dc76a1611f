"""What is expected of each row by models that did not see it: the ground that averages and scores stand on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from ..averages import AverageEffects, average_effects
from ..intervals.held_out import in_held_out
from ..judging.scores import dr_loss, r_loss
from ..propensities import cross_fitted_propensity
from ..rows import draw_folds


@dataclass(frozen=True)
class CrossFit:
    """What models that did not see a row expect of it, in the unit of the outcome; `EffectModel.cross_fit` makes it.

    Args:
        rows: the numbers of the rows that at least one net did not see [held_out].
        t: their treatment [held_out].
        y: their outcome [held_out].
        w: their weights [held_out], or None.
        groups: their clusters [held_out], or None.
        mu0: the outcome that is expected without treatment [held_out].
        mu1: the outcome that is expected with treatment [held_out].
        score: their probability of treatment [held_out], at least 0.01 and at most 0.99.
        effects: the effect by each learner [held_out].
        weights: of each learner in `effect`.

    Example:
        >>> from flax_impl.data import synthetic
        >>> from flax_impl.effects import EffectSettings, fit_effects
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=5, steps=3)
        >>> unseen = fit_effects(data, small, progress=False).cross_fit(data)
        >>> len(unseen.rows), unseen.averages().ate.rows  # among five members, each row is held out
        (80, 80)
        >>> list(unseen.losses())
        ['nets']
    """

    rows: Int[np.ndarray, " held_out"]
    t: Int[np.ndarray, " held_out"]
    y: Float[np.ndarray, " held_out"]
    w: Float[np.ndarray, " held_out"] | None
    groups: Shaped[np.ndarray, " held_out"] | None
    mu0: Float[np.ndarray, " held_out"]
    mu1: Float[np.ndarray, " held_out"]
    score: Float[np.ndarray, " held_out"]
    effects: dict[str, Float[np.ndarray, " held_out"]]
    weights: dict[str, float]

    @property
    def effect(self) -> Float[np.ndarray, " held_out"]:
        """The effect by all learners, weighted."""
        return sum((self.weights[name] * effect for name, effect in self.effects.items()), np.zeros(len(self.rows)))

    def losses(self) -> dict[str, tuple[float, float]]:
        """Returns the R-loss and the DR-loss of each learner, and of `all` of them where there are several."""
        named = dict(self.effects) | ({"all": self.effect} if len(self.effects) > 1 else {})
        mean = (1 - self.score) * self.mu0 + self.score * self.mu1
        return {
            name: (
                r_loss(effect, self.t, self.y, mean, self.score, self.w),
                dr_loss(effect, self.t, self.y, self.mu0, self.mu1, self.score, self.w),
            )
            for name, effect in named.items()
        }

    def averages(self, **settings: Any) -> AverageEffects:
        """Returns the average effects on these rows, see `average_effects`.

        Args:
            settings: `by`, `trim`, `alpha` and `target` of `average_effects`; `by` has an entry for each of `rows`.
        """
        return average_effects(self.t, self.y, self.mu0, self.mu1, self.score, w=self.w, groups=self.groups, **settings)


def cross_fit(
    data: TreatmentData,
    y0: Float[np.ndarray, "members rows"],
    y1: Float[np.ndarray, "members rows"],
    held_out: Int[np.ndarray, "members held_out"] | None,
    seed: int = 0,
) -> CrossFit:
    """Returns what the nets that did not see a row expect of it, and its probability of treatment.

    Args:
        data: the table that the nets were trained on.
        y0: the outcome without treatment that each net expects of each row, in the unit of the outcome.
        y1: the outcome with treatment.
        held_out: the rows that each net did not see; None where none was held out, and all nets have seen all rows.
        seed: of the folds of the propensity.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: an arm with a single row, which cannot be in training and out of it.
    """
    rows, (mu0, mu1) = unseen_mean(held_out, np.stack([y0, y1]))
    score = cross_fitted_propensity(finite_features(data), data.t, draw_folds(data.t, seed=seed, groups=data.groups))
    w = None if data.w is None else data.w[rows]
    groups = None if data.groups is None else np.asarray(data.groups)[rows]
    return CrossFit(
        rows, data.t[rows], data.y[rows, 0], w, groups, mu0, mu1, score[rows], {"nets": mu1 - mu0}, {"nets": 1.0}
    )


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
