"""Draws the rows of each member of an ensemble: to train on, and to be judged by."""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from torch_ref.common.checks.arguments import check_integer, check_number
from torch_ref.common.checks.arrays import check_arms, check_rows

from .judging.columns import cluster_places, code_labels

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
    t: Int[np.ndarray, " rows"],
    *,
    members: int,
    validation_share: float,
    bootstrap: bool,
    seed: int,
    groups: Shaped[np.ndarray, " rows"] | None = None,
    arms: int = 2,
) -> MemberRows:
    """Draws the rows of each member, arm by arm, so that every member has as many of each arm as the others.

    What is held out goes round: with a share of a fifth, every row is held out once among five members.

    Args:
        t: the treatment, from 0 to `arms - 1`.
        members: how many to draw for.
        validation_share: the share of each arm that is held out, at most 16,384 rows in all; 0 holds out none. With
            `groups`, a share of the clusters, at most a half.
        bootstrap: draws the rows to train on from those that are not held out, with replacement; with `groups`, whole
            clusters.
        seed: of numpy's default generator.
        groups: the cluster of each row, whose rows are held out together; or None.
        arms: how many there are.

    Raises:
        ValueError: an argument out of bounds, a share that leaves no row to hold out, or too few clusters for it.
    """
    check_rows("t", t)
    check_arms("t", t, arms)
    check_integer("members", members, at_least=1)
    check_number("validation_share", validation_share, at_least=0, below=1)
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    share = min(validation_share, _MOST_HELD_OUT / len(t))
    of_arms = [np.flatnonzero(t == arm) for arm in range(arms)]
    folds = round(1 / share) if share else 1
    if groups is not None and (share or bootstrap):
        folds = max(folds, 2) if share else 1
        return _draw_clusters(t, groups, members=members, folds=folds, bootstrap=bootstrap, generator=generator)
    whole = share == validation_share and folds > 1 and abs(folds * share - 1) < 0.05
    counts = [_held_out_rows(share, folds if whole else None, len(arm)) for arm in of_arms]
    if validation_share and not (sum(counts) and round(share * len(t))):
        raise ValueError(f"validation_share: expected a share that holds a row out, got {validation_share} of {len(t)}")
    train, held_out = [], []
    drawn = of_arms
    for member in range(members):
        if member % folds == 0:
            drawn = [generator.permutation(arm) for arm in of_arms]
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


def _held_out_rows(share: float, folds: int | None, rows: int) -> int:
    """Returns how many rows of an arm a member holds out: with folds, so many that they hold out every row together."""
    if not share or not rows:
        return 0
    return min(round(share * rows) if folds is None else -(-rows // folds), rows - 1)


def draw_folds(
    t: Int[np.ndarray, " rows"], *, seed: int, groups: Shaped[np.ndarray, " rows"] | None = None, folds: int = 5
) -> list[Bool[np.ndarray, " rows"]]:
    """Returns which rows each fold leaves out: every row once, all arms evenly among the folds, clusters whole.

    Outside each fold there are rows of all arms.

    Args:
        t: the treatment, from 0 on; every arm has rows.
        seed: of the folds.
        groups: the cluster of each row, or None.
        folds: how many; fewer where an arm has fewer rows or clusters.

    Raises:
        ImportError: scikit-learn is not installed; the message names the extra.
        ValueError: an arm with a single row, or in a single cluster; a row without a cluster.
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    except ImportError as error:
        raise ImportError("folds need scikit-learn: pip install 'twohead[estimator]'") from error
    arms = range(max(int(t.max()) + 1, 2))
    least = min(int((t == arm).sum()) for arm in arms)
    if least < 2:
        raise ValueError(f"t: expected at least 2 rows of each arm for folds, got {least} of one")
    if groups is None:
        return _masks(StratifiedKFold(min(folds, least), shuffle=True, random_state=seed).split(t, t), len(t))
    places = code_labels("groups", groups, len(t))[1]
    clusters = min(len(np.unique(places[t == arm])) for arm in arms)
    if clusters < 2:
        raise ValueError(f"groups: expected at least 2 clusters with rows of each arm, got {clusters}")
    for count in range(min(folds, clusters), 1, -1):
        parts = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(t, t, places)
        found = _masks(parts, len(t))
        if all(unseen.any() and len(np.unique(t[~unseen])) == len(arms) for unseen in found):
            return found
    raise ValueError("groups: expected clusters that leave rows of all arms outside each fold, got none")


def draw_parts(
    rows: int, groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None, *, folds: int, seed: int
) -> list[Int[np.ndarray, " unseen"]]:
    """Returns the rows that each fold leaves out: every row once, clusters whole, sizes about the same, arms by chance.

    Raises:
        ValueError: less than two folds, or fewer clusters than folds.
    """
    folds = check_integer("folds", folds, at_least=2)
    clusters = cluster_places(groups, rows)
    count = int(clusters.max()) + 1
    if count < folds:
        raise ValueError(f"folds: expected at most as many as there are clusters, {count}, got {folds}")
    order = np.random.default_rng(check_integer("seed", seed, at_least=0)).permutation(count)
    place = np.empty(count, int)
    place[order] = np.arange(count) % folds
    return [np.flatnonzero(place[clusters] == fold) for fold in range(folds)]


def _masks(parts: Iterable[tuple[np.ndarray, np.ndarray]], rows: int) -> list[np.ndarray]:
    return [np.isin(np.arange(rows), unseen) for _, unseen in parts]


def _draw_clusters(
    t: np.ndarray, groups: np.ndarray, *, members: int, folds: int, bootstrap: bool, generator: np.random.Generator
) -> MemberRows:
    """Draws the rows of each member so that a cluster is held out as a whole; a bootstrap draws whole clusters.

    Members have as many rows as the largest: those that lack some see a few of their own twice.
    """
    places = code_labels("groups", groups, len(t))[1]
    train, held_out = [], []
    parts = [np.full(len(t), False)]
    for member in range(members):
        if folds > 1 and member % folds == 0:
            parts = draw_folds(t, seed=int(generator.integers(2**31)), groups=places, folds=folds)
        unseen = parts[member % len(parts)]
        rows = np.flatnonzero(~unseen)
        if bootstrap:
            rows = _bootstrap_clusters(t, rows, places[rows], generator)
        train.append(rows)
        held_out.append(np.flatnonzero(unseen))
    kinds = [np.stack([np.resize(rows, max(map(len, kind))) for rows in kind]) for kind in (train, held_out)]
    of_train, of_held_out = (kind.astype(np.int32) for kind in kinds)
    return MemberRows(of_train, of_held_out if of_held_out.size else None)


def _bootstrap_clusters(
    t: np.ndarray, rows: np.ndarray, places: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Returns the rows of as many clusters as there are, drawn with replacement until all arms are among them."""
    labels, arms = np.unique(places), len(np.unique(t[rows]))
    while True:
        drawn = generator.choice(labels, len(labels))
        found = np.concatenate([rows[places == label] for label in drawn])
        if len(np.unique(t[found])) == arms:
            return found
