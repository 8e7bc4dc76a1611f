"""Refutations: changes to a table after which an honest analysis must find a known effect, or the same one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_choice, check_integer, check_number
from torch_ref.common.data.treatment_data import TreatmentData
from torch_ref.common.progress import Progress

from ..judging.estimates import normal_reach
from ..learners.contrast import take_pair
from .altered import dummy_outcome, placebo_treatment, propensity_strata, random_common_cause, subset
from .nuisances import Estimate, average_by, check_two_arms, cross_fit_trees

# Of each kind: what it is, and what it means where it accuses.
KINDS = {
    "placebo": ("placebo treatment", "it finds effects of a treatment that was drawn by lot"),
    "dummy_outcome": ("dummy outcome", "it finds effects on an outcome that only the features move"),
    "common_cause": ("random common cause", "a feature that is noise moves its effect"),
    "subset": ("subset of the rows", "its effect changes from subset to subset by more than its error allows"),
}
_REORDERED = 4  # times that rows change their order, to tell how far an analysis moves by folds and seeds alone
_BLIND = "none of them sees a hidden confounder, nor a feature that the treatment changed"


@dataclass(frozen=True)
class Refutation:
    """What an analysis found on tables that were changed in one way; `refute` makes it.

    Args:
        kind: "placebo", "dummy_outcome", "common_cause" or "subset".
        expected: the average effect that an honest analysis finds, in the outcome's unit.
        values: the average effects that were found [draws].
        errors: by how much chance moves each of an honest analysis from what is expected: standard errors [draws].
        alpha: the level: the share of honest analyses that may be accused.

    Example:
        >>> found = Refutation("placebo", 0.0, np.array([0.1, -0.2, 3.0, 4.0]), np.ones(4))
        >>> found.outside, round(found.p_value, 3), found.accuses
        (2, 0.014, True)
    """

    kind: str
    expected: float
    values: Float[np.ndarray, " draws"]
    errors: Float[np.ndarray, " draws"]
    alpha: float = 0.05

    @property
    def outside(self) -> int:
        """How many values lie further from what is expected than chance moves them in all but a share `alpha`."""
        return int((np.abs(self.values - self.expected) > normal_reach(self.alpha) * self.errors).sum())

    @property
    def p_value(self) -> float:
        """How probable so many outside are, or more, where each is with probability `alpha`."""
        draws, alpha = len(self.values), self.alpha
        terms = (math.comb(draws, k) * alpha**k * (1 - alpha) ** (draws - k) for k in range(self.outside, draws + 1))
        return min(1.0, sum(terms))

    @property
    def accuses(self) -> bool:
        """Whether the analysis is refuted: the p-value is at most `alpha`."""
        return self.p_value <= self.alpha


@dataclass(frozen=True)
class Refutations:
    """An analysis and the refutations that it was put to; `refute` makes it, `print` shows it.

    Args:
        value: the average effect that the analysis finds in the table itself.
        standard_error: of the value.
        noise: by how much the value moves where rows change their order: the standard deviation; NaN where no
            refutation needed it.
        found: the refutations.

    Example:
        >>> one = Refutation("placebo", 0.0, np.array([0.1, -0.2, 0.3, 0.4]), np.ones(4))
        >>> print(Refutations(value=2.0, standard_error=0.5, noise=0.01, found=(one,)))
        average effect 2, standard error 0.5; rows in another order move it by 0.01
                                 expected        found      outside   p-value
        placebo treatment               0         0.15       0 of 4         1  passed
        each accuses an honest analysis in at most 5% of tables; what passes is not proved right
        none of them sees a hidden confounder, nor a feature that the treatment changed
    """

    value: float
    standard_error: float
    noise: float
    found: tuple[Refutation, ...]

    @property
    def accused(self) -> tuple[str, ...]:
        """The kinds that refute the analysis."""
        return tuple(one.kind for one in self.found if one.accuses)

    def __str__(self) -> str:
        moved = "" if math.isnan(self.noise) else f"; rows in another order move it by {self.noise:.2g}"
        lines = [f"average effect {self.value:.4g}, standard error {self.standard_error:.4g}{moved}"]
        lines.append(f"{'':20}{'expected':>13}{'found':>13}{'outside':>13}{'p-value':>10}")
        for one in self.found:
            name, meaning = KINDS[one.kind]
            outside = f"{one.outside} of {len(one.values)}"
            verdict = f"REFUTED: {meaning}" if one.accuses else "passed"
            numbers = f"{one.expected:>13.4g}{np.mean(one.values):>13.4g}{outside:>13}{one.p_value:>10.2g}"
            lines.append(f"{name:20}{numbers}  {verdict}")
        level = f"{100 * self.found[0].alpha:.3g}%"
        lines.append(f"each accuses an honest analysis in at most {level} of tables; what passes is not proved right")
        lines.append(_BLIND)
        return "\n".join(lines)


def refute(
    data: TreatmentData,
    estimate: Estimate | None = None,
    *,
    control: Any = None,
    treatment: Any = None,
    kinds: Sequence[str] = tuple(KINDS),
    draws: int = 10,
    strata: int = 1,
    share: float = 0.8,
    binary: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> Refutations:
    """Puts an analysis to tables whose answer is known, and says where it errs by more than it claims it may.

    - "placebo" permutes the treatment: the effect is 0. It sees standard errors that are too small, such as of models
      that saw the rows, and effects out of nothing.
    - "dummy_outcome" takes an outcome that the features move, and the treatment does not: the effect is 0. It sees
      observed confounding that is not adjusted for.
    - "common_cause" adds a feature that is noise: the effect stays, within its interval. It sees an adjustment by the
      wrong columns, and models that such a feature unsettles.
    - "subset" takes some of the rows: the effect moves as far as leaving rows out and drawing other folds move it, not
      further. It sees estimates that hang on few rows, and standard errors that are too small.

    None sees a hidden confounder, for which there is `hidden_confounding`, nor a feature that the treatment changed.

    Args:
        data: the table; of several arms the rows of two are taken.
        estimate: the analysis: takes a table of two arms, and returns the average effect (ATE) and its standard error.
            None is `cross_fit_trees`; `average_by` makes one of any models.
        control: label of the arm to compare with; None is the first of `data.arms`.
        treatment: label of the other arm; None is the second of two, and is refused where there are more.
        kinds: which refutations.
        draws: how many tables of each.
        strata: permutes the treatment within so many strata of propensities, so that it still goes with the features; 1
            permutes it wholly. With more, the analysis must have the stepwise propensities right.
        share: of the rows in a subset, above 0 and below 1.
        binary: the outcome is 0 or 1; the dummy outcome will be, too.
        alpha: the level: the share of honest analyses that a refutation may accuse.
        seed: of all draws.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        What was expected and found, with a p-value for each refutation.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: a label that no arm has, less than 20 rows in an arm, an argument out of bounds, or an estimate
            that is not two finite numbers.

    Example:
        >>> from flax_impl.data import synthetic
        >>> found = refute(synthetic(rows=200, features=4), kinds=["subset"], draws=3, progress=False)
        >>> found.accused
        ()

    Source: Sharma, Kiciman, "DoWhy: an end-to-end library for causal inference", 2020, whose refuters these are, here
    with levels.
    """
    data = take_pair(data, control, treatment)
    check_two_arms(data.t)
    for kind in kinds:
        check_choice("kinds", kind, KINDS)
    if not kinds:
        raise ValueError("kinds: expected at least one refutation, got none")
    draws, strata = check_integer("draws", draws, at_least=1), check_integer("strata", strata, at_least=1)
    alpha, share = (check_number(name, of, above=0, below=1) for name, of in (("alpha", alpha), ("share", share)))
    seed = check_integer("seed", seed, at_least=0)
    analysis = average_by(cross_fit_trees) if estimate is None else estimate
    reordered = _REORDERED if "subset" in kinds else 0
    with Progress(1 + reordered + draws * len(kinds), progress, "refutation") as bar:
        value, error = _estimated(analysis, data)
        same = [value]  # the same rows, in other orders: other folds, other batches
        for _ in range(reordered):
            same.append(
                _estimated(analysis, data.take(np.random.default_rng([seed, len(same)]).permutation(len(data))))[0]
            )
            bar(len(same))
        noise = float(np.std(same, ddof=1)) if reordered else math.nan
        strata_of_rows = propensity_strata(data, strata, seed) if "placebo" in kinds else np.zeros(len(data), int)

        def one_draw(kind: str, generator: np.random.Generator) -> tuple[float, float]:
            if kind == "subset":
                some, left_out = subset(data, share, generator)
                found, claimed = _estimated(analysis, some)
                # As of rows that are drawn without being put back, whichever of both errors is larger.
                by_rows = math.sqrt(left_out) * max(claimed, error / math.sqrt(1 - left_out))
                return found, math.hypot(by_rows, noise * math.sqrt(1 + 1 / len(same)))
            if kind == "common_cause":
                return _estimated(analysis, random_common_cause(data, generator))[0], error
            if kind == "placebo":
                return _estimated(analysis, placebo_treatment(data, strata_of_rows, generator))
            return _estimated(analysis, dummy_outcome(data, binary, generator))

        refutations = []
        for place, kind in enumerate(kinds):
            generator = np.random.default_rng([seed, list(KINDS).index(kind)])
            found = []
            for draw in range(draws):
                found.append(one_draw(kind, generator))
                bar(1 + reordered + place * draws + draw + 1)
            values, errors = np.array(found).T
            expected = {"common_cause": value, "subset": float(np.mean(same))}.get(kind, 0.0)
            refutations.append(Refutation(kind, expected, values, errors, alpha))
    return Refutations(value, error, noise, tuple(refutations))


def _estimated(analysis: Callable[[TreatmentData], tuple[float, float]], data: TreatmentData) -> tuple[float, float]:
    """Returns an analysis' average effect and standard error; raises ValueError where they are no such numbers."""
    found = analysis(data)
    if len(found) != 2 or not np.isfinite(found).all() or found[1] < 0:
        raise ValueError(f"estimate: expected a finite average effect and its standard error, got {found}")
    return float(found[0]), float(found[1])
