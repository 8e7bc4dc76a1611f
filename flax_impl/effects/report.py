"""Reports what an ensemble found in its table, as numbers and as text."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import shown
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from .averages import AverageEffects
from .effect_model import EffectModel
from .judging.columns import cluster_places
from .judging.rate import FEWEST, Rate, rate
from .judging.uplift import qini_coefficient, qini_curve
from .learners.contrast import Contrast, find_pair
from .learners.cross_fit import CrossFit, unseen_mean
from .learners.training_record import TrainingRecord
from .overlap import arm_names, examine_overlap, examine_weights, poor_overlap
from .propensities import arm_propensities


@dataclass(frozen=True)
class PairEffects:
    """The effects of one arm against another on a table's rows; `EffectReport.of` makes it.

    Args:
        control: the place of the arm to compare with, among the report's `arms`.
        treatment: the place of the other arm.
        effect: the effect on each row [rows], in the unit of the outcome.
        low: lower end of each effect's 95% interval [rows]; None where the model has none.
        high: its upper end.
        ate: the average effect.
        ate_interval: the ends of its 95% interval, or None.
        unseen: the effect on rows that some nets did not see, by those nets [held_out].
        averages: cross-fitted average effects; None without held-out rows or without scikit-learn.
        learners: of each learner its weight, its R-loss and its DR-loss on rows that it did not see; or None.
        ranking: whether the effects rank rows that the nets did not see, see `rate`; or None.

    Example:
        >>> two = np.full(4, 2.0)
        >>> PairEffects(0, 1, two, None, None, 2.0, None, two).ate
        2.0
    """

    control: int
    treatment: int
    effect: Float[np.ndarray, " rows"]
    low: Float[np.ndarray, " rows"] | None
    high: Float[np.ndarray, " rows"] | None
    ate: float
    ate_interval: tuple[float, float] | None
    unseen: Float[np.ndarray, " held_out"]
    averages: AverageEffects | None = None
    learners: dict[str, tuple[float, float, float]] | None = None
    ranking: Rate | None = None


@dataclass(frozen=True)
class EffectReport:
    """The effects of a table's rows, and how far to trust them; `print` shows it.

    `EffectReport.of` makes it from a trained model. Outcomes and effects are in the unit of the
    outcome; for a binary one they are probabilities and their differences.

    Args:
        arms: the label of each arm, the one to compare with first.
        t: the arm of each row [rows], its place in `arms`.
        y: the outcome that was observed [rows].
        outcomes: the expected outcome in each arm [arms, rows].
        held_out: the numbers of the rows that at least one net did not see [held_out]; all where none was held out.
        factual: what the nets that did not see these rows expect in the arm they had [held_out].
        score: each row's probability of each arm [arms, rows]; None where scikit-learn is not installed.
        training: losses and held-out rows.
        binary: the outcome is 0 or 1.
        pairs: the effects of each arm against each that comes before it: of three, (0, 1), (0, 2), (1, 2).
        cross_fit: what the averages of the pairs stand on; None where they have none.
        w: how many rows of the population each row stands for [rows], for all means of the report; None for the same.

    Example:
        >>> training = TrainingRecord(losses=np.ones((1, 3, 1)), held_out=None)
        >>> t, outcomes = np.array([0, 1, 0, 1]), np.array([[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]])
        >>> y, rows, effect = np.choose(t, outcomes), np.arange(4), outcomes[1] - outcomes[0]
        >>> pair = PairEffects(0, 1, effect, None, None, 2.0, None, effect)
        >>> report = EffectReport((0, 1), t, y, outcomes, rows, y, None, training, False, (pair,))
        >>> report.columns()["effect"]
        [2.0, 2.0, 2.0, 2.0]
        >>> report.explained(arm=1)
        1.0
    """

    arms: tuple[Any, ...]
    t: Int[np.ndarray, " rows"]
    y: Float[np.ndarray, " rows"]
    outcomes: Float[np.ndarray, "arms rows"]
    held_out: Int[np.ndarray, " held_out"]
    factual: Float[np.ndarray, " held_out"]
    score: Float[np.ndarray, "arms rows"] | None
    training: TrainingRecord
    binary: bool
    pairs: tuple[PairEffects, ...]
    cross_fit: CrossFit | None = None
    w: Float[np.ndarray, " rows"] | None = None

    @classmethod
    def of(cls, model: EffectModel, data: TreatmentData, trim: float | None = None) -> "EffectReport":
        """Returns the report of a model on the table that it was trained on.

        Args:
            model: trained by `fit_effects`.
            data: the whole table that it was trained on, in the same order and unit.
            trim: leaves rows out of the averages whose propensity is below it or above 1 - trim; None leaves out none.

        Raises:
            ValueError: the model was loaded, so the rows that its nets did not see are unknown; or a `trim` that
                leaves out all rows of an arm.
        """
        if model.training is None:
            raise ValueError("model: expected one that was trained here, got a loaded one")
        members = model.joint_outcomes(data.x)
        try:
            score = arm_propensities(finite_features(data), data.t, len(data.arms))
        except ImportError:
            score = None
        rows, unseen = unseen_mean(model.training.held_out, members)
        found = None
        every_arm_twice = np.bincount(data.t, minlength=len(data.arms)).min() > 1
        if score is not None and model.training.held_out is not None and every_arm_twice:
            found = model.cross_fit(data)
            unseen = found.mu
        pairs = tuple(
            _pair(model, data, members, unseen, found, trim, pair) for pair in combinations(range(len(data.arms)), 2)
        )
        return cls(
            arms=data.arms,
            t=data.t,
            y=data.y[:, 0],
            outcomes=members.mean(axis=1),
            held_out=rows,
            factual=unseen[data.t[rows], np.arange(len(rows))],
            score=score,
            training=model.training,
            binary=model.scales.binary,
            pairs=pairs,
            cross_fit=found,
            w=data.w,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What the report calls the arms."""
        return arm_names(self.arms)

    def pair(self, control: Any = None, treatment: Any = None) -> PairEffects:
        """Returns the effects of an arm against one that comes before it.

        Args:
            control: label of the arm to compare with; None is the first.
            treatment: label of the other arm; None is the second of two.

        Raises:
            ValueError: a label that no arm has, or a pair the other way round.
        """
        wanted = find_pair(self.arms, control, treatment)
        for found in self.pairs:
            if (found.control, found.treatment) == wanted:
                return found
        raise ValueError(f"treatment: expected an arm that comes after {shown(control)}, got {shown(treatment)}")

    def against_first(self) -> tuple[PairEffects, ...]:
        """Returns the effects of each arm against the first."""
        return tuple(pair for pair in self.pairs if pair.control == 0)

    def doubts(self) -> list[str]:
        """Returns a sentence for each thing in the propensities that makes the effects doubtful."""
        found = [] if self.score is None else examine_overlap(self.score)
        unseen = self.cross_fit
        if unseen is None:
            return found
        clusters = cluster_places(unseen.groups, len(unseen.t))
        return found + examine_weights(unseen.score, unseen.t, self.names, unseen.w, clusters)

    def columns(self) -> dict[str, list[float]]:
        """Returns the columns of a table of effects: y0, y1, effect, and low and high where there are intervals.

        Of more than two arms each name ends in its arm's label, and effects are those against the first.
        """
        two = len(self.arms) == 2
        arrays = {f"y{arm}" if two else f"y_{self.arms[arm]}": outcome for arm, outcome in enumerate(self.outcomes)}
        for pair in self.against_first():
            end = "" if two else f"_{self.arms[pair.treatment]}"
            arrays |= {f"effect{end}": pair.effect}
            if pair.low is not None and pair.high is not None:
                arrays |= {f"low{end}": pair.low, f"high{end}": pair.high}
        return {name: array.tolist() for name, array in arrays.items()}

    def explained(self, arm: int) -> float:
        """Returns the share of the outcome's variance in an arm (R²) that the nets explain on rows they did not see.

        It is NaN where the arm has less than two such rows, or all have the same outcome.

        Args:
            arm: its place in `arms`; of two, 0 for the untreated, 1 for the treated.
        """
        rows = self.t[self.held_out] == arm
        w = None
        if self.w is not None:
            rows = rows & (self.w[self.held_out] > 0)
            w = self.w[self.held_out][rows]
        observed, expected = self.y[self.held_out][rows], self.factual[rows]
        if len(observed) < 2 or np.ptp(observed) == 0:
            return np.nan
        variance = np.average((observed - np.average(observed, weights=w)) ** 2, weights=w)
        return float(1 - np.average((observed - expected) ** 2, weights=w) / variance)

    def qini(self, pair: PairEffects) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Returns the Qini curve of a pair on rows that the nets did not see, weighted by propensity.

        Args:
            pair: one of `pairs`; rows of other arms are left out.

        Source: see `qini_curve`.
        """
        t = self.t[self.held_out]
        own = (t == pair.control) | (t == pair.treatment)
        rows, score = self.held_out[own], None
        if self.score is not None:
            first, second = (self.score[arm][rows] for arm in (pair.control, pair.treatment))
            score = second / (first + second)
        w = None if self.w is None else self.w[rows]
        return qini_curve(pair.unseen[own], (t[own] == pair.treatment).astype(int), self.y[rows], score, w)

    def __str__(self) -> str:
        names, arms = self.names, range(len(self.arms))
        wide = max(12, *(len(name) + 2 for name in names))
        named = len(arms) == 2 and names != arm_names((0, 1))
        lines = [f"{names[1]} against {names[0]}"] if named else []
        for pair in self.pairs:
            if pair.averages is not None:
                heading = [] if len(arms) == 2 else [f"{names[pair.treatment]} against {names[pair.control]}"]
                lines += [*heading, str(pair.averages), ""]

        def line(words: str, cells: Any, form: str = "") -> str:
            return f"{words:34}" + "".join(f"{cell:>{wide}{form}}" for cell in cells)

        lines.append(line("", names))
        lines.append(line("rows", [int((self.t == arm).sum()) for arm in arms]))
        observed = [self._observed(arm) for arm in arms]
        lines.append(line("mean outcome, observed", observed, ".4g"))
        lines.append(line("mean outcome, had all been so", np.average(self.outcomes, axis=1, weights=self.w), ".4g"))
        unseen = "R2 on rows a net did not see" if self.training.held_out is not None else "R2 on the rows trained on"
        shares = map(self.explained, arms)
        lines.append(line(unseen, ["-" if np.isnan(share) else f"{share:.3f}" for share in shares]))
        if self.score is not None:
            for name, q in (("propensity, 5%", 0.05), ("propensity, median", 0.5), ("propensity, 95%", 0.95)):
                # Of two arms there is one propensity, in both; of more, each arm's own.
                of_arms = [self.score[1 if len(arms) == 2 else arm][self.t == arm] for arm in arms]
                lines.append(line(name, [np.quantile(score, q) for score in of_arms], ".3f"))
        for pair in self.against_first():
            heading = [] if len(arms) == 2 else [f"{names[pair.treatment]} against {names[pair.control]}"]
            lines += ["", *heading, *self._lines_of(pair, observed)]
        if self.score is None:
            lines.append("no overlap: propensities need scikit-learn: pip install 'twohead[estimator]'")
        else:
            in_one = "rows in one arm almost surely" if len(arms) == 2 else "rows almost never in some arm"
            lines.append(f"{in_one:34}{poor_overlap(self.score).mean():>12.1%}")
        for pair in self.against_first():
            if pair.learners is not None and len(pair.learners) > 1:
                of = "" if len(arms) == 2 else f", {names[pair.treatment]}"
                lines += ["", f"{f'learner{of}':<22}{'weight':>8}{'R-loss':>12}{'DR-loss':>12}"]
                lines += [f"{name:<22}{w:>8.2f}{r:>12.4g}{dr:>12.4g}" for name, (w, r, dr) in pair.learners.items()]
        return "\n".join(lines)

    def _observed(self, arm: int) -> float:
        """Returns the mean outcome of an arm's rows; NaN where none has a weight."""
        rows = self.t == arm
        if self.w is None:
            return float(self.y[rows].mean())
        return float(np.average(self.y[rows], weights=self.w[rows])) if self.w[rows].any() else np.nan

    def _lines_of(self, pair: PairEffects, observed: list[Any]) -> list[str]:
        """Returns the lines on the effects of a pair."""
        between = ""
        if pair.ate_interval is not None:
            between = f"  (95% interval {pair.ate_interval[0]:.4g} to {pair.ate_interval[1]:.4g})"
        low, high = np.quantile(pair.effect, (0.05, 0.95))
        lines = [f"mean of the rows' effects         {pair.ate:>12.4g}{between}"]
        lines.append(f"effects of the rows, 5% to 95%    {low:>12.4g} to {high:.4g}")
        if pair.low is not None and pair.high is not None:
            sure = np.mean((pair.low > 0) | (pair.high < 0))
            lines.append(f"rows whose interval leaves out 0  {sure:>12.1%}")
        difference = observed[pair.treatment] - observed[pair.control]
        lines.append(f"difference of the observed means  {difference:>12.4g}")
        lines.append(f"Qini coefficient                  {qini_coefficient(*self.qini(pair)):>12.4g}")
        if pair.ranking is not None:
            ranking = pair.ranking
            lines.append(f"RATE of the effects' ranking      {ranking.value:>12.4g}  (p {ranking.p_value:.2g})")
        return lines


