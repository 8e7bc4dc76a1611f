"""Which rows make up which step: drawn by numpy alone, so that both frameworks see the same rows in the same order."""

import numpy as np
from jaxtyping import Bool, Int

from .checks import check_integer


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


class BatchOrder:
    """The row numbers of each step's batch, drawn an epoch at a time, so that a long training holds one epoch only.

    Args:
        rows: the number of rows to draw from.
        batch_size: rows in a batch; None, or more than there are, takes all rows in every step.
        shuffle: a new permutation every epoch, or the rows as they lie.
        seed: of numpy's default generator.
    """

    def __init__(self, rows: int, *, batch_size: int | None, shuffle: bool, seed: int) -> None:
        self.rows, self.width, self.shuffle = rows, _width(rows, batch_size), shuffle
        self._generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
        self._left = np.empty((0, self.width), np.int32)  # of the epoch; -1 where a batch is filled up

    def take(self, steps: int) -> tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
        """Returns the row numbers of the next steps' batches, and a mask of those that count.

        Every batch has the same width, so that only one shape is ever compiled: a short last batch is filled up with
        rows that its mask leaves out.
        """
        index = np.empty((steps, self.width), np.int32)
        done = 0
        while done < steps:
            if not len(self._left):
                self._left = self._epoch()
            part = self._left[: steps - done]
            index[done : done + len(part)] = part
            self._left = self._left[len(part) :]
            done += len(part)
        mask = index >= 0
        return np.maximum(index, 0, out=index), mask

    def _epoch(self) -> Int[np.ndarray, "batches batch"]:
        epoch = np.arange(-(-self.rows // self.width) * self.width, dtype=np.int32)
        epoch[self.rows :] = -1
        if self.shuffle:
            self._generator.shuffle(epoch[: self.rows])
        return epoch.reshape(-1, self.width)


def batch_order(
    rows: int, *, batch_size: int | None, steps: int, shuffle: bool, seed: int
) -> tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
    """Returns the batches of a whole training at once; the arguments are those of `BatchOrder` and its `take`."""
    return BatchOrder(rows, batch_size=batch_size, shuffle=shuffle, seed=seed).take(steps)


def _width(rows: int, batch_size: int | None) -> int:
    if batch_size is None:
        return rows
    return min(check_integer("batch_size", batch_size, at_least=1), rows)
