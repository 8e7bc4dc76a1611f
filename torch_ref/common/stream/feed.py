"""The batches of a training on a table that is read meanwhile: the next window is decoded while one is used up."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..batches import HeldOut, count_steps, watch_rows
from ..checks.arguments import check_flag, check_integer, check_row_numbers
from ..checks.arrays import check_names, check_part, loss_arguments
from .ahead import read_in_order, reading_threads
from .order import StepPlaces, Window, Windows, cut, deal_groups
from .table import Arrays, ParquetTable, joined


class Feed:
    """Gives the batches of a training step by step; reads in threads, inside its `with` block.

    Args:
        table: the rows.
        windows: which groups follow one another, and the order of their rows.
        places: where the steps lie.
        steps: of the whole training; what comes after them is not read.
        held_out: the numbers of the rows to leave out, in rising order.
        read: returns the arrays of a group, checked.
        changed: makes of some rows what the loss takes.

    Attributes:
        batch: rows in a batch of this process.
    """

    def __init__(
        self,
        table: ParquetTable,
        windows: Windows,
        places: StepPlaces,
        steps: int,
        held_out: Int[np.ndarray, " held_out"],
        read: Callable[[int], Arrays],
        changed: Callable[[Arrays], Arrays],
    ) -> None:
        self.batch, self._windows, self._places, self._steps = places.batch, windows, places, steps
        self._starts, self._held_out, self._read, self._changed = table.starts, held_out, read, changed
        self._stack = ExitStack()
        self._threads: ThreadPoolExecutor | None = None
        self._now: _Loaded | None = None
        self._next: _Loading | None = None
        self._first: Arrays = {}

    def __enter__(self) -> "Feed":
        self._threads = self._stack.enter_context(reading_threads())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._threads = self._now = self._next = None

    def skip(self, steps: int) -> None:
        """Leaves out the next steps; nothing is read for them.

        Args:
            steps: how many.
        """
        self._places.skip(steps)

    def take(self, steps: int) -> tuple[Arrays, Bool[np.ndarray, "steps batch"]]:
        """Returns the rows of the next steps' batches, each array [steps, batch, …], and a mask of those that count.

        Rows that the mask leaves out are zeros, or what the table makes of them.

        Args:
            steps: how many.

        Raises:
            ValueError: a row group cannot be read, or holds what the training cannot take.
        """
        mask = np.zeros(steps * self.batch, bool)
        arrays: Arrays = {}
        for epoch, rows, into in self._places.take(steps):
            mask[into] = True
            for window, within, part in cut(self._windows.of_epoch(epoch), rows, into):
                arrays = self._copy(window, within, arrays, part, len(mask))
        arrays = self._changed(arrays or _zeros(self._a_group(), len(mask)))
        shaped = {name: array.reshape(steps, self.batch, *array.shape[1:]) for name, array in arrays.items()}
        return shaped, mask.reshape(steps, self.batch)

    def _copy(self, window: Window, within: slice, arrays: Arrays, part: slice, rows: int) -> Arrays:
        """Copies some rows of a window, in its order, to their places; returns the arrays, which it makes at first.

        No window is held here, so that the last one is free while the next one comes.
        """
        loaded = self._load(window)
        arrays = arrays or _zeros(loaded.arrays, rows)
        for name, array in loaded.arrays.items():
            # Numbers are right; "clip" alone writes without a buffer.
            np.take(array, loaded.order[within], axis=0, out=arrays[name][part], mode="clip")
        return arrays

    def _load(self, window: Window) -> "_Loaded":
        """Returns a window's rows, and lets threads read the one after it."""
        if self._now is None or self._now.window != window:
            coming = self._next
            if coming is None or coming.window != window:
                coming = self._start(window)
            self._now, self._next = None, None  # frees the rows of the window before
            self._now = _Loaded(window, coming.wait(), self._windows.rows_of(window))
            following = self._following(window)
            self._next = None if following is None else self._start(following)
        return self._now

    def _following(self, window: Window) -> Window | None:
        """Returns the window after this one, or None where the training ends before it."""
        windows, epoch = self._windows.of_epoch(window.epoch), window.epoch
        if window.number + 1 < len(windows):
            following = windows[window.number + 1]
        else:
            epoch, following = epoch + 1, self._windows.of_epoch(epoch + 1)[0]
        first = epoch * self._places.batches + following.start // self._places.batch
        return following if first < self._steps else None

    def _start(self, window: Window) -> "_Loading":
        if self._now is not None and self._now.window.groups == window.groups:
            return _Loading(window, [], self._now.arrays)  # the whole table fits a window
        assert self._threads is not None  # inside the `with` block
        return _Loading(window, [self._threads.submit(self._kept, group) for group in window.groups])

    def _kept(self, group: int) -> Arrays:
        """Returns the rows of a group that are trained on."""
        arrays, (start, stop) = self._read(group), self._starts[group : group + 2]
        out = self._held_out[np.searchsorted(self._held_out, start) : np.searchsorted(self._held_out, stop)] - start
        return {name: np.delete(array, out, axis=0) for name, array in arrays.items()} if len(out) else arrays

    def _a_group(self) -> Arrays:
        """Returns the arrays of a group, for their shapes, where this process has no rows left in an epoch."""
        if self._now is not None:
            return self._now.arrays
        self._first = self._first or {name: array[:1] for name, array in self._read(0).items()}
        return self._first


