"""The uplift curve: what treating the rows with the largest estimated effects first would bring."""

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_binary, check_finite, check_rows

from .columns import row_weights


def qini_curve(
    effect: Float[np.ndarray, " rows"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"] | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Returns the share of rows that are treated, and what that brings, in the outcome's unit per row of the table.

    The rows are taken by falling effect. The gain of a share is the difference of its arms' mean outcomes, times the
    share; rows that are alike in `effect` are taken together. A line from the first to the last point is what treating
    at random would bring.

    Args:
        effect: the estimated effects [rows].
        t: the treatment [rows], 0 or 1.
        y: the outcome that was observed [rows].
        score: each row's probability of treatment [rows], by whose inverse rows are weighted; None for a randomised
            trial.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.

    Returns:
        The shares, from 0 to 1, and the gains, each [points]: 0 treated, then a point for each value of `effect`.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, a treatment that is not 0 or 1, or weights that
            are negative or all zero.

    Example:
        >>> effect, t, y = np.array([3.0, 3.0, 1.0, 1.0]), np.array([0, 1, 0, 1]), np.array([2.0, 6.0, 2.0, 2.0])
        >>> share, gain = qini_curve(effect, t, y)
        >>> share.tolist(), gain.tolist()
        ([0.0, 0.5, 1.0], [0.0, 2.0, 2.0])

    Source: Radcliffe, "Using control groups to target on predicted lift", 2007.
    """
    check_rows("effect", effect)
    for name, array in (("effect", effect), ("t", t), ("y", y), ("score", score)):
        if array is not None:
            check_shape(name, array, (len(effect),))
            check_finite(name, array)
    check_binary("t", t)
    w = stands_for = row_weights(w, len(effect))
    if score is not None:
        of_own_arm = np.where(t == 1, score, 1 - score)
        w = stands_for / np.clip(of_own_arm, 0.01, 1)  # none stands for more than a hundred like itself
    counted = np.flatnonzero(stands_for > 0)
    order = counted[np.argsort(-effect[counted], kind="stable")]
    sums = {arm: (np.cumsum((w * y * (t == arm))[order]), np.cumsum((w * (t == arm))[order])) for arm in (0, 1)}
    means = [np.divide(total, weight, out=np.zeros(len(order)), where=weight > 0) for total, weight in sums.values()]
    both = (sums[0][1] > 0) & (sums[1][1] > 0)
    share = np.cumsum(stands_for[order])
    share = share / share[-1]
    gain = np.where(both, (means[1] - means[0]) * share, 0)
    last = np.append(effect[order][1:] != effect[order][:-1], True)
    return np.append(0, share[last]), np.append(0, gain[last])


def qini_coefficient(share: Float[np.ndarray, " points"], gain: Float[np.ndarray, " points"]) -> float:
    """Returns the area between a Qini curve and the line of treating at random, in the outcome's unit.

    Args:
        share: of rows that are treated [points], from `qini_curve`.
        gain: what that brings [points].

    Returns:
        One number: above 0 where the effects rank the rows better than chance does.

    Raises:
        ValueError: there are no points, or not as many gains as shares.

    Example:
        >>> qini_coefficient(np.array([0.0, 0.5, 1.0]), np.array([0.0, 2.0, 2.0]))
        0.5
    """
    check_rows("share", share)
    check_shape("gain", gain, (len(share),))
    return float(np.trapezoid(gain, share) - gain[-1] / 2)
