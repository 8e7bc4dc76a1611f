"""The order of rows in a table of row groups: groups in a random order, rows shuffled within windows of some groups.

The same rule serves a table in memory and one that is read while it trains, so that both give the same training.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..batches import BatchOrder
from ..checks.arguments import check_integer, shown


@dataclass(frozen=True)
class WindowShuffle:
    """A shuffle that a table of row groups can follow while it is read; `ParquetTable.order` gives it.

    Each epoch draws an order of the groups and fills windows with them. The rows of a window are shuffled, and batches
    are cut from that sequence. Where one window holds all rows, it is the order of `shuffle=True`.

    Args:
        groups: how many rows each group has, in the order of the table.
        window: how many rows a window holds at most.

    Raises:
        ValueError: a group without rows, or a window that is smaller than a group.

    Example:
        >>> import torch_ref
        >>> data = torch_ref.data.synthetic(rows=20, features=4).arrays()
        >>> model = torch_ref.TwoHead(4, [4], [4])
        >>> shuffle = WindowShuffle(groups=(8, 8, 4), window=12)
        >>> losses = torch_ref.fit(model, data, epochs=1, batch_size=5, shuffle=shuffle, progress=False)
        >>> losses.shape
        (4, 2)
    """

    groups: tuple[int, ...]
    window: int

    def __post_init__(self) -> None:
        groups = tuple(self.groups) if isinstance(self.groups, Sequence | np.ndarray) else ()
        if not groups:
            raise ValueError(f"groups: expected the number of rows of each group, got {shown(self.groups)}")
        groups = tuple(check_integer(f"groups[{i}]", rows, at_least=1) for i, rows in enumerate(groups))
        object.__setattr__(self, "groups", groups)
        window = check_integer("window", self.window, at_least=1)
        if window < max(groups):
            raise ValueError(
                f"window: expected at least {max(groups)} rows, as the largest row group has, got {window}"
            )


class Window(NamedTuple):
    """Groups whose rows are shuffled together.

    Attributes:
        epoch: from 0.
        number: its place in the epoch.
        groups: their numbers, in the order in which they are filled in.
        start: how many rows of the epoch come before it.
        stop: how many come before the next one.
    """

    epoch: int
    number: int
    groups: tuple[int, ...]
    start: int
    stop: int


class Windows:
    """The windows of each epoch, drawn from the seed alone: any of them without those before it.

    Args:
        sizes: how many rows of each group are trained on; groups without any are left out.
        window: how many rows a window holds at most.
        shuffle: draws an order in every epoch; False takes groups and rows as they lie.
        seed: of numpy's default generator.
    """

    def __init__(self, sizes: Int[np.ndarray, " groups"], window: int, *, shuffle: bool, seed: int) -> None:
        self.sizes, self.window, self.shuffle = sizes, window, shuffle
        self.seed = check_integer("seed", seed, at_least=0)
        self.rows = int(sizes.sum())
        self._drawn: dict[int, list[Window]] = {}
        self._whole: BatchOrder | None = None  # draws the epochs of a single window, one after the other
        self._next = 0

    def of_epoch(self, epoch: int) -> list[Window]:
        """Returns the windows of an epoch, in their order.

        Args:
            epoch: from 0.
        """
        if epoch not in self._drawn:
            recent = {known: self._drawn[known] for known in self._drawn if known == epoch - 1}
            self._drawn = recent | {epoch: self._fill(epoch)}
        return self._drawn[epoch]

    def rows_of(self, window: Window) -> Int[np.ndarray, " rows"]:
        """Returns the order of a window's rows: their places in its groups, laid one after the other.

        Args:
            window: of one of the epochs.
        """
        rows = window.stop - window.start
        if not self.shuffle:
            return np.arange(rows)
        if self._is_whole:
            return self._shuffled_whole(window.epoch)
        numbers = np.arange(rows)
        np.random.default_rng([self.seed, window.epoch, 1 + window.number]).shuffle(numbers)
        return numbers

    @property
    def _is_whole(self) -> bool:
        return self.rows <= self.window

    def _fill(self, epoch: int) -> list[Window]:
        order = np.flatnonzero(self.sizes)
        if self.shuffle and not self._is_whole:
            np.random.default_rng([self.seed, epoch, 0]).shuffle(order)
        windows: list[Window] = []
        groups: list[int] = []
        start = stop = 0
        for group in order.tolist():
            size = int(self.sizes[group])
            if groups and stop + size - start > self.window:
                windows.append(Window(epoch, len(windows), tuple(groups), start, stop))
                groups, start = [], stop
            groups.append(group)
            stop += size
        return [*windows, Window(epoch, len(windows), tuple(groups), start, stop)] if groups else []

    def _shuffled_whole(self, epoch: int) -> Int[np.ndarray, " rows"]:
        """Returns the order of all rows in an epoch, as a table in memory has it: one generator for all epochs."""
        if self._whole is None or self._next > epoch:
            self._whole, self._next = BatchOrder(self.rows, batch_size=None, shuffle=True, seed=self.seed), 0
        self._whole.skip(epoch - self._next)
        self._next = epoch + 1
        return self._whole.take(1)[0][0].astype(np.intp)


class StepPlaces:
    """Where the steps of a training lie in its epochs; the last batch of an epoch may be short.

    Args:
        rows: in an epoch.
        batch: rows in a batch.
        batches: in an epoch; None for as many as the rows fill. Where processes share a training, all take as many.
    """

    def __init__(self, rows: int, batch: int, batches: int | None = None) -> None:
        self.rows, self.batch = rows, batch
        self.batches = -(-rows // batch) if batches is None else batches
        self.done = 0

    def skip(self, steps: int) -> None:
        """Leaves out the next steps, as if they had been taken; nothing is drawn or read.

        Args:
            steps: how many.
        """
        self.done += steps

    def take(self, steps: int) -> list[tuple[int, slice, slice]]:
        """Returns the pieces of the next steps: epoch, and rows of the epoch, and where the batches take them.

        Args:
            steps: how many.

        Returns:
            For each epoch its number, the rows of it that are taken, and their places among `steps * batch` rows.
        """
        pieces, span = [], self.batches * self.batch
        place, end = self.done * self.batch, (self.done + steps) * self.batch
        start = place
        while place < end:
            epoch, row = divmod(place, span)
            count = min(span - row, end - place)
            kept = min(count, max(0, self.rows - row))
            if kept:
                pieces.append((epoch, slice(row, row + kept), slice(place - start, place - start + kept)))
            place += count
        self.done += steps
        return pieces


class WindowOrder:
    """The row numbers of each step's batch, as `BatchOrder` gives them, in the order of a `WindowShuffle`.

    Args:
        rows: how many rows the table has, or the numbers of those to draw from; one may be among them several times.
        shuffle: the groups and the window.
        batch_size: rows in a batch; None, or more than there are, takes all rows in every step.
        seed: of numpy's default generator.

    Raises:
        ValueError: the groups have other rows than the table.
    """

    def __init__(
        self, rows: int | Int[np.ndarray, " rows"], shuffle: WindowShuffle, *, batch_size: int | None, seed: int
    ) -> None:
        ends = np.cumsum(shuffle.groups)
        if (isinstance(rows, int) and rows != ends[-1]) or (not isinstance(rows, int) and rows.max() >= ends[-1]):
            got = rows if isinstance(rows, int) else rows.max() + 1
            raise ValueError(f"shuffle: expected groups of all {got} rows, got {ends[-1]} rows in them")
        numbers = np.arange(rows, dtype=np.int32) if isinstance(rows, int) else np.asarray(rows, np.int32)
        groups = np.searchsorted(ends, numbers, side="right")
        if len(numbers) <= shuffle.window:  # one window: as `BatchOrder` has them, whatever group they are in
            groups = np.zeros_like(groups)
        order = np.argsort(groups, kind="stable")
        self.rows = len(numbers)
        self.width = self.rows if batch_size is None else check_integer("batch_size", batch_size, at_least=1)
        self.width = min(self.width, self.rows)
        sizes = np.bincount(groups, minlength=len(ends))
        self._numbers = np.split(numbers[order], np.cumsum(sizes)[:-1])
        self._windows = Windows(sizes, shuffle.window, shuffle=True, seed=seed)
        self._places = StepPlaces(self.rows, self.width)
        self._shuffled: tuple[Window | None, np.ndarray] = (None, numbers)

    def take(self, steps: int) -> tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
        """Returns the row numbers of the next steps' batches, and a mask of those that count.

        Args:
            steps: how many.
        """
        index, mask = np.zeros(steps * self.width, np.int32), np.zeros(steps * self.width, bool)
        for epoch, rows, into in self._places.take(steps):
            for window, within, part in cut(self._windows.of_epoch(epoch), rows, into):
                index[part] = self._of(window)[within]
            mask[into] = True
        return index.reshape(steps, -1), mask.reshape(steps, -1)

    def skip(self, steps: int) -> None:
        """Leaves out the next steps, as if they had been taken.

        Args:
            steps: how many.
        """
        self._places.skip(steps)

    def _of(self, window: Window) -> Int[np.ndarray, " rows"]:
        if self._shuffled[0] != window:
            numbers = np.concatenate([self._numbers[group] for group in window.groups])
            self._shuffled = window, numbers[self._windows.rows_of(window)]
        return self._shuffled[1]


def cut(windows: Sequence[Window], rows: slice, into: slice) -> list[tuple[Window, slice, slice]]:
    """Returns the parts of an epoch's rows by window: the window, the places in it, and where they go.

    Args:
        windows: of the epoch.
        rows: of the epoch.
        into: where all of them go.
    """
    parts, goes = [], into.start - rows.start
    for number in range(bisect_right(windows, rows.start, key=lambda window: window.start) - 1, len(windows)):
        window = windows[number]
        if window.start >= rows.stop:
            break
        start, stop = max(rows.start, window.start), min(rows.stop, window.stop)
        parts.append((window, slice(start - window.start, stop - window.start), slice(start + goes, stop + goes)))
    return parts


def draw_order(
    rows: int | Int[np.ndarray, " rows"], *, batch_size: int | None, shuffle: bool | WindowShuffle, seed: int
) -> BatchOrder | WindowOrder:
    """Returns the order of a training in memory; the arguments are those of `BatchOrder`, or a `WindowShuffle`."""
    if isinstance(shuffle, WindowShuffle):
        return WindowOrder(rows, shuffle, batch_size=batch_size, seed=seed)
    return BatchOrder(rows, batch_size=batch_size, shuffle=shuffle, seed=seed)


def deal_groups(sizes: Sequence[int] | Int[np.ndarray, " groups"], parts: int) -> list[list[int]]:
    """Deals groups to processes by their rows: the largest first, each to the process with the fewest rows so far.

    Args:
        sizes: how many rows each group has.
        parts: how many processes there are.

    Returns:
        The numbers of each process's groups, in the order of the table.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    rows = [0] * parts
    for group in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        part = rows.index(min(rows))
        dealt[part].append(group)
        rows[part] += int(sizes[group])
    return [sorted(groups) for groups in dealt]