class _Loaded(NamedTuple):
    window: Window
    arrays: Arrays
    order: Int[np.ndarray, " rows"]


class _Loading(NamedTuple):
    window: Window
    groups: list["Future[Arrays]"]
    whole: Arrays | None = None

    def wait(self) -> Arrays:
        """Returns the rows of all groups; each group's own memory is free once it is copied."""
        if self.whole is not None:
            return self.whole
        if len(self.groups) == 1:
            return self.groups[0].result()
        arrays: Arrays = {}
        done = 0
        while self.groups:
            found = self.groups.pop(0).result()
            arrays = arrays or _empty(found, self.window.stop - self.window.start)
            rows = len(next(iter(found.values())))
            for name, array in found.items():
                arrays[name][done : done + rows] = array
            done += rows
        return arrays


class Streamed(NamedTuple):
    """What a training on a streamed table needs.

    Attributes:
        feed: gives its batches.
        steps: how many to take at most.
        held_out: the rows that early stopping looks at, by their places in `validation`, or None.
        validation: reads their arrays.
    """

    feed: Feed
    steps: int
    held_out: HeldOut | None
    validation: Callable[[], Arrays]


def open_stream(
    table: ParquetTable,
    loss: Any,
    model: Any,
    *,
    dtype: str,
    rows: Any,
    validation_rows: Any,
    patience: int | None,
    batch_size: int | None,
    epochs: int | None,
    steps: int | None,
    shuffle: Any,
    seed: int,
    process: tuple[int, int] = (0, 1),
) -> Streamed:
    """Returns a training's stream; the arguments are those of `fit`.

    Args:
        table: the rows.
        loss: what is minimised.
        model: whose arms are those of the data.
        dtype: of the arrays.
        rows: None.
        validation_rows: the numbers of rows to hold out, over the whole table; they are read once, and kept.
        patience: as for `fit`.
        batch_size: rows in a batch of all processes together.
        epochs: as for `fit`.
        steps: as for `fit`.
        shuffle: as for `fit`, True or False.
        seed: as for `fit`.
        process: the number of this process, and how many share the training.

    Raises:
        ValueError: what `fit` refuses, or cannot do with rows that are not in memory.
    """
    if rows is not None:
        raise ValueError("rows: expected None with a table of Parquet files, whose rows are all trained on, got some")
    if batch_size is None:
        raise ValueError("batch_size: expected a number of rows with a table of Parquet files, got None")
    number, parts = process
    if len(table.groups) < parts:
        raise ValueError(f"data: expected a row group for each of {parts} processes, got {len(table.groups)}")
    names = loss_arguments(loss, whole=True, model=model)
    if table.change is None:
        check_names(table.columns, names.required, names.optional)

    def read(group: int) -> Arrays:
        return table.read(group, dtype, lambda arrays: check_part(arrays, loss, names, dtype=dtype))

    sizes = np.array([group.rows for group in table.groups])
    held_out = np.empty(0, np.int32)
    if validation_rows is not None:
        held_out = check_row_numbers("validation_rows", validation_rows, len(table))
        unique = np.unique(held_out)
        sizes = sizes - np.histogram(unique, table.starts - 0.5)[0]
        if not sizes.any():
            raise ValueError(f"validation_rows: expected rows left to train on, got all {len(table)}")
    elif patience is not None:
        raise ValueError(f"patience: expected validation_rows with it, got {patience!r} alone")
    total = int(sizes.sum())
    batch = -(-min(check_integer("batch_size", batch_size, at_least=1), total) // parts)
    own, most = np.zeros_like(sizes), 0
    for part, groups in enumerate(deal_groups(sizes, parts)):
        most = max(most, int(sizes[groups].sum()))
        if part == number:
            own[groups] = sizes[groups]
    batches = -(-most // batch)
    steps = count_steps(most, batch, epochs, steps)
    watched = None
    if validation_rows is not None:
        watched = watch_rows(np.arange(len(held_out), dtype=np.int32), patience, batches, steps)
    assert table.window is not None  # it has filled it in
    windows = Windows(own, table.window, shuffle=check_flag("shuffle", shuffle), seed=seed)
    places = StepPlaces(windows.rows, batch, batches)
    changed = partial(table.for_batches, dtype=dtype)
    feed = Feed(table, windows, places, steps, np.unique(held_out), read, changed)
    return Streamed(feed, steps, watched, lambda: changed(_rows(table, held_out, read)))


def _rows(table: ParquetTable, numbers: Int[np.ndarray, " rows"], read: Callable[[int], Arrays]) -> Arrays:
    """Returns the rows of these numbers, in their order; only groups that hold some are read."""
    unique, order = np.unique(numbers, return_inverse=True)
    starts = table.starts
    groups = np.searchsorted(starts, unique, side="right") - 1

    def part(group: int) -> Arrays:
        return {name: array[unique[groups == group] - starts[group]] for name, array in read(group).items()}

    found = joined(list(read_in_order(part, np.unique(groups).tolist())))
    return {name: array[order] for name, array in found.items()}


def _empty(arrays: Mapping[str, np.ndarray], rows: int) -> Arrays:
    return {name: np.empty((rows, *array.shape[1:]), array.dtype) for name, array in arrays.items()}


def _zeros(arrays: Mapping[str, np.ndarray], rows: int) -> Arrays:
    return {name: np.zeros((rows, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
