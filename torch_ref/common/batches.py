"""Which rows make up which step: drawn by numpy alone, so that both frameworks see the same rows in the same order."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from .checks.arguments import check_integer, check_row_numbers
from .cores import count_cores

_FOREVER = int(np.iinfo(np.int32).max)
_AT_ONCE = 2**20  # numbers that are drawn together where more are of no use


def count_steps(rows: int, batch_size: int | None, epochs: int | None, steps: int | None) -> int:
    """Returns the number of optimiser steps; an epoch sees every row once, its last batch may be short.

    Raises:
        ValueError: unless exactly one of `epochs` and `steps` is given, and is at least 1.
    """
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs, steps: expected exactly one of the two, got epochs={epochs!r} and steps={steps!r}")
    if steps is not None:
        return check_integer("steps", steps, at_least=1)
    return check_integer("epochs", epochs, at_least=1) * -(-rows // _width(rows, batch_size))


class HeldOut(NamedTuple):
    """Rows that a training is judged by and does not see, and when it is.

    Attributes:
        rows: their numbers.
        every: how many steps are between two looks: an epoch.
        patience: after how many looks in a row without a better loss the training ends.
    """

    rows: Int[np.ndarray, " held_out"]
    every: int
    patience: int


def choose_rows(
    total: int,
    *,
    rows: Sequence[int] | Int[np.ndarray, " rows"] | None,
    validation_rows: Sequence[int] | Int[np.ndarray, " held_out"] | None,
    patience: int | None,
    batch_size: int | None,
    epochs: int | None,
    steps: int | None,
) -> tuple[int | Int[np.ndarray, " rows"], HeldOut | None, int]:
    """Returns the rows to train on, as `BatchOrder` takes them, those to judge the training by, and the steps to take.

    Args:
        total: how many rows the data has.
        rows: the numbers of the rows to train on; None takes all that are not held out.
        validation_rows: the numbers of the rows to hold out, or None.
        patience: how many epochs in a row may pass without a better loss on them; None lets all pass.
        batch_size: rows in a batch.
        epochs: how often every row is seen; this or `steps`.
        steps: how many to take.

    Raises:
        ValueError: numbers of no rows, a row in both, none left to train on, patience with nothing held out, less steps
            than one look at what is held out takes, or unless exactly one of `epochs` and `steps` is given.
    """
    chosen = None if rows is None else check_row_numbers("rows", rows, total)
    if validation_rows is None:
        if patience is not None:
            raise ValueError(f"patience: expected validation_rows with it, got {patience!r} alone")
        chosen = total if chosen is None else chosen
        return chosen, None, count_steps(total if isinstance(chosen, int) else len(chosen), batch_size, epochs, steps)
    held_out = check_row_numbers("validation_rows", validation_rows, total)
    if chosen is None:
        chosen = np.setdiff1d(np.arange(total, dtype=np.int32), held_out)
        if not len(chosen):
            raise ValueError(f"validation_rows: expected rows left to train on, got all {total}")
    elif len(both := np.intersect1d(chosen, held_out)):
        raise ValueError(f"validation_rows: expected rows that are not trained on, got row {both[0]} in both")
    every, steps = (count_steps(len(chosen), batch_size, *length) for length in ((1, None), (epochs, steps)))
    return chosen, watch_rows(held_out, patience, every, steps), steps


def watch_rows(held_out: Int[np.ndarray, " held_out"], patience: int | None, every: int, steps: int) -> HeldOut:
    """Returns when a training looks at its held-out rows.

    Args:
        held_out: their numbers.
        patience: as for `choose_rows`.
        every: how many steps an epoch has.
        steps: how many are taken.

    Raises:
        ValueError: less steps than an epoch, or a patience that is no whole number of at least 1.
    """
    patience = _FOREVER if patience is None else check_integer("patience", patience, at_least=1)
    if steps < every:
        raise ValueError(f"steps: expected an epoch at least, {every} of them, as rows are held out, got {steps}")
    return HeldOut(held_out, every, patience)


class BatchOrder:
    """The row numbers of each step's batch: of one training, or of many side by side.

    They are drawn when they are asked for, in whole epochs, so that a long training holds few of them.

    Args:
        rows: how many rows to draw from, or which, by their numbers; one may be among them several times.
        batch_size: rows in a batch; None, or more than there are, takes all rows in every step.
        shuffle: a new permutation every epoch, or the rows as they lie.
        seed: of numpy's default generator.

    Attributes:
        rows: how many each training draws from.
        width: how many a step takes, those of all trainings together.
    """

    def __init__(
        self, rows: int | Int[np.ndarray, " rows"], *, batch_size: int | None, shuffle: bool, seed: int
    ) -> None:
        self.rows = rows if isinstance(rows, int) else len(rows)
        self.width = self._batch = _width(self.rows, batch_size)
        self._epoch = -(-self.rows // self._batch)  # steps in one
        numbers = None if isinstance(rows, int) else np.asarray(rows, np.int32)
        generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
        self._sources = [_Source(self.rows, numbers, shuffle, generator)]
        self._lead: tuple[int, ...] = ()
        self._left = np.empty((1, 0, self._batch), np.int32)  # drawn, and not taken

    @classmethod
    def stacked(cls, orders: Sequence["BatchOrder"]) -> "BatchOrder":
        """Returns the orders of many trainings as one, whose row numbers have an axis for them in front.

        Args:
            orders: alike in rows and batch size, and before their first step; they are used up.
        """
        stack = copy(orders[0])
        stack._sources = [source for order in orders for source in order._sources]
        stack._lead = (len(orders),)
        stack.width = len(orders) * stack._batch
        stack._left = np.empty((len(orders), 0, stack._batch), np.int32)
        return stack

    def take(self, steps: int) -> tuple[Int[np.ndarray, "*orders steps batch"], Bool[np.ndarray, "steps batch"]]:
        """Returns the row numbers of the next steps' batches, and a mask of those that count, one for all trainings.

        Every batch has the same width, so that only one shape is ever compiled: a short last batch is filled up with
        rows that its mask leaves out.
        """
        mask = np.ones((steps, self._batch), bool)
        short = self.rows - (self._epoch - 1) * self._batch
        mask[(self._left.shape[1] - 1) % self._epoch :: self._epoch, short:] = False
        self._draw(steps)
        index, self._left = self._left[:, :steps], self._left[:, steps:]
        return index.reshape(*self._lead, steps, self._batch), mask

    def skip(self, steps: int) -> None:
        """Leaves out the next steps, as if they had been taken."""
        while steps > 0:
            self._draw(min(steps, max(1, _AT_ONCE // self.width)))
            part = min(steps, self._left.shape[1])
            self._left, steps = self._left[:, part:], steps - part

    def _draw(self, steps: int) -> None:
        """Draws whole epochs until so many steps are there."""
        left = self._left.shape[1]
        epochs = -(-(steps - left) // self._epoch)
        if epochs <= 0:
            return
        drawn = np.empty((len(self._sources), left + epochs * self._epoch, self._batch), np.int32)
        drawn[:, :left] = self._left
        self._left = drawn

        def fill(numbers: np.ndarray) -> None:
            for number in numbers:
                self._sources[number].draw(drawn[number, left:].reshape(epochs, -1))

        count, cores = len(self._sources), count_cores()
        if count == 1 or cores == 1:
            fill(np.arange(count))
            return
        # numpy shuffles without Python's lock. Small parts, since Ctrl-C waits for those that have begun.
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(fill, np.array_split(np.arange(count), min(count, 8 * cores))))


class _Source(NamedTuple):
    """Where one training's epochs come from.

    Attributes:
        rows: how many there are.
        numbers: theirs; None counts them.
        shuffle: whether each epoch is a new permutation.
        generator: draws it.
    """

    rows: int
    numbers: Int[np.ndarray, " rows"] | None
    shuffle: bool
    generator: np.random.Generator

    def draw(self, epochs: Int[np.ndarray, "epochs padded"]) -> None:
        """Fills the next epochs, and what is over in each with the first row."""
        own = epochs[:, : self.rows]
        # numpy swaps 8 bytes quicker than 4, but a large table has no memory to spare.
        drawn = own if own.size > _AT_ONCE else np.empty(own.shape, np.int64)
        drawn[...] = np.arange(self.rows, dtype=drawn.dtype) if self.numbers is None else self.numbers
        first = int(drawn[0, 0])
        if self.shuffle:
            self.generator.permuted(drawn, axis=1, out=drawn)
        if drawn is not own:
            own[...] = drawn
        epochs[:, self.rows :] = first


def batch_order(
    rows: int, *, batch_size: int | None, steps: int, shuffle: bool, seed: int
) -> tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
    """Returns the batches of a whole training at once; the arguments are those of `BatchOrder` and its `take`."""
    return BatchOrder(rows, batch_size=batch_size, shuffle=shuffle, seed=seed).take(steps)


def _width(rows: int, batch_size: int | None) -> int:
    if batch_size is None:
        return rows
    return min(check_integer("batch_size", batch_size, at_least=1), rows)
