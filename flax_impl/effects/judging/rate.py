"""Whether estimated effects rank the rows: the TOC curve, the area under it, and how sure that area is."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from torch_ref.common.checks.arguments import check_choice, check_integer

from .columns import check_columns, code_labels, row_weights

FEWEST = 4  # rows or clusters: a half of fewer has no order


@dataclass(frozen=True)
class Rate:
    """The rank-weighted average treatment effect of a ranking; `rate` makes it.

    Args:
        value: the area under the TOC curve, in the outcome's unit: above 0 where the ranking finds larger effects.
        standard_error: of the value.
        p_value: of both sides, against a ranking that says nothing about the effects.

    Example:
        >>> Rate(value=0.2, standard_error=0.1, p_value=0.046).value
        0.2
    """

    value: float
    standard_error: float
    p_value: float


def toc_curve(
    effect: Float[np.ndarray, " rows"],
    pseudo: Float[np.ndarray, " rows"],
    w: Float[np.ndarray, " rows"] | None = None,
) -> tuple[Float[np.ndarray, " counted"], Float[np.ndarray, " counted"]]:
    """Returns the targeting operator characteristic: how much more the first rows gain from treatment than all do.

    The rows are taken by falling effect. The gain of a share is the mean pseudo-outcome of that share less that of all
    rows. Rows that are alike in `effect` stand in no order: each counts as their mean.

    Args:
        effect: the estimated effects [rows], of rows that the estimate did not see; any other ranking will do.
        pseudo: the same rows' doubly robust pseudo-outcomes [rows], from `pseudo_outcomes`.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.

    Returns:
        The shares up to each row that has a weight, and their gains, each [counted]: without weights the shares run
        from 1 / rows to 1. The last gain is 0.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, or weights that are negative or all zero.

    Example:
        >>> share, gain = toc_curve(effect=np.array([1.0, 3.0]), pseudo=np.array([0.0, 4.0]))
        >>> share.tolist(), gain.tolist()
        ([0.5, 1.0], [2.0, 0.0])

    Source: Yadlowsky, Fleming, Shah, Brunskill, Wager, "Evaluating treatment prioritization rules via rank-weighted
    average treatment effects", 2025.
    """
    effect, pseudo = check_columns(effect=effect, pseudo=pseudo)
    order, w = _sorted_rows(effect, w)
    centred, reached, _ = _centred(effect[order], pseudo[order], w)
    return reached / reached[-1], centred / reached


def rate(
    effect: Float[np.ndarray, " rows"],
    pseudo: Float[np.ndarray, " rows"],
    *,
    weighting: str = "autoc",
    draws: int = 200,
    seed: int = 0,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
) -> Rate:
    """Returns the area under the TOC curve, with a standard error from random halves of the rows.

    A row of weight 2 counts as two rows that are alike, but it is drawn as one: its error is that of one row.

    Args:
        effect: the estimated effects [rows], of rows that the estimate did not see; any other ranking will do.
        pseudo: the same rows' doubly robust pseudo-outcomes [rows], from `pseudo_outcomes`.
        weighting: "autoc" weighs all shares alike, which finds a few rows with large effects. "qini" weighs a share by
            itself, which finds effects that vary over all rows.
        draws: how many halves are drawn.
        seed: of the draws.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent: halves have
            whole clusters.
        w: how many rows each row stands for [rows]; None for 1 each. Where some are below 1, all are scaled so that the
            least is 1.

    Returns:
        The value, its standard error, and the p-value of a ranking that says nothing.

    Raises:
        ValueError: other shapes, less than four rows or clusters with a weight, numbers that are not finite, weights
            that are negative or all zero, another weighting, a row without a label, or less than two draws.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> effect = generator.normal(size=500)
        >>> found = rate(effect, pseudo=effect + generator.normal(size=500))
        >>> found.value > 0.5, found.p_value < 0.001
        (True, True)

    Source: Yadlowsky, Fleming, Shah, Brunskill, Wager, "Evaluating treatment prioritization rules via rank-weighted
    average treatment effects", 2025.
    """
    effect, pseudo = check_columns(effect=effect, pseudo=pseudo)
    check_choice("weighting", weighting, ("autoc", "qini"))
    draws, seed = check_integer("draws", draws, at_least=2), check_integer("seed", seed, at_least=0)
    labels = None if groups is None else code_labels("groups", groups, len(effect))[1]
    order, w = _sorted_rows(effect, w)
    rows = len(order)
    if rows < FEWEST:
        raise ValueError(f"effect: expected at least {FEWEST} rows, got {rows}")
    clusters = np.arange(rows) if labels is None else np.unique(labels[order], return_inverse=True)[1]
    count = int(clusters.max()) + 1
    if count < FEWEST:
        raise ValueError(f"groups: expected rows of at least {FEWEST} clusters, got {count}")
    effect, pseudo = effect[order], pseudo[order]
    value = _area(effect, pseudo, w, weighting)
    generator = np.random.default_rng(seed)
    halves = (np.isin(clusters, generator.choice(count, count // 2, replace=False)) for _ in range(draws))
    areas = [_area(effect[half], pseudo[half], w[half], weighting) for half in halves]
    # Half of the rows, drawn without putting back, spread about their mean as all rows do about the truth.
    error = float(np.std(areas, ddof=1)) * math.sqrt((count // 2) / (count - count // 2))
    nothing = 1e-12 * float(np.abs(pseudo).max())  # what rounding alone makes
    if error <= nothing:
        return Rate(0.0 if abs(value) <= nothing else value, 0.0, 1.0 if abs(value) <= nothing else 0.0)
    return Rate(value, error, math.erfc(abs(value) / error / math.sqrt(2)))


def _sorted_rows(effect: np.ndarray, w: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that have a weight, by falling effect, and their weights, none of which is below 1."""
    rows = np.arange(len(effect))
    weights = np.ones(len(effect))
    if w is not None:
        relative = row_weights(w, len(effect))
        rows = np.flatnonzero(relative > 0)
        weights = np.asarray(w, np.float64)
        if weights[rows].min() < 1:
            weights = relative / relative[rows].min()
        weights = weights / max(1.0, weights.max() / 1e100)  # so that no product overflows
    order = rows[np.argsort(-effect[rows], kind="stable")]
    return order, weights[order]


