"""Draws the rows of each member of an ensemble: to train on, and to be judged by."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from torch_ref.common.checks.arguments import check_integer, check_number
from torch_ref.common.checks.arrays import check_binary, check_rows

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

    What is held out goes round: with a share of a fifth, every row is held out once among five members.

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
    folds = round(1 / share) if share else 1
    counts = [_held_out_rows(share, folds, len(arm)) for arm in arms]
    if validation_share and not sum(counts):
        raise ValueError(f"validation_share: expected a share that holds a row out, got {validation_share} of {len(t)}")
    train, held_out = [], []
    drawn = arms
    for member in range(members):
        if member % folds == 0:
            drawn = [generator.permutation(arm) for arm in arms]
        # The next fold to the front. The last one takes rows of the first, so that all are of one size.
        shuffled = [np.roll(arm, -(member % folds) * count) for arm, count in zip(drawn, counts, strict=True)]
        held_out.append(np.concatenate([arm[:count] for arm, count in zip(shuffled, counts, strict=True)]))
        kept = [arm[count:] for arm, count in zip(shuffled, counts, strict=True)]
        if bootstrap:
            kept = [generator.choice(arm, len(arm)) if len(arm) else arm for arm in kept]
        train.append(np.concatenate(kept))
    return MemberRows(
        np.stack(train).astype(np.int32), np.stack(held_out).astype(np.int32) if validation_share else None
    )


def _held_out_rows(share: float, folds: int, rows: int) -> int:
    """Returns how many rows of an arm a member holds out: so many that all folds together hold out every row."""
    if not share or not rows:
        return 0
    exact = abs(folds * share - 1) < 0.05
    return min(-(-rows // folds) if exact else round(share * rows), rows - 1)
