"""Estimates effects with an ensemble: the members' mean, and intervals from their spread."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from torch_ref.common.data.columns import Column
from torch_ref.common.data.treatment_data import Scales, TreatmentData, sigmoid

from .ensemble_file import Ensemble, write_ensemble
from .intervals.bootstrap import student_factor, student_interval
from .intervals.calibrated import calibrated_interval
from .intervals.conformal import HeldOutRows, conformal_interval
from .learners.contrast import find_pair
from .learners.cross_fit import CrossFit, cross_fit, unseen_logistic
from .learners.training_record import TrainingRecord
from .prepare import check_table, read_features
from .propensities import logistic_scores, logistic_weights

_CLIP = 0.01  # of `TargetedLoss`
PART = 65_536  # rows that are encoded at a time
Outputs = Callable[[np.ndarray], tuple[np.ndarray, ...]]
Features: TypeAlias = Any  # an array or a table, as `EffectModel.numbers` takes it


class EffectModel:
    """An ensemble of two-head nets that estimates effects, in the unit of the data; `fit_effects` makes it.

    Args:
        ensemble: the nets' weights, scales, columns and settings.
        outputs: runs all nets: takes the columns that the nets take [rows, columns] and returns all heads' outputs,
            each [members, rows, 1].
        training: the losses and the held-out rows; None for a loaded one.
        targets: runs the propensity heads of targeted nets: takes the same columns, and returns the logits of treatment
            [members, rows] and each net's epsilon [members]; None for other nets.

    Raises:
        ValueError: from its methods: another number of features than it was trained on, or values that are no finite
            numbers; an interval without at least 2 members that are calibrated or trained on bootstrap rows, or an
            `alpha` out of bounds.
        FloatingPointError: from its methods: a net's output is not finite.

    Example:
        >>> from flax_impl.data import synthetic
        >>> from flax_impl.effects import EffectSettings, fit_effects
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3)
        >>> model = fit_effects(data, small, progress=False)
        >>> model.members, model.effect(data.x).shape
        (2, (80,))
        >>> model.ate(data.x) == float(model.effect(data.x).mean())
        True
    """

    def __init__(
        self,
        ensemble: Ensemble,
        outputs: Outputs,
        training: TrainingRecord | None = None,
        targets: Outputs | None = None,
    ) -> None:
        self.ensemble, self.training = ensemble, training
        self.outputs, self.targets = outputs, targets
        self._said: set[str] = set()

    @property
    def members(self) -> int:
        """How many nets there are."""
        return len(self.ensemble.weights)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes nets, scales and columns to one safetensors file.

        Args:
            path: the file; one that is there already is replaced, and folders that are missing are made.

        Raises:
            OSError: the file cannot be written.
        """
        write_ensemble(path, self.ensemble)

    @property
    def scales(self) -> Scales:
        """The scales of features and outcome."""
        return self.ensemble.scales

    @property
    def arms(self) -> tuple[Any, ...]:
        """The labels of the arms, the one to compare with first."""
        return self.ensemble.arms

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns, in their order."""
        return self.ensemble.feature_names

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """What the features are, where some are categories or had gaps in training; None where all are numbers."""
        return None if self.ensemble.design is None else self.ensemble.design.columns

    def numbers(self, x: Features) -> Float[np.ndarray, "rows features"]:
        """Returns features as numbers, as `TreatmentData` holds them; all other methods take what this takes.

        Args:
            x: a table of pandas, polars or pyarrow, or arrays by name, whose columns are found by their names; or an
                array [rows, features] of such numbers.

        Raises:
            ValueError: columns or values unlike those of the training; infinity; a gap where training had none.

        Warns:
            UserWarning: levels that training did not see, once for each number of rows.
        """
        return read_features(x, self.feature_names, self.columns, self._said)

    def member_outcomes(self, x: Features) -> Float[np.ndarray, "arms members rows"]:
        """Returns the potential outcomes by each member, in the unit of the data.

        Args:
            x: the features [rows, features], in the unit of the data.

        Returns:
            Those of each arm [arms, members, rows], in float64; for a binary outcome, probabilities.

        Raises:
            ValueError: another number of features, or values that are no finite numbers.
            FloatingPointError: a net's output is not finite.
        """
        parts = [self.outputs(columns) for columns in self._columns(self.numbers(x))]
        outcomes = np.stack([np.concatenate(of_arm, axis=1) for of_arm in zip(*parts, strict=True)])
        return self.scales.outcome(outcomes.astype(np.float64))[..., 0]

    def potential_outcomes(self, x: Features) -> tuple[Float[np.ndarray, " rows"], ...]:
        """Returns the expected outcomes in each arm, `(y0, y1)` of two; for a binary outcome, probabilities.

        Args:
            x: the features [rows, features], in the unit of the data.

        Returns:
            An array [rows] for each of `arms`, in the unit of the outcome: the members' means, and what the trees make
            of them.
        """
        x = self.numbers(x)
        outcomes, blend = self.member_outcomes(x).mean(axis=1), self.ensemble.blend
        return tuple(outcomes if blend is None else blend.join(self.ensemble.finite(x), outcomes))

    def effect(self, x: Features, *, control: Any = None, treatment: Any = None) -> Float[np.ndarray, " rows"]:
        """Returns each row's effect (CATE): the outcome with treatment minus the outcome without.

        Args:
            x: the features [rows, features], in the unit of the data.
            control: label of the arm to compare with; None is the first of `arms`.
            treatment: label of the other arm; None is the second of two, and is refused where there are more.

        Returns:
            One effect for each row [rows], in the unit of the outcome; for a binary one, a difference of probabilities.
        """
        return self._member_effects(x, control, treatment).mean(axis=0)

    def effect_interval(
        self, x: Features, alpha: float = 0.05, *, control: Any = None, treatment: Any = None
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Returns the lower and upper ends of intervals that hold each row's effect with probability `1 - alpha`.

        With `bootstrap=True` their width is the spread of the members, see `interval`. With `calibrate=True` too they
        are as wide as a second ensemble, on half the rows, says they must be, and never narrower than that.

        Args:
            x: the features [rows, features], in the unit of the data.
            alpha: the probability of missing the effect, above 0 and below 1.
            control: as for `effect`.
            treatment: as for `effect`.

        Returns:
            Two arrays [rows], in the unit of the outcome.
        """
        pair = find_pair(self.arms, control, treatment)
        return self.interval_of_effects(self._member_effects(x, control, treatment), alpha, pair)

    def interval_of_effects(
        self, effects: Float[np.ndarray, "members rows"], alpha: float = 0.05, pair: tuple[int, int] = (0, 1)
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Returns what `effect_interval` does, for effects that are there already.

        Args:
            effects: of the rows by each member [members, rows], from `joint_outcomes`.
            alpha: the probability of missing the effect, above 0 and below 1.
            pair: the places of the two arms, the one to compare with first.
        """
        if pair[0] == pair[1]:
            return effects.mean(axis=0), effects.mean(axis=0)  # an arm gains nothing over itself
        if self.ensemble.calibration is not None:
            least = student_factor(self.members, alpha) if self.ensemble.bootstrap else 0.0
            pairs = list(combinations(range(len(self.arms)), 2))  # an interval is as wide back as forth
            of_pair = self.ensemble.calibration[pairs.index((min(pair), max(pair)))]
            return calibrated_interval(effects, of_pair, alpha, least)
        return self.interval(effects, alpha)

    def difference_interval(
        self, data: TreatmentData, x: Features, alpha: float = 0.05, joint: Literal["any", "independent"] = "any", *,
        control: Any = None, treatment: Any = None
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:  # fmt: skip
        """Returns the ends of intervals that hold each row's own difference of outcomes, noise and all.

        Conformal: their width comes from the rows that nets did not see. See `conformal_interval`.

        Args:
            data: the whole table that the model was trained on, in the same order and unit.
            x: the features [rows, features], in the unit of the data.
            alpha: the probability of missing the difference, above 0 and below 1.
            joint: how the noises of both outcomes go together, `"any"` way or `"independent"`.
            control: as for `effect`.
            treatment: as for `effect`.

        Returns:
            Two arrays [rows], in the unit of the outcome; infinite where a row is too unlike those of an arm.

        Source: Lei, Candes, "Conformal inference of counterfactuals and individual treatment effects", 2021.
        """
        pair = find_pair(self.arms, control, treatment)
        held_out = self.cross_fit(data)
        score = unseen_logistic(check_table(data))[:, held_out.rows]  # of one kind with that of new rows
        found = replace(held_out, score=score).contrast(control, treatment)
        own = found.t >= 0
        columns = (found.mu0, found.mu1, found.score, found.t, found.y, found.score0)
        x, finite = self.numbers(x), self.ensemble.finite
        scores = logistic_scores(*logistic_weights(finite(data.x), data.t), finite(x))
        mu0, mu1 = (self.potential_outcomes(x)[arm] for arm in pair)
        score0, score = scores[list(pair)]
        table = HeldOutRows(*(column[own] for column in columns))
        return conformal_interval(table, mu0, mu1, score, alpha, joint=joint, score0=score0)

    def ate(self, x: Features, *, control: Any = None, treatment: Any = None) -> float:
        """Returns the average effect over these rows (ATE), in the unit of the outcome; of targeted nets, the targeted.

        Args:
            x: the features [rows, features], in the unit of the data.
            control: as for `effect`.
            treatment: as for `effect`.
        """
        x = self.numbers(x)
        return float(self.averages_by_member(x, self._member_effects(x, control, treatment)).mean())

    def ate_interval(
        self, x: Features, alpha: float = 0.05, *, control: Any = None, treatment: Any = None
    ) -> tuple[float, float]:
        """Returns the ends of an interval that holds the average effect over these rows with probability `1 - alpha`.

        Args:
            x: the features [rows, features], in the unit of the data.
            alpha: the probability of missing the average, above 0 and below 1.
            control: as for `effect`.
            treatment: as for `effect`.
        """
        x = self.numbers(x)
        effects = self._member_effects(x, control, treatment)
        low, high = self.interval(self.averages_by_member(x, effects), alpha)
        return float(low), float(high)

    def interval(self, values: Float[np.ndarray, "members ..."], alpha: float = 0.05) -> tuple[Any, Any]:
        """Returns the ends of intervals for any quantity that each member estimates, see `student_interval`.

        Args:
            values: one for each member [members, ...], such as averages over a group of rows.
            alpha: the probability of missing the true value, above 0 and below 1.

        Returns:
            The lower and the upper ends, each [...], in the unit of the values.

        Raises:
            ValueError: the members were not trained on bootstrap rows, or there is one only; an `alpha` out of bounds.
        """
        if not self.ensemble.bootstrap:
            raise ValueError("bootstrap: expected members trained on bootstrap rows (bootstrap=True), got none")
        return student_interval(values, alpha)

    def _columns(self, x: Float[np.ndarray, "rows features"]) -> Iterator[Float[np.ndarray, "part columns"]]:
        """Yields features as the nets take them, part by part: encoded, a large table would take much memory."""
        for start in range(0, len(x), PART):
            yield self.ensemble.encode(x[start : start + PART])

    @property
    def has_intervals(self) -> bool:
        """Whether `effect_interval` has an answer."""
        return self.members > 1 and (self.ensemble.bootstrap or self.ensemble.calibration is not None)

    def joint_outcomes(self, x: Features) -> Float[np.ndarray, "arms members rows"]:
        """Returns the potential outcomes by each net; where trees join, moved so that their means are those by all.

        Args:
            x: the features [rows, features], in the unit of the data.
        """
        x = self.numbers(x)
        outcomes = self.member_outcomes(x)
        if self.ensemble.blend is None:
            return outcomes
        mean = outcomes.mean(axis=1)
        return outcomes + (self.ensemble.blend.join(self.ensemble.finite(x), mean) - mean)[:, None]

    def averages_by_member(
        self, x: Features, effects: Float[np.ndarray, "members rows"], w: Float[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, " members"]:
        """Returns each net's average effect; a targeted net moves it by what its propensities leave to explain.

        Args:
            x: the features [rows, features], in the unit of the data.
            effects: of these rows by each member [members, rows], from `joint_outcomes`.
            w: how many rows of the population each row stands for [rows], in any unit; None for the same.

        Source: Shi, Blei, Veitch, "Adapting neural networks for the estimation of treatment effects", NeurIPS 2019.
        """
        averages = np.average(effects, axis=1, weights=w)
        if self.targets is None:
            return averages
        logits, (epsilon, *_) = zip(*map(self.targets, self._columns(self.numbers(x))), strict=True)
        logit = np.concatenate(logits, axis=1)
        score = np.clip(sigmoid(logit), _CLIP, 1 - _CLIP)
        moved = epsilon[:, None] * (1 / score + 1 / (1 - score))
        return averages + np.average(moved, axis=1, weights=w) * float(self.scales.y_std[0])

    def _member_effects(self, x: Any, control: Any, treatment: Any) -> Float[np.ndarray, "members rows"]:
        first, second = find_pair(self.arms, control, treatment)
        outcomes = self.joint_outcomes(x)
        return outcomes[second] - outcomes[first]

    def cross_fit(self, data: TreatmentData) -> CrossFit:
        """Returns what the learners expect of the rows that they did not see: the ground of averages and scores.

        Args:
            data: the whole table that the model was trained on, in the same order and unit.

        Raises:
            ValueError: the model was loaded, so the rows that its nets did not see are unknown; or an arm with a single
                row.
            ImportError: scikit-learn is not installed; the message names the extra.
        """
        if self.training is None:
            raise ValueError("model: expected one that was trained here, got a loaded one")
        held_out = self.training.held_out
        if held_out is not None and held_out.max() >= len(data):
            raise ValueError(f"data: expected the table that the model was trained on, got {len(data)} rows")
        if self.training.cross_fit is not None:
            return self.training.cross_fit
        return cross_fit(check_table(data), self.member_outcomes(data.x), held_out)