def _centred(effect: np.ndarray, pseudo: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns of sorted rows what they gain beyond the mean, all together up to each; their weight; and each row's."""
    starts = np.flatnonzero(np.append(True, effect[1:] != effect[:-1]))
    counts = np.diff(np.append(starts, len(effect)))
    pseudo = np.repeat(np.add.reduceat(w * pseudo, starts) / np.add.reduceat(w, starts), counts)
    reached = np.cumsum(w)
    each = pseudo - np.sum(w * pseudo) / reached[-1]
    centred = np.cumsum(w * each)
    centred[-1] = 0  # all rows gain as much as all rows do
    return centred, reached, each


def _area(effect: np.ndarray, pseudo: np.ndarray, w: np.ndarray, weighting: str) -> float:
    """Returns the weighted area under the curve of sorted rows, each of which stands for `w` rows in its place."""
    centred, reached, each = _centred(effect, pseudo, w)
    total = reached[-1]
    before, places = np.append(0, centred[:-1]), np.append(0, reached[:-1])
    if weighting == "qini":  # the sum of before + k * each for k from 1 to w, as a function of any w
        return float(np.sum(w * before + each * w * (w + 1) / 2) / total**2)
    # The sum of (before + k * each) / (places + k), likewise: sums of 1 / (places + k) are differences of digamma.
    steps = 1 / (places + 1)
    more = w != 1
    if more.any():
        steps[more] = _digamma(reached[more] + 1) - _digamma(places[more] + 1)
    return float(np.sum(w * each + (before - places * each) * steps) / total)


def _digamma(values: np.ndarray) -> np.ndarray:
    try:
        from scipy.special import digamma
    except ImportError as error:
        raise ImportError("areas of weighted rows need scipy: pip install 'twohead[jax]'") from error
    return digamma(values)
