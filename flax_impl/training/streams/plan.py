"""One training on a table of Parquet files, whose batches are read while the device computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from torch_ref.common.settings.optimizers import Optimizer
from torch_ref.common.stream.feed import Feed, open_stream
from torch_ref.common.stream.table import ParquetTable

from ...models.pure import Module, as_pure
from ..devices import Placement
from ..loop import Loss, Saving, loop_steps, run_slices
from ..plan import Plan
from ..traced_settings import as_pytree


class StreamedSlices:
    """Gives the rows of each slice's batches to the loop, which knows arrays [steps, numbers] only.

    Args:
        feed: reads the batches.
        columns: how many numbers a row has.
    """

    def __init__(self, feed: Feed, columns: int) -> None:
        self.feed, self.width = feed, feed.batch * columns
        self._shapes: dict[str, tuple[int, ...]] = {}

    def take(self, steps: int) -> tuple[np.ndarray, ...]:
        """Returns the mask and then the arrays of the next steps, each flat but for its first axis."""
        arrays, mask = self.feed.take(steps)
        self._shapes = {name: array.shape[1:] for name, array in arrays.items()}
        return (mask, *(array.reshape(steps, -1) for array in arrays.values()))

    def shaped(self, flat: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        """Returns arrays that were flat by name, [steps, batch, …]."""
        return {
            name: array.reshape(-1, *shape) for array, (name, shape) in zip(flat, self._shapes.items(), strict=True)
        }


@dataclass(frozen=True, kw_only=True)
class StreamedPlan(Plan):
    """What a training on a streamed table needs besides its first parameters.

    Args:
        source: the table of files; `order` is the feed that reads it, and `table` is empty.
        validation: reads the held-out rows.
        processes: how many share the rows.
    """

    source: ParquetTable
    validation: Callable[[], Mapping[str, np.ndarray]]
    processes: int

    def known_by(self) -> Any:
        """Returns what a checkpoint tells the data by: the footers, and how many processes read them."""
        return self.source.fingerprint(self.processes)

    def train(
        self, state: Any, note: Any, place: Placement, placed: Mapping[str, Array], saving: Saving | None
    ) -> tuple[Any, np.ndarray]:
        """Takes the steps from a state on; a slice's batches are read and placed while the one before is computed."""
        validation = None if self.held_out is None else place.whole(self.validation())
        with self.order as feed:
            feed.skip(0 if saving is None else saving.done)
            slices = StreamedSlices(feed, self.source.width)

            def put(mask: np.ndarray, *flat: np.ndarray) -> tuple[Any, ...]:
                table = {name: place.share(array) for name, array in slices.shaped(flat).items()}
                return table, place.whole(np.arange(len(mask), dtype=np.int32)), place.share(mask)

            def advance(state: Any, table: Any, index: Array, mask: Array, span: Any) -> Any:
                return loop_steps(
                    self.model, state, self._optimizer, table, index, mask, span, self.loss, self.precision,
                    self.held_out, validation=validation,
                )  # fmt: skip

            return run_slices(advance, state, slices, put, self.steps, note, saving, place.agree)


def make_streamed_plan(
    model: Module,
    table: ParquetTable,
    *,
    optimizer: Optimizer,
    loss: Loss,
    dtype: str,
    precision: str,
    process: tuple[int, int],
    **asked: Any,
) -> StreamedPlan:
    """Returns the plan of a training on a table of files; the arguments are those of `fit` and of `open_stream`.

    Raises:
        ValueError: what `open_stream` refuses.
    """
    stream = open_stream(table, loss, model, dtype=dtype, process=process, **asked)
    settings = {**asked, "model": model, "loss": loss, "optimizer": optimizer, "steps": stream.steps}
    settings |= {"precision": precision}
    settings.pop("epochs")
    return StreamedPlan(
        as_pure(model), {}, optimizer, as_pytree(loss), stream.feed, stream.held_out, stream.steps, precision,
        settings, source=table, validation=stream.validation, processes=process[1],
    )  # fmt: skip