def _ranking(effect: Float[np.ndarray, " held_out"], contrast: Contrast) -> Rate | None:
    """Returns whether the effects rank the rows; None where they are all alike, or clusters too few to tell."""
    groups, counted = contrast.groups, np.full(len(effect), True) if contrast.w is None else contrast.w > 0
    units = cluster_places(groups, len(effect))[counted]
    if np.ptp(effect[counted]) == 0 or len(np.unique(units)) < FEWEST:
        return None
    return rate(effect, contrast.pseudo_outcomes(), groups=groups, w=contrast.w)


def _pair(
    model: EffectModel,
    data: TreatmentData,
    members: Float[np.ndarray, "arms members rows"],
    unseen: Float[np.ndarray, "arms held_out"],
    found: CrossFit | None,
    trim: float | None,
    places: tuple[int, int],
) -> PairEffects:
    """Returns the effects of the second of two arms against the first."""
    control, treatment = places
    effects = members[treatment] - members[control]
    low = high = ate_interval = averages = learners = ranking = None
    if model.has_intervals:
        low, high = model.interval_of_effects(effects, pair=places)
    if model.ensemble.bootstrap and model.members > 1:
        ends = model.interval(model.averages_by_member(data.x, effects, data.w))
        ate_interval = (float(ends[0]), float(ends[1]))
    effect = unseen[treatment] - unseen[control]
    if found is not None:
        contrast = found.contrast(data.arms[control], data.arms[treatment])
        effect, averages = contrast.effect, contrast.averages(trim=trim)
        learners = {name: (contrast.weights.get(name, 1.0), *losses) for name, losses in contrast.losses().items()}
        ranking = _ranking(effect, contrast)
    mean = effects.mean(axis=0)
    return PairEffects(
        control,
        treatment,
        mean,
        low,
        high,
        float(np.average(mean, weights=data.w)),
        ate_interval,
        effect,
        averages,
        learners,
        ranking,
    )
