"""Conformal intervals for a row's own difference of outcomes, noise and all."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_choice, check_number, check_shape
from torch_ref.common.checks.arrays import check_binary, check_data

_JOINT = ("any", "independent")
_MOST = 1500  # residuals of an arm that are paired with the other's; more are thinned to so many quantiles


class HeldOutRows(NamedTuple):
    """A table's rows, with what was estimated for each without looking at its outcome.

    Attributes:
        mu0: the estimated outcome without treatment [rows].
        mu1: the estimated outcome with treatment [rows].
        score: the probability of treatment [rows], between 0 and 1.
        t: the treatment [rows], 0 or 1.
        y: the outcome [rows].
        score0: the probability of no treatment [rows], where there are more arms; None is `1 - score`.
    """

    mu0: Float[np.ndarray, " rows"]
    mu1: Float[np.ndarray, " rows"]
    score: Float[np.ndarray, " rows"]
    t: Int[np.ndarray, " rows"]
    y: Float[np.ndarray, " rows"]
    score0: Float[np.ndarray, " rows"] | None = None


def conformal_interval(
    table: HeldOutRows,
    mu0: Float[np.ndarray, " new"],
    mu1: Float[np.ndarray, " new"],
    score: Float[np.ndarray, " new"],
    alpha: float = 0.05,
    *,
    joint: Literal["any", "independent"] = "any",
    least_score: float = 0.01,
    score0: Float[np.ndarray, " new"] | None = None,
) -> tuple[Float[np.ndarray, " new"], Float[np.ndarray, " new"]]:
    """Returns the ends of intervals that hold each new row's own `y1 - y0` with probability `1 - alpha`.

    Each arm's residuals say how far its outcomes lie from their estimates. The rows of an arm differ from all rows, so
    each residual weighs one over its probability of being in that arm. A new row has its own weight too: where it is so
    unlike an arm's rows that they cannot tell, its interval is infinite.

    No row shows both outcomes, so the table cannot tell how their noises go together. `joint="any"` holds whatever
    they do: it gives each arm half of `alpha`. `joint="independent"` assumes that the one noise tells nothing about
    the other. It is shorter, and may hold too rarely where the noises pull against each other.

    Args:
        table: rows of both arms, with estimates from nets that did not see them.
        mu0: the new rows' estimated outcomes without treatment [new].
        mu1: the new rows' estimated outcomes with treatment [new].
        score: the new rows' probabilities of treatment [new].
        alpha: the probability of missing the difference, above 0 and below 1.
        joint: how the noises of both outcomes go together, `"any"` way or `"independent"`.
        least_score: probabilities count as at least this, and at most one less this; above 0 and below 0.5.
        score0: the new rows' probabilities of no treatment [new], where there are more arms; None is `1 - score`.

    Returns:
        The lower and the upper ends, each [new], in the unit of the outcome; infinite where the table cannot tell.

    Raises:
        ValueError: arrays of other shapes or with values that are no finite numbers, an arm without rows,
            probabilities outside 0 to 1, an unknown `joint`, or a number out of bounds.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> t, zeros, half = generator.integers(0, 2, 400), np.zeros(400), np.full(400, 0.5)
        >>> table = HeldOutRows(zeros, zeros, half, t, generator.standard_normal(400))
        >>> low, high = conformal_interval(table, zeros[:1], zeros[:1] + 1, half[:1])
        >>> bool(low[0] < 1 < high[0])
        True

    Source: Lei, Candès, "Conformal inference of counterfactuals and individual treatment effects", 2021; Tibshirani,
        Barber, Candès, Ramdas, "Conformal prediction under covariate shift", 2019.
    """
    check_number("alpha", alpha, above=0, below=1)
    check_choice("joint", joint, _JOINT)
    check_number("least_score", least_score, above=0, below=0.5)
    table = HeldOutRows(**_checked(table._asdict(), len(table.y)))
    new = _checked({"mu0": mu0, "mu1": mu1, "score": score, "score0": score0}, len(mu0))
    check_binary("t", table.t)
    for arm, name in ((0, "untreated"), (1, "treated")):
        if not (table.t == arm).any():
            raise ValueError(f"t: expected rows of both arms, got no {name} ones")
    arms = []
    for arm in (0, 1):
        own, name = table.t == arm, ("score0", "score")[arm]
        residuals = (table.y - (table.mu1 if arm else table.mu0))[own]
        of_table, of_new = (_weights(scores[name], least_score) for scores in (table._asdict(), new))
        arms.append((residuals, of_table[own], of_new))
    if joint == "any":
        margin = sum(_margin(np.abs(residuals), weights, of_new, alpha / 2) for residuals, weights, of_new in arms)
    else:
        margin = _independent(arms, alpha)
    effect = new["mu1"] - new["mu0"]
    return effect - margin, effect + margin


def _checked(arrays: dict[str, Any], rows: int) -> dict[str, np.ndarray]:
    """Returns the arrays as float64, or as they are where they hold treatments; raises where one does not fit."""
    arrays = {name: array for name, array in arrays.items() if array is not None}
    for name, array in arrays.items():
        check_shape(name, array, (rows,))
    checked = check_data(arrays, tuple(arrays))
    for name in ("score", "score0"):
        score = checked.get(name, np.zeros(1))
        if ((score < 0) | (score > 1)).any():
            raise ValueError(f"{name}: expected probabilities between 0 and 1, got {score.min():g} to {score.max():g}")
    return {"score0": 1 - checked["score"]} | checked


def _weights(score: Float[np.ndarray, " rows"], least: float) -> Float[np.ndarray, " rows"]:
    """Returns one over each row's probability of being in an arm."""
    return 1 / np.clip(score, least, 1 - least)


def _margin(
    sizes: Float[np.ndarray, " rows"],
    weights: Float[np.ndarray, " rows"],
    of_new: Float[np.ndarray, " new"],
    alpha: float,
) -> Float[np.ndarray, " new"]:
    """Returns the weighted quantile of the sizes for each new row, whose own weight lies at infinity."""
    order = np.argsort(sizes)
    below = np.cumsum(weights[order])
    needed = (1 - alpha) * (below[-1] + of_new)
    place = np.searchsorted(below, needed * (1 - 1e-12))
    return np.append(sizes[order], np.inf)[place]


def _independent(arms: list[tuple[np.ndarray, np.ndarray, np.ndarray]], alpha: float) -> Float[np.ndarray, " new"]:
    """Returns how far the difference of two residuals, drawn independently, lies from 0 with probability 1 - alpha."""
    (of_0, weights_0, new_0), (of_1, weights_1, new_1) = (
        (*_thinned(residuals, weights), new / weights.sum()) for residuals, weights, new in arms
    )
    sizes = np.abs(of_1[:, None] - of_0).ravel()
    pairs = np.outer(weights_1 / weights_1.sum(), weights_0 / weights_0.sum()).ravel()
    order = np.argsort(sizes)
    below = np.cumsum(pairs[order])
    finite = 1 / ((1 + new_0) * (1 + new_1))  # the probability that neither is the new row's own, which is infinite
    place = np.searchsorted(below / below[-1], (1 - alpha) / finite * (1 - 1e-12))
    return np.append(sizes[order], np.inf)[place]


def _thinned(residuals: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the residuals and their weights, or so many quantiles of equal weight where there are too many."""
    if len(residuals) <= _MOST:
        return residuals, weights
    order = np.argsort(residuals)
    below = np.cumsum(weights[order])
    levels = (np.arange(_MOST) + 0.5) / _MOST * below[-1]
    return residuals[order][np.searchsorted(below, levels)], np.ones(_MOST)
