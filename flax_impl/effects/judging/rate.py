"""Whether estimated effects rank the rows: the TOC curve, the area under it, and how sure that area is."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from torch_ref.common.checks.arguments import check_choice, check_integer

from .columns import check_columns, code_labels

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
    effect: Float[np.ndarray, " rows"], pseudo: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Returns the targeting operator characteristic: how much more the first rows gain from treatment than all do.

    The rows are taken by falling effect. The gain of a share is the mean pseudo-outcome of that share less that of all
    rows. Rows that are alike in `effect` stand in no order: each counts as their mean.

    Args:
        effect: the estimated effects [rows], of rows that the estimate did not see; any other ranking will do.
        pseudo: the same rows' doubly robust pseudo-outcomes [rows], from `pseudo_outcomes`.

    Returns:
        The shares, from 1 / rows to 1, and their gains, each [rows]; the last gain is 0.

    Raises:
        ValueError: other shapes, no rows, or numbers that are not finite.

    Example:
        >>> share, gain = toc_curve(effect=np.array([1.0, 3.0]), pseudo=np.array([0.0, 4.0]))
        >>> share.tolist(), gain.tolist()
        ([0.5, 1.0], [2.0, 0.0])

    Source: Yadlowsky, Fleming, Shah, Brunskill, Wager, "Evaluating treatment prioritization rules via rank-weighted
    average treatment effects", 2025.
    """
    effect, pseudo = check_columns(effect=effect, pseudo=pseudo)
    order = np.argsort(-effect, kind="stable")
    gain = _gains(effect[order], pseudo[order])
    return np.arange(1, len(gain) + 1) / len(gain), gain


def rate(
    effect: Float[np.ndarray, " rows"],
    pseudo: Float[np.ndarray, " rows"],
    *,
    weighting: str = "autoc",
    draws: int = 200,
    seed: int = 0,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
) -> Rate:
    """Returns the area under the TOC curve, with a standard error from random halves of the rows.

    Args:
        effect: the estimated effects [rows], of rows that the estimate did not see; any other ranking will do.
        pseudo: the same rows' doubly robust pseudo-outcomes [rows], from `pseudo_outcomes`.
        weighting: "autoc" weighs all shares alike, which finds a few rows with large effects. "qini" weighs a share by
            itself, which finds effects that vary over all rows.
        draws: how many halves are drawn.
        seed: of the draws.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent: halves have
            whole clusters.

    Returns:
        The value, its standard error, and the p-value of a ranking that says nothing.

    Raises:
        ValueError: other shapes, less than four rows or clusters, numbers that are not finite, another weighting, a row
            without a label, or less than two draws.

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
    rows = len(effect)
    if rows < FEWEST:
        raise ValueError(f"effect: expected at least {FEWEST} rows, got {rows}")
    order = np.argsort(-effect, kind="stable")
    clusters = np.arange(rows) if groups is None else code_labels("groups", groups, rows)[1][order]
    count = int(clusters.max()) + 1
    if count < FEWEST:
        raise ValueError(f"groups: expected rows of at least {FEWEST} clusters, got {count}")
    effect, pseudo = effect[order], pseudo[order]
    value = _area(effect, pseudo, weighting)
    generator = np.random.default_rng(seed)
    halves = (np.isin(clusters, generator.choice(count, count // 2, replace=False)) for _ in range(draws))
    areas = [_area(effect[half], pseudo[half], weighting) for half in halves]
    # Half of the rows, drawn without putting back, spread about their mean as all rows do about the truth.
    error = float(np.std(areas, ddof=1)) * math.sqrt((count // 2) / (count - count // 2))
    nothing = 1e-12 * float(np.abs(pseudo).max())  # what rounding alone makes
    if error <= nothing:
        return Rate(0.0 if abs(value) <= nothing else value, 0.0, 1.0 if abs(value) <= nothing else 0.0)
    return Rate(value, error, math.erfc(abs(value) / error / math.sqrt(2)))


def _gains(effect: np.ndarray, pseudo: np.ndarray) -> np.ndarray:
    """Returns the gains of rows that are sorted by falling effect."""
    starts = np.flatnonzero(np.append(True, effect[1:] != effect[:-1]))
    counts = np.diff(np.append(starts, len(effect)))
    pseudo = np.repeat(np.add.reduceat(pseudo, starts) / counts, counts)
    centred = np.cumsum(pseudo - pseudo.mean())
    centred[-1] = 0  # all rows gain as much as all rows do
    return centred / np.arange(1, len(effect) + 1)


def _area(effect: np.ndarray, pseudo: np.ndarray, weighting: str) -> float:
    """Returns the weighted area under the curve of sorted rows."""
    gains = _gains(effect, pseudo)
    if weighting == "qini":
        gains = gains * np.arange(1, len(gains) + 1) / len(gains)
    return float(gains.mean())
