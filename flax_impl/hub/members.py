"""The members of an ensemble: which rows each trains on, which it is judged by, and what their spread says."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .checks import check_binary, check_integer, check_number, check_rows

_MOST_HELD_OUT = 16_384  # more rows would judge no better, and all of them go through the model after each epoch


class MemberRows(NamedTuple):
    """The rows of each member, by their numbers.

    Attributes:
        train: to train on; a bootstrap has some of them several times.
        validation: held out, or None.
    """

    train: Int[np.ndarray, "members rows"]
    validation: Int[np.ndarray, "members held_out"] | None


def draw_members(
    t: Int[np.ndarray, " rows"], *, members: int, validation_share: float, bootstrap: bool, seed: int
) -> MemberRows:
    """Draws the rows of each member, arm by arm, so that every member has as many of each arm as the others.

    Args:
        t: the treatment, 0 or 1.
        members: how many to draw for.
        validation_share: the share of each arm that is held out, at most 16,384 rows in all; 0 holds out none.
        bootstrap: draws the rows to train on from those that are not held out, with replacement.
        seed: of numpy's default generator.

    Raises:
        ValueError: an argument out of bounds, or a share that leaves no row to hold out.
    """
    check_rows("t", t)
    check_binary("t", t)
    check_integer("members", members, at_least=1)
    check_number("validation_share", validation_share, at_least=0, below=1)
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    share = min(validation_share, _MOST_HELD_OUT / len(t))
    arms = [np.flatnonzero(t == arm) for arm in (0, 1)]
    counts = [min(round(share * len(arm)), len(arm) - 1) if len(arm) else 0 for arm in arms]
    if validation_share and not sum(counts):
        raise ValueError(f"validation_share: expected a share that holds a row out, got {validation_share} of {len(t)}")
    train, held_out = [], []
    for _ in range(members):
        shuffled = [generator.permutation(arm) for arm in arms]
        held_out.append(np.concatenate([arm[:count] for arm, count in zip(shuffled, counts, strict=True)]))
        kept = [arm[count:] for arm, count in zip(shuffled, counts, strict=True)]
        if bootstrap:
            kept = [generator.choice(arm, len(arm)) if len(arm) else arm for arm in kept]
        train.append(np.concatenate(kept))
    return MemberRows(
        np.stack(train).astype(np.int32), np.stack(held_out).astype(np.int32) if validation_share else None
    )


def interval(
    values: Float[np.ndarray, "members ..."], alpha: float = 0.05
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Returns the lower and upper end of an interval that holds the true value with probability `1 - alpha`.

    The members' mean, and Student's quantile times their standard deviation to either side. A bootstrap member's
    distance from the ensemble is what an ensemble from other rows might be off by.

    Args:
        values: one for each member, trained on bootstrap rows.
        alpha: the probability of missing it.

    Raises:
        ValueError: less than two members, or `alpha` not between 0 and 1.

    Source: Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    check_number("alpha", alpha, above=0, below=1)
    if len(values) < 2:
        raise ValueError(f"members: expected at least 2 for an interval, got {len(values)}")
    from scipy.stats import t as student

    margin = student.ppf(1 - alpha / 2, len(values) - 1) * values.std(axis=0, ddof=1)
    return values.mean(axis=0) - margin, values.mean(axis=0) + margin
