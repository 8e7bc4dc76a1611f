"""The uplift curve: what treating the rows with the largest estimated effects first would bring."""

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_binary, check_finite, check_rows


def qini_curve(
    effect: Float[np.ndarray, " rows"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"] | None = None,
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

    Returns:
        The shares, from 0 to 1, and the gains, each [points]: 0 treated, then a point for each value of `effect`.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, or a treatment that is not 0 or 1.

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
    w = np.ones(len(effect))
    if score is not None:
        of_own_arm = np.where(t == 1, score, 1 - score)
        w = 1 / np.clip(of_own_arm, 0.01, 1)  # no row stands for more than a hundred
    order = np.argsort(-effect, kind="stable")
    sums = {arm: (np.cumsum((w * y * (t == arm))[order]), np.cumsum((w * (t == arm))[order])) for arm in (0, 1)}
    means = [np.divide(total, weight, out=np.zeros(len(w)), where=weight > 0) for total, weight in sums.values()]
    both = (sums[0][1] > 0) & (sums[1][1] > 0)
    share = np.arange(1, len(w) + 1) / len(w)
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
