"""Where a training's batches come from: a table in memory, or one of files that is read meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.batches import HeldOut, choose_rows
from ..common.checks.arrays import check_batch
from ..common.stream.feed import open_stream
from ..common.stream.order import draw_order
from ..common.stream.table import ParquetTable
from .predict import dtype_of, to_tensors
from .processes import Share


@dataclass(frozen=True)
class TrainingRows:
    """The batches of one training.

    Args:
        order: draws the rows of each batch, or reads them.
        steps: how many to take at most.
        held_out: the rows that early stopping looks at, by their places in `watched`, or None.
        watched: the held-out rows, or the arrays that they are in; a function where they are read later.
        data: the table, of arrays or of files.
        share: which part of each batch this process takes.
        model: its device is where batches go.
        arrays: the table in memory, or None where `order` reads the rows.
    """

    order: Any
    steps: int
    held_out: HeldOut | None
    watched: Any
    data: Mapping[str, np.ndarray] | ParquetTable
    share: Share
    model: nn.Module
    arrays: Mapping[str, Tensor] | None

    def known_by(self) -> Any:
        """Returns what a checkpoint tells the data by: of files, their footers, and how many read them."""
        return self.data.fingerprint(self.share.process[1]) if isinstance(self.data, ParquetTable) else self.data

    @contextmanager
    def from_step(self, done: int) -> Iterator[None]:
        """Makes the batches after so many steps the next ones; a table of files is read inside this block."""
        self.order.skip(done)
        if self.arrays is not None:
            yield
            return
        with self.order:
            yield

    def next(self) -> dict[str, Tensor]:
        """Returns this process's rows of the next batch, and which of them count; alone, those that count."""
        if self.arrays is not None:
            return _batch(self.arrays, *self.share.rows(*(array[0] for array in self.order.take(1))))
        found, mask = self.order.take(1)
        batch = {name: array[0] for name, array in found.items()} | {"mask": mask[0]}
        if self.share.group is None and not mask.all():
            batch = {name: array[mask[0]] for name, array in batch.items()}
        device = next(self.model.parameters()).device
        return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}

    def validation(self) -> dict[str, Tensor]:
        """Returns this process's held-out rows, as a batch; nothing where there are none."""
        if self.held_out is None:
            return {}
        arrays = to_tensors(self.model, self.watched()) if self.arrays is None else self.arrays
        return _batch(arrays, *self.share.rows(self.held_out.rows, np.ones(len(self.held_out.rows), bool)))


def rows_of(data: Any, loss: Any, model: nn.Module, share: Share, **asked: Any) -> TrainingRows:
    """Returns the batches of a training; the other arguments are those of `fit`.

    Raises:
        ValueError: what `fit` refuses.
    """
    if isinstance(data, ParquetTable):
        stream = open_stream(data, loss, model, dtype=dtype_of(model), process=share.process, **asked)
        return TrainingRows(stream.feed, stream.steps, stream.held_out, stream.validation, data, share, model, None)
    table = check_batch(data, loss, dtype=dtype_of(model), whole=True, model=model)
    shuffle, seed = asked.pop("shuffle"), asked.pop("seed")
    chosen, held_out, steps = choose_rows(len(next(iter(table.values()))), **asked)
    order = draw_order(chosen, batch_size=asked["batch_size"], shuffle=shuffle, seed=seed)
    return TrainingRows(order, steps, held_out, None, table, share, model, to_tensors(model, table))


def _batch(arrays: Mapping[str, Tensor], index: np.ndarray, mask: np.ndarray) -> dict[str, Tensor]:
    """Returns the rows of these numbers, and which of them count."""
    device = next(iter(arrays.values())).device
    chosen = torch.tensor(index, device=device)
    return {name: array[chosen] for name, array in arrays.items()} | {"mask": torch.tensor(mask, device=device)}
