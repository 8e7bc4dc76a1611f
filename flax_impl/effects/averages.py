"""Averages of treatment effects with honest errors, from expected outcomes and propensities that are out of fold."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_choice, check_number, check_shape

from .judging.columns import check_columns, check_comparable, cluster_places, code_labels, row_weights
from .judging.estimates import AverageEffect, check_alpha, covariance, estimate_head, estimate_line, estimate_of
from .judging.scores import inner_scores, pseudo_outcomes
from .overlap import examine_overlap, examine_weights


@dataclass(frozen=True)
class AverageEffects:
    """The average effects of a table; `print` shows them. `average_effects` makes it.

    Args:
        ate: the average effect on all rows.
        att: the average effect on the treated.
        atc: the average effect on the untreated.
        by: the average effect on the rows of each group, by the group's label; None where none was asked for.
        trimmed: how many rows were left out for their propensity.
        lowest: the smallest propensity of the rows that were kept.
        highest: the largest propensity of the rows that were kept.
        alpha: the share of intervals that may miss.
        target: "population" or "sample": what the intervals speak of.
        doubts: a sentence for each thing in the propensities that makes the averages doubtful, such as poor overlap.

    Example:
        >>> one = AverageEffect(value=2.0, standard_error=0.1, low=1.8, high=2.2, rows=100)
        >>> print(AverageEffects(ate=one, att=one, atc=one, by=None, trimmed=0, lowest=0.2, highest=0.7))
                                average   std. error          95% interval      rows
        all rows (ATE)                2          0.1            1.8 to 2.2       100
        treated (ATT)                 2          0.1            1.8 to 2.2       100
        untreated (ATC)               2          0.1            1.8 to 2.2       100
        intervals speak of others like these rows
        left out for their propensity: 0 rows
        propensities from 0.2 to 0.7
    """

    ate: AverageEffect
    att: AverageEffect
    atc: AverageEffect
    by: dict[Any, AverageEffect] | None
    trimmed: int
    lowest: float
    highest: float
    alpha: float = 0.05
    target: str = "population"
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = {"all rows (ATE)": self.ate, "treated (ATT)": self.att, "untreated (ATC)": self.atc}
        named |= {f"group {label}": found for label, found in (self.by or {}).items()}
        wide = max(18, *map(len, named))
        lines = [estimate_head(wide, self.alpha, "average")]
        lines += [estimate_line(name, wide, found) for name, found in named.items()]
        of = "others like these rows" if self.target == "population" else "exactly these rows"
        lines.append(f"intervals speak of {of}")
        lines.append(f"left out for their propensity: {self.trimmed} rows")
        lines.append(f"propensities from {self.lowest:.4g} to {self.highest:.4g}")
        lines += [f"doubtful: {doubt}" for doubt in self.doubts]
        return "\n".join(lines)


def average_effects(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    *,
    score0: Float[np.ndarray, " rows"] | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
    by: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
    trim: float | None = None,
    alpha: float = 0.05,
    target: str = "population",
) -> AverageEffects:
    """Returns the average effects on all rows, on the treated and on the untreated, by augmented inverse propensities.

    The averages are right where either the expected outcomes or the propensities are. Both have to come from models
    that did not see the row (cross-fitting); else the intervals are too narrow.

    Args:
        t: the treatment [rows], 0 or 1, both of which occur; with `score0` also -1, a third arm.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows].
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows].
        score0: each row's probability of no treatment [rows], where there are more arms; None is `1 - score`.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        by: the group of each row [rows], of any type, for an average effect on each group.
        trim: leaves out rows whose propensity of either arm is below it, which changes whom the averages speak of;
            None leaves out none.
        alpha: the share of intervals that may miss.
        target: "population" for intervals of others like these rows. "sample" for intervals of exactly these rows,
            which leave out how much the effects themselves vary; where the expected outcomes are poor, they may be
            the wider ones.

    Returns:
        The averages with standard errors and normal intervals; a group whose rows were all trimmed is not among them.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, a treatment that is not 0 or 1, one arm only, a
            propensity of 0 or 1 that `trim` does not leave out, weights that are negative or all zero, less than two
            clusters, a row without a label, or another target.

    Warns:
        UserWarning: propensities nearer than 1e-6 to 0 or 1, which are taken as that near.

    Example:
        >>> t, y, half = np.array([0, 1, 0, 1]), np.array([1.0, 3.0, 1.0, 5.0]), np.full(4, 0.5)
        >>> found = average_effects(t, y, mu0=np.full(4, 1.0), mu1=np.full(4, 4.0), score=half)
        >>> found.ate.value, found.att.rows
        (3.0, 2)

    Source: Hahn, "On the role of the propensity score in efficient semiparametric estimation of average treatment
    effects", 1998; Chernozhukov and others, "Double/debiased machine learning", 2018.
    """
    third = score0 is not None
    t, y, mu0, mu1, score = check_columns(t=t, y=y, mu0=mu0, mu1=mu1, score=score, third=third)
    [score0] = check_columns(score0=1 - score if score0 is None else score0)
    check_shape("score0", score0, (len(t),))
    check_choice("target", target, ("population", "sample"))
    alpha = check_alpha(alpha)
    total = len(t)
    w = row_weights(w, total)
    clusters = cluster_places(groups, total)
    labels, parts = ([], np.zeros(total, int)) if by is None else code_labels("by", by, total)
    keep = np.full(total, True)
    if trim is not None:
        least: float = check_number("trim", trim, above=0, below=0.5)
        keep = (score >= least) & (score0 >= least)
        if not keep.any():
            raise ValueError(f"trim: expected some propensities from {least:g} to {1 - least:g}, got none")
    columns = (t, y, mu0, mu1, score, score0, w, clusters, parts)
    t, y, mu0, mu1, score, score0, w, clusters, parts = (column[keep] for column in columns)
    check_comparable(t, w, clusters)
    lowest, highest = float(score.min()), float(score.max())
    score, score0 = inner_scores(score, score0 if third else None)
    of_arms = np.stack([score0, score])
    doubts = (*examine_overlap(of_arms), *examine_weights(of_arms, t, ("untreated", "treated"), w, clusters))
    effect = mu1 - mu0
    residual = pseudo_outcomes(t, y, mu0, mu1, score, score0 if third else None) - effect
    everyone = np.ones(len(t))

    def average(member: np.ndarray, part: np.ndarray, rows: np.ndarray | slice = slice(None)) -> AverageEffect:
        columns = (column[rows] for column in (member, effect, part, w, clusters))
        return _average(*columns, alpha=alpha, sample=target == "sample")

    return AverageEffects(
        ate=average(everyone, residual),
        att=average((t == 1).astype(float), score * residual),
        atc=average((t == 0).astype(float), score0 * residual),
        by=None if by is None else {labels[i]: average(everyone, residual, parts == i) for i in np.unique(parts)},
        trimmed=total - len(t),
        lowest=lowest,
        highest=highest,
        alpha=alpha,
        target=target,
        doubts=doubts,
    )


def _average(
    member: np.ndarray,
    effect: np.ndarray,
    residual: np.ndarray,
    w: np.ndarray,
    clusters: np.ndarray,
    *,
    alpha: float,
    sample: bool,
) -> AverageEffect:
    """Returns the average effect on the members: the mean of their `effect`, corrected by everybody's `residual`."""
    counted = w > 0
    if not counted.any():
        raise ValueError("by: expected rows with a weight above 0 in every group, got a group without")
    member, effect, residual, w, clusters = (column[counted] for column in (member, effect, residual, w, clusters))
    total = np.sum(w * member)
    expected, correction = np.sum(w * member * effect) / total, np.sum(w * residual) / total
    value = float(expected + correction)
    if sample:
        effect = expected
    influence = w * (member * (effect - value) + residual) / total
    error = math.sqrt(covariance(influence[None], clusters)[0, 0])
    return estimate_of(value, error, int(member.sum()), alpha)
