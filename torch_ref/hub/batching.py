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


def batch_order(
    rows: int, *, batch_size: int | None, steps: int, shuffle: bool, seed: int
) -> tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
    """Returns the row numbers of each step's batch, and a mask of those that count.

    Every batch has the same width, so that only one shape is ever compiled: a short last batch is filled up with rows
    that its mask leaves out.

    Args:
        rows: the number of rows to draw from.
        batch_size: rows in a batch; None, or more than there are, takes all rows in every step.
        steps: the number of batches; the last epoch is cut where they end.
        shuffle: a new permutation every epoch, or the rows as they lie.
        seed: of numpy's default generator.
    """
    width = _width(rows, batch_size)
    batches = -(-rows // width)
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    index = np.zeros((-(-steps // batches), batches * width), np.int32)
    for epoch in index:
        epoch[:rows] = generator.permutation(rows) if shuffle else np.arange(rows)
    mask = np.broadcast_to(np.arange(batches * width) < rows, index.shape)
    return index.reshape(-1, width)[:steps], mask.reshape(-1, width)[:steps]


def _width(rows: int, batch_size: int | None) -> int:
    if batch_size is None:
        return rows
    return min(check_integer("batch_size", batch_size, at_least=1), rows)
