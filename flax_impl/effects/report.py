"""Reports what an ensemble found in its table, as numbers and as text."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import TreatmentData

from .averages import AverageEffects
from .effect_model import EffectModel, TrainingRecord
from .judging.rate import Rate, rate
from .judging.scores import pseudo_outcomes
from .judging.uplift import qini_coefficient, qini_curve
from .learners.cross_fit import unseen_mean
from .overlap import POOR
from .propensities import propensity


@dataclass(frozen=True)
class EffectReport:
    """The effects of a table's rows, and how far to trust them; `print` shows it.

    `EffectReport.of` makes it from a trained model. Outcomes and effects are in the unit of the
    outcome; for a binary one they are probabilities and their differences.

    Args:
        t: the treatment [rows].
        y: the outcome that was observed [rows].
        y0: the expected outcome without treatment [rows].
        y1: the expected outcome with treatment [rows].
        low: lower end of each effect's 95% interval [rows]; None where the model has none.
        high: its upper end.
        ate: the average effect.
        ate_interval: the ends of its 95% interval, or None.
        held_out: the numbers of the rows that at least one net did not see [held_out]; all where none was held out.
        factual: what the nets that did not see these rows expect under the treatment they had [held_out].
        effect: what those nets expect of the treatment's effect on them [held_out].
        score: each row's probability of treatment [rows]; None where scikit-learn is not installed.
        training: losses and held-out rows.
        binary: the outcome is 0 or 1.
        averages: cross-fitted average effects; None without held-out rows or without scikit-learn.
        learners: of each learner its weight, its R-loss and its DR-loss on rows that it did not see; or None.
        ranking: whether the effects rank rows that the nets did not see, see `rate`; or None.

    Example:
        >>> training = TrainingRecord(losses=np.ones((1, 3, 1)), held_out=None)
        >>> t, y0, y1 = np.array([0, 1, 0, 1]), np.array([1.0, 1.0, 2.0, 2.0]), np.array([3.0, 3.0, 4.0, 4.0])
        >>> y, rows = np.where(t == 1, y1, y0), np.arange(4)
        >>> report = EffectReport(t, y, y0, y1, None, None, 2.0, None, rows, y, y1 - y0, None, training, False)
        >>> report.columns()["effect"]
        [2.0, 2.0, 2.0, 2.0]
        >>> report.explained(arm=1)
        1.0
    """

    t: Int[np.ndarray, " rows"]
    y: Float[np.ndarray, " rows"]
    y0: Float[np.ndarray, " rows"]
    y1: Float[np.ndarray, " rows"]
    low: Float[np.ndarray, " rows"] | None
    high: Float[np.ndarray, " rows"] | None
    ate: float
    ate_interval: tuple[float, float] | None
    held_out: Int[np.ndarray, " held_out"]
    factual: Float[np.ndarray, " held_out"]
    effect: Float[np.ndarray, " held_out"]
    score: Float[np.ndarray, " rows"] | None
    training: TrainingRecord
    binary: bool
    averages: AverageEffects | None = None
    learners: dict[str, tuple[float, float, float]] | None = None
    ranking: Rate | None = None

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
        y0, y1, effects = members.y0.mean(axis=0), members.y1.mean(axis=0), members.y1 - members.y0
        low = high = ate_interval = None
        if model.has_intervals:
            low, high = model.interval_of_effects(effects)
        if model.ensemble.bootstrap and model.members > 1:
            ends = model.interval(model.averages_by_member(data.x, effects))
            ate_interval = (float(ends[0]), float(ends[1]))
        try:
            score = propensity(finite_features(data), data.t)
        except ImportError:
            score = None
        rows, (unseen0, unseen1) = unseen_mean(model.training.held_out, np.stack(members))
        effect, averages, learners, ranking = unseen1 - unseen0, None, None, None
        both_arms = min(int((data.t == arm).sum()) for arm in (0, 1)) > 1
        if score is not None and model.training.held_out is not None and both_arms:
            found = model.cross_fit(data)
            unseen0, unseen1, effect, averages = found.mu0, found.mu1, found.effect, found.averages(trim=trim)
            learners = {name: (found.weights.get(name, 1.0), *losses) for name, losses in found.losses().items()}
            pseudo = pseudo_outcomes(found.t, found.y, found.mu0, found.mu1, found.score)
            ranking = rate(effect, pseudo) if np.ptp(effect) > 0 else None
        return cls(
            t=data.t,
            y=data.y[:, 0],
            y0=y0,
            y1=y1,
            low=low,
            high=high,
            ate=float((y1 - y0).mean()),
            ate_interval=ate_interval,
            held_out=rows,
            factual=np.where(data.t[rows] == 1, unseen1, unseen0),
            effect=effect,
            score=score,
            training=model.training,
            binary=model.scales.binary,
            averages=averages,
            learners=learners,
            ranking=ranking,
        )

    def columns(self) -> dict[str, list[float]]:
        """Returns the columns of a table of effects: y0, y1, effect, and low and high where there are intervals."""
        arrays = {"y0": self.y0, "y1": self.y1, "effect": self.y1 - self.y0, "low": self.low, "high": self.high}
        return {name: array.tolist() for name, array in arrays.items() if array is not None}

    def explained(self, arm: int) -> float:
        """Returns the share of the outcome's variance in an arm (R²) that the nets explain on rows they did not see.

        It is NaN where the arm has less than two such rows, or all have the same outcome.

        Args:
            arm: 0 for the untreated, 1 for the treated.
        """
        rows = self.t[self.held_out] == arm
        observed, expected = self.y[self.held_out][rows], self.factual[rows]
        if len(observed) < 2 or observed.var() == 0:
            return np.nan
        return float(1 - np.mean((observed - expected) ** 2) / observed.var())

    def qini(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Returns the Qini curve on rows that the nets did not see, weighted by propensity, see `qini_curve`."""
        score = None if self.score is None else self.score[self.held_out]
        return qini_curve(self.effect, self.t[self.held_out], self.y[self.held_out], score)

    def __str__(self) -> str:
        counts = [int((self.t == arm).sum()) for arm in (0, 1)]
        observed = [self.y[self.t == arm].mean() for arm in (0, 1)]
        lines = [] if self.averages is None else [str(self.averages), ""]
        lines.append(f"{'':34}{'untreated':>12}{'treated':>12}")
        lines.append(f"{'rows':34}{counts[0]:>12}{counts[1]:>12}")
        lines.append(f"{'mean outcome, observed':34}{observed[0]:>12.4g}{observed[1]:>12.4g}")
        lines.append(f"{'mean outcome, had all been so':34}{self.y0.mean():>12.4g}{self.y1.mean():>12.4g}")
        unseen = "R2 on rows a net did not see" if self.training.held_out is not None else "R2 on the rows trained on"
        lines.append(f"{unseen:34}{self.explained(0):>12.3f}{self.explained(1):>12.3f}")
        if self.score is not None:
            for name, q in (("propensity, 5%", 0.05), ("propensity, median", 0.5), ("propensity, 95%", 0.95)):
                of_arms = [np.quantile(self.score[self.t == arm], q) for arm in (0, 1)]
                lines.append(f"{name:34}{of_arms[0]:>12.3f}{of_arms[1]:>12.3f}")
        effect = self.y1 - self.y0
        between = ""
        if self.ate_interval is not None:
            between = f"  (95% interval {self.ate_interval[0]:.4g} to {self.ate_interval[1]:.4g})"
        lines += ["", f"mean of the rows' effects         {self.ate:>12.4g}{between}"]
        low, high = np.quantile(effect, (0.05, 0.95))
        lines.append(f"effects of the rows, 5% to 95%    {low:>12.4g} to {high:.4g}")
        if self.low is not None and self.high is not None:
            sure = np.mean((self.low > 0) | (self.high < 0))
            lines.append(f"rows whose interval leaves out 0  {sure:>12.1%}")
        lines.append(f"difference of the observed means  {observed[1] - observed[0]:>12.4g}")
        lines.append(f"Qini coefficient                  {qini_coefficient(*self.qini()):>12.4g}")
        if self.ranking is not None:
            lines.append(
                f"RATE of the effects' ranking      {self.ranking.value:>12.4g}  (p {self.ranking.p_value:.2g})"
            )
        if self.score is None:
            lines.append("no overlap: propensities need scikit-learn: pip install 'twohead[estimator]'")
        else:
            outside = np.mean((self.score < POOR) | (self.score > 1 - POOR))
            lines.append(f"rows in one arm almost surely     {outside:>12.1%}")
        if self.learners is not None and len(self.learners) > 1:
            lines += ["", f"{'learner':<22}{'weight':>8}{'R-loss':>12}{'DR-loss':>12}"]
            lines += [f"{name:<22}{w:>8.2f}{r:>12.4g}{dr:>12.4g}" for name, (w, r, dr) in self.learners.items()]
        return "\n".join(lines)
