"""Calibrated intervals for expected effects: a second ensemble, fitted on half the rows, says how wide they must be."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_integer, check_number, check_shape
from torch_ref.common.checks.arrays import check_arms, check_data

_LEVELS = 1000  # of the stored quantiles, evenly from 0 to 1
_MOST_GROWTH = 3.0  # a larger factor would rest on a few rows


Refit = Callable[[Int[np.ndarray, " half"]], Float[np.ndarray, "arms members rows"]]


def draw_half(t: Int[np.ndarray, " rows"], seed: int, arms: int = 2) -> Int[np.ndarray, " half"]:
    """Returns the numbers of half the rows of each arm, drawn without replacement, in ascending order.

    Args:
        t: the treatment [rows], from 0 to `arms - 1`.
        seed: of numpy's default generator.
        arms: how many there are.

    Returns:
        Row numbers [half]; an arm with an odd number of rows gives the smaller half, but at least one row.

    Raises:
        ValueError: a treatment that is no arm, less than two rows in an arm, or a negative seed.

    Example:
        >>> draw_half(np.array([0, 0, 1, 1, 1, 1]), seed=0).shape
        (3,)
    """
    check_shape("t", t, ("rows",))
    check_arms("t", t, arms)
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    of_arms = [np.flatnonzero(t == arm) for arm in range(arms)]
    for arm, rows in enumerate(of_arms):
        if len(rows) < 2:
            name = ("untreated", "treated")[arm] if arms == 2 else f"arm {arm}"
            raise ValueError(f"t: expected at least 2 {name} rows to calibrate on, got {len(rows)}")
    return np.sort(np.concatenate([generator.permutation(rows)[: len(rows) // 2] for rows in of_arms])).astype(np.int32)


def calibrate(
    outcomes: Float[np.ndarray, "arms members rows"],
    unseen: Bool[np.ndarray, "members rows"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    refit: Refit,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "pairs levels"]:
    """Returns how many times their spread the effects lie from the true ones: quantiles, to be stored.

    The spread of members does not show what all of them get wrong together. Two things show it, both from an ensemble
    that is fitted on half the rows and looked at on the other half:

    - How far its effects lie from those of the whole table's ensemble, as a multiple of the spread, row by row.
    - How much farther than that the estimated outcomes lie from the truth. Assume that twice the rows halve a squared
      error. Then the squared residuals of unseen rows fall by as much as is still left; the noise cancels.

    The halves cannot show what more rows would not mend, such as an optimiser's decay that flattens all nets. There the
    intervals are too short.

    A few members tell a row's spread poorly, so its square counts half, and the mean over the table the other half.

    Args:
        outcomes: what the ensemble's members expect of the table's rows in each arm.
        unseen: which rows each member was not trained on [members, rows]; rows that it was stopped by count as unseen.
        t: the treatment [rows], from 0 on.
        y: the outcome [rows]; 0 or 1 for a binary one.
        refit: takes row numbers, fits the same ensemble on those rows, and returns its outcomes for all rows.
        seed: of the half that is drawn.

    Returns:
        For each pair of arms, (0, 1), (0, 2), … (1, 2), …: the mean variance of the members' effects, and quantiles at
        even levels from 0 to 1, for `calibrated_interval`.

    Raises:
        ValueError: arrays of other shapes or with values that are no finite numbers, less than two members, or arms
            of less than two rows.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> t, y = np.arange(200) % 2, generator.standard_normal(200)
        >>> members = generator.standard_normal((2, 5, 200))
        >>> quantiles = calibrate(members, np.ones((5, 200), bool), t, y, lambda rows: members)
        >>> quantiles.shape
        (1, 1002)

    Source: halves as in Politis, Romano, Wolf, "Subsampling", 1999; the fall of squared residuals as in Cortes et al.,
        "Learning curves: asymptotic values and rate of convergence", 1993; spreads drawn to their mean as in Smyth,
        "Linear models and empirical Bayes methods", 2004.
    """
    check_shape("outcomes", outcomes, ("arms", "members", "rows"))
    arms, members, _ = outcomes.shape
    if members < 2:
        raise ValueError(f"members: expected at least 2 for an interval, got {members}")
    t, y = check_data({"t": t, "y": y}, ("t", "y"), arms=arms).values()
    check_shape("outcomes", outcomes, (arms, members, len(y)))
    check_shape("unseen", unseen, (members, len(y)))
    half = draw_half(t, seed, arms)
    halved = refit(half).mean(axis=1)
    check_shape("refit", halved, (arms, len(y)))
    rest = np.ones(len(y), bool)
    rest[half] = False
    rows = np.arange(len(y))
    growth = _growth(outcomes[t, :, rows].T, unseen, halved[t, rows], y, rest)
    found = []
    for first, second in combinations(range(arms), 2):
        effects = outcomes[second] - outcomes[first]
        typical = float(effects.var(axis=0, ddof=1).mean())
        apart = np.abs(halved[second] - halved[first] - effects.mean(axis=0))
        ratios = (apart / np.maximum(_spread(effects, typical), np.finfo(float).tiny))[rest]
        found.append(np.append(typical, _quantiles(growth * ratios)))
    return np.stack(found)


def calibrated_interval(
    effects: Float[np.ndarray, "members rows"],
    calibration: Float[np.ndarray, " levels"],
    alpha: float = 0.05,
    least: float = 0.0,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Returns the ends of intervals that hold each row's expected effect with probability `1 - alpha`, over all rows.

    Args:
        effects: of the rows by each member [members, rows].
        calibration: of the same ensemble and pair of arms, a row of what `calibrate` returns.
        alpha: the probability of missing the effect, above 0 and below 1.
        least: the multiple of the spread is at least this.

    Returns:
        The lower and the upper ends, each [rows]: the members' mean, and the same multiple of the spread to either
        side in every row.

    Raises:
        ValueError: less than two members, a calibration that is none, or an `alpha` out of bounds.

    Example:
        >>> low, high = calibrated_interval(np.array([[1.0], [3.0]]), np.append(2, np.linspace(0, 2, 1001)), alpha=0.5)
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.586], [3.414])
    """
    factor = max(calibrated_factor(calibration, alpha), least)
    if len(effects) < 2:
        raise ValueError(f"members: expected at least 2 for an interval, got {len(effects)}")
    mean, margin = effects.mean(axis=0), factor * _spread(effects, calibration[0])
    return mean - margin, mean + margin


