"""Two arms of a table, side by side: what was expected of each row, and what the one gains over the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_shape, listed, shown
from torch_ref.common.checks.arrays import check_arms
from torch_ref.common.data.treatment_data import TreatmentData

from ..averages import AverageEffects, average_effects
from ..judging.scores import dr_loss, pseudo_outcomes, r_loss


@dataclass(frozen=True)
class Contrast:
    """What models that did not see a row expect of it in two arms; `CrossFit.contrast` makes it.

    "Treatment" is the second of the two arms. Rows of other arms count in averages, as rows that either could have had.

    Args:
        t: the treatment [held_out]: 1, 0, or -1 for a row of another arm.
        y: the outcome [held_out].
        w: weights [held_out], or None.
        groups: clusters [held_out], or None.
        mu0: the outcome that is expected without treatment [held_out].
        mu1: the outcome that is expected with treatment [held_out].
        score0: the probability of no treatment [held_out].
        score: the probability of treatment [held_out].
        effect: the effect by all learners [held_out].
        effects: the effect by each learner [held_out].
        weights: of each learner in `effect`.

    Example:
        >>> one, half = np.ones(4), np.full(4, 0.5)
        >>> t, y = np.array([0, 1, 0, 1]), np.array([1.0, 4.0, 1.0, 4.0])
        >>> found = Contrast(t, y, None, None, one, 4 * one, half, half, 3 * one, {"nets": 3 * one}, {"nets": 1.0})
        >>> found.averages().ate.value, found.losses()
        (3.0, {'nets': (0.0, 0.0)})
    """

    t: Int[np.ndarray, " held_out"]
    y: Float[np.ndarray, " held_out"]
    w: Float[np.ndarray, " held_out"] | None
    groups: Shaped[np.ndarray, " held_out"] | None
    mu0: Float[np.ndarray, " held_out"]
    mu1: Float[np.ndarray, " held_out"]
    score0: Float[np.ndarray, " held_out"]
    score: Float[np.ndarray, " held_out"]
    effect: Float[np.ndarray, " held_out"]
    effects: dict[str, Float[np.ndarray, " held_out"]]
    weights: dict[str, float]

    def losses(self) -> dict[str, tuple[float, float]]:
        """Returns the R-loss and the DR-loss of each learner, and of `all` of them where there are several.

        The R-loss looks at rows of these two arms only.
        """
        named = dict(self.effects) | ({"all": self.effect} if len(self.effects) > 1 else {})
        own = self.t >= 0
        score = (self.score / (self.score + self.score0))[own]
        mean = (1 - score) * self.mu0[own] + score * self.mu1[own]
        w = None if self.w is None else self.w[own]
        return {
            name: (
                r_loss(effect[own], self.t[own], self.y[own], mean, score, w),
                dr_loss(effect, self.t, self.y, self.mu0, self.mu1, self.score, self.w, self._score0),
            )
            for name, effect in named.items()
        }

    def pseudo_outcomes(self) -> Float[np.ndarray, " held_out"]:
        """Returns each row's doubly robust pseudo-outcome, see the function of that name."""
        return pseudo_outcomes(self.t, self.y, self.mu0, self.mu1, self.score, self._score0)

    def averages(self, **settings: Any) -> AverageEffects:
        """Returns the average effects on these rows, see `average_effects`.

        Args:
            settings: `by`, `trim`, `alpha` and `target` of `average_effects`; `by` has an entry for each row.
        """
        columns = (self.t, self.y, self.mu0, self.mu1, self.score)
        return average_effects(*columns, score0=self._score0, w=self.w, groups=self.groups, **settings)

    @property
    def _score0(self) -> Float[np.ndarray, " held_out"] | None:
        """The probability of no treatment, or None where it is `1 - score`: where there are no other arms."""
        return self.score0 if (self.t < 0).any() or (self.score0 != 1 - self.score).any() else None


def find_pair(
    arms: Sequence[Any],
    control: Any = None,
    treatment: Any = None,
    *,
    names: tuple[str, str] = ("control", "treatment"),
) -> tuple[int, int]:
    """Returns the places of two arms by their labels: the one to compare with, and the other.

    Args:
        arms: the labels.
        control: the label of the first; None is the first arm.
        treatment: the label of the second; None is the second of two arms.
        names: of both arguments, for errors.

    Raises:
        ValueError: a label that no arm has, or None where there are more than two arms.

    Example:
        >>> find_pair(("placebo", "drug")), find_pair(("placebo", "low", "high"), "low", "high")
        ((0, 1), (1, 2))
    """
    control = arms[0] if control is None else control
    if treatment is None:
        if len(arms) > 2:
            raise ValueError(f"{names[1]}: expected one of {listed(arms)}, as there are {len(arms)} arms, got None")
        treatment = next((label for label in arms if label != control), arms[1])
    places = []
    for name, label in zip(names, (control, treatment), strict=True):
        if not np.isscalar(label) or label not in arms:
            raise ValueError(f"{name}: expected one of {listed(arms)}, got {shown(label)}")
        places.append(list(arms).index(label))
    return places[0], places[1]


def take_pair(data: TreatmentData, control: Any = None, treatment: Any = None) -> TreatmentData:
    """Returns the rows of two arms as a table of their own, without known outcomes; a table of these two as it is.

    Args:
        data: the table.
        control: label of the arm to compare with; None is the first of `data.arms`.
        treatment: label of the other arm; None is the second of two.

    Raises:
        ValueError: as `find_pair`; the same arm twice; or a treatment that is no arm of the table.

    Example:
        >>> data = TreatmentData(np.arange(4.0)[:, None], np.array([0, 2, 1, 2]), np.ones((4, 1)), arms=("a", "b", "c"))
        >>> two = take_pair(data, "b", "c")
        >>> two.t.tolist(), two.arms, two.x[:, 0].tolist()
        ([1, 0, 1], ('b', 'c'), [1.0, 2.0, 3.0])
    """
    first, second = find_pair(data.arms, control, treatment)
    if first == second:
        raise ValueError(f"treatment: expected another arm than {shown(data.arms[first])}, got the same")
    if (first, second) == (0, 1) and len(data.arms) == 2:
        return data
    check_shape("t", data.t, (len(data),))
    check_arms("t", data.t, len(data.arms))
    two = data.take(np.flatnonzero((data.t == first) | (data.t == second)))
    arms = (data.arms[first], data.arms[second])
    return replace(two, t=(two.t == second).astype(np.int32), arms=arms, mu0=None, mu1=None)
