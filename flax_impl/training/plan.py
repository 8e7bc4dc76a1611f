"""One training, checked and ready to run: `fit` runs one plan, `fit_replicas` many."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Float

from torch_ref.common.batches import HeldOut, choose_rows
from torch_ref.common.files.checkpoints import KeepsCheckpoints
from torch_ref.common.settings.optimizers import Optimizer
from torch_ref.common.stream.order import WindowShuffle, draw_order

from ..models.layers import Params
from ..models.pure import Module, Pure, as_pure
from .build import averaged
from .checkpoints.saving import make_saving
from .checkpoints.state import pack, unpack
from .devices import Placement
from .early_stopping import begin
from .loop import Loss, Saving, init_state, loop_steps, run_slices
from .traced_settings import as_pytree, without_idle_decay


@dataclass(frozen=True)
class Plan:
    """What one training needs besides its first parameters.

    Args:
        model: the model.
        table: the data, checked, in the parameters' dtype.
        optimizer: settings of the optimiser.
        loss: what is minimised, a pytree.
        order: draws the rows of each batch, a `RowOrder` that can skip steps.
        held_out: the rows that early stopping looks at, or None.
        steps: how many to take at most.
        precision: of the products.
        settings: the arguments of `make_plan` that say which training it is.
    """

    model: Pure
    table: Mapping[str, np.ndarray]
    optimizer: Optimizer
    loss: Loss
    order: Any
    held_out: HeldOut | None
    steps: int
    precision: str
    settings: Mapping[str, Any]

    @property
    def _optimizer(self) -> Optimizer:
        return without_idle_decay(self.optimizer)

    def parts(self, losses: np.ndarray) -> np.ndarray:
        """Returns the losses without the column that held-out rows add."""
        return losses if self.held_out is None else losses[..., :-1]

    def known_by(self) -> Any:
        """Returns what a checkpoint tells the data by."""
        return self.table

    def run(
        self,
        params: Params,
        note: Callable[[int, np.ndarray, bool], None],
        place: Placement,
        placed: Mapping[str, Array] | None = None,
        checkpoints: KeepsCheckpoints | None = None,
    ) -> tuple[Params, Float[np.ndarray, "steps columns"], int]:
        """Trains; returns the parameters (the best, where rows are held out), the losses, and the steps taken.

        Args:
            params: to start from; they stay as they are.
            note: gets the number of steps done, their new losses, and whether the training stops here.
            place: where arrays are put.
            placed: arrays of the table that are in place already.
            checkpoints: where the training goes on from, and what it writes to.
        """
        start = place.whole(params)
        watch = None if self.held_out is None else place.whole(begin(start), copy=False)
        state = (start, place.whole(init_state(self._optimizer, start), copy=False), watch)
        saving = None
        if checkpoints is not None:
            before = None
            if checkpoints.found is not None:
                state, before = unpack(state, checkpoints.found.arrays)
                state = place.whole(state)
            saving = make_saving(checkpoints, before, pack)
        if saving is not None and saving.ended is not None:
            losses = saving.ended
        else:
            state, losses = self.train(state, note, place, placed or {}, saving)
        params, opt_state, watch = place.home(state)
        if watch is None:
            return averaged(opt_state, params), losses, len(losses)
        steps = int(watch.ended) or len(losses)
        return watch.params, losses[:steps], steps

    def train(
        self, state: Any, note: Any, place: Placement, placed: Mapping[str, Array], saving: Saving | None
    ) -> tuple[Any, np.ndarray]:
        """Takes the steps from a state on; arguments and result are those of `run` and `run_slices`."""
        table = {name: placed[name] if name in placed else place.table(array) for name, array in self.table.items()}

        def put(index: np.ndarray, mask: np.ndarray) -> tuple[Array, Array]:
            return place.batches(index), place.batches(mask)

        def advance(state: Any, index: Array, mask: Array, span: Any) -> Any:
            return loop_steps(
                self.model, state, self._optimizer, table, index, mask, span, self.loss, self.precision, self.held_out
            )

        self.order.skip(0 if saving is None else saving.done)
        return run_slices(advance, state, self.order, put, self.steps, note, saving, place.agree)


def make_plan(
    model: Module,
    table: Mapping[str, np.ndarray],
    *,
    optimizer: Optimizer,
    loss: Loss,
    rows: Any,
    validation_rows: Any,
    patience: int | None,
    batch_size: int | None,
    epochs: int | None,
    steps: int | None,
    seed: int,
    shuffle: bool | WindowShuffle = True,
    precision: str = "float32",
) -> Plan:
    """Returns the plan of a training; the arguments are those of `fit`, checked already.

    Raises:
        ValueError: row numbers or lengths that `fit` refuses.
    """
    total = len(next(iter(table.values())))
    chosen, held_out, steps = choose_rows(
        total,
        rows=rows,
        validation_rows=validation_rows,
        patience=patience,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
    )
    order = draw_order(chosen, batch_size=batch_size, shuffle=shuffle, seed=seed)
    settings = {
        "model": model, "loss": loss, "optimizer": optimizer, "steps": steps, "batch_size": batch_size,
        "shuffle": shuffle, "seed": seed, "rows": rows, "validation_rows": validation_rows, "patience": patience,
        "precision": precision,
    }  # fmt: skip
    return Plan(as_pure(model), table, optimizer, as_pytree(loss), order, held_out, steps, precision, settings)