def calibrated_factor(calibration: Float[np.ndarray, " levels"], alpha: float) -> float:
    """Returns how many times their spread calibrated intervals go to either side.

    Args:
        calibration: as `calibrate` returns it.
        alpha: the probability of missing the effect, above 0 and below 1.

    Raises:
        ValueError: a calibration that is none, or an `alpha` out of bounds.
    """
    check_number("alpha", alpha, above=0, below=1)
    check_shape("calibration", calibration, (_LEVELS + 2,))
    return float(np.interp(1 - alpha, np.arange(_LEVELS + 1) / _LEVELS, calibration[1:]))


def _quantiles(ratios: Float[np.ndarray, " some"]) -> Float[np.ndarray, " levels"]:
    """Returns quantiles at even levels, each of them as one more ratio, drawn alike, would need it."""
    ratios = np.sort(ratios)
    places = np.ceil(np.arange(_LEVELS + 1) / _LEVELS * (len(ratios) + 1)).astype(int) - 1
    return ratios[np.clip(places, 0, len(ratios) - 1)]


def _spread(effects: Float[np.ndarray, "members rows"], typical: float) -> Float[np.ndarray, " rows"]:
    """Returns the members' standard deviation in each row, its square drawn half the way to a typical one."""
    return np.sqrt((effects.var(axis=0, ddof=1) + typical) / 2)


def _growth(
    members: Float[np.ndarray, "members rows"],
    unseen: Bool[np.ndarray, "members rows"],
    halved: Float[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    rest: Bool[np.ndarray, " rows"],
) -> float:
    """Returns how many times farther the estimates lie from the truth than from those of the half, at least 1.

    Args:
        members: each member's estimate of the outcome that was seen.
        unseen: as for `calibrate`.
        halved: the half's estimate of that outcome.
        y: that outcome.
        rest: the rows that are not in the half.
    """
    counts = unseen.sum(axis=0)
    kept = rest & (counts > 0)
    if not kept.any():
        return 1.0  # two members may hold out no row outside the half
    counts, members, unseen = counts[kept], members[:, kept], unseen[:, kept]
    mean = np.where(unseen, members, 0.0).sum(axis=0) / counts
    few = (1 / counts - 1 / len(members)) * members.var(axis=0, ddof=1)  # what a mean over few members adds
    left = np.mean((y[kept] - halved[kept]) ** 2 - (y[kept] - mean) ** 2 + few)
    apart = np.mean((halved[kept] - mean) ** 2 - few)
    if not left > apart > 0:
        return 1.0
    return min(float(np.sqrt(left / apart)), _MOST_GROWTH)
