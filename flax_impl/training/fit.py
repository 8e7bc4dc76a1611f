"""Training as pure functions: one compiled step, and one compiled loop for a whole fit."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.checks.arrays import check_batch
from torch_ref.common.checks.divergence import check_losses, check_trained, check_watched
from torch_ref.common.files.checkpoints import check_checkpoint
from torch_ref.common.progress import Progress
from torch_ref.common.settings.optimizers import Adam, Optimizer, check_optimizer
from torch_ref.common.stream.order import WindowShuffle
from torch_ref.common.stream.table import ParquetTable

from ..models.layers import Params
from ..models.pure import Module, as_pure
from ..models.weights import to_numpy
from .checkpoints.settings import plan_settings
from .checkpoints.state import open_checkpoints
from .devices import Placement, raising_lost_peers
from .loop import Loss, dtype_of, take_step
from .losses import FactualLoss
from .plan import make_plan
from .precision import PRECISIONS
from .streams.plan import make_streamed_plan
from .traced_settings import as_pytree


def train_step(
    model: Module,
    params: Params,
    optimizer: Optimizer,
    opt_state: optax.OptState,
    batch: Mapping[str, Any],
    loss: Loss = FactualLoss(),
    precision: str = "float32",
) -> tuple[Params, optax.OptState, Float[Array, " outputs"]]:
    """Takes one step of the optimiser; returns the new parameters and optimiser state, and the losses before the step.

    Twin: `torch_ref.train_step`, which changes its model and its optimiser in place.

    Args:
        model: the model.
        params: its parameters.
        optimizer: settings of the optimiser; another learning rate compiles nothing.
        opt_state: the optimiser's state, at first `build_optimizer(optimizer).init(params)`.
        batch: arrays by the names that `loss` gives them: for `FactualLoss` x, t, y and perhaps w and mask.
        loss: takes the model and the batch by their names, and returns one number for each output, to be added. Give
            the same object, or one that is equal, for every step: each loss is compiled once.
        precision: as for `fit`.

    Returns:
        `(params, opt_state, losses)`: the new parameters, the optimiser's new state, and the losses [outputs] before
        the step, one for each output.

    Raises:
        ValueError: the batch is empty, or does not fit the loss or the model; an unknown precision.

    Example:
        >>> import flax_impl
        >>> model = flax_impl.TwoHead(3, [4], [4])
        >>> params, optimizer = model.init_params(seed=0), Adam(lr=0.01)
        >>> opt_state = flax_impl.training.build_optimizer(optimizer).init(params)
        >>> batch = {"x": np.zeros((4, 3)), "t": np.array([0, 1, 1, 0]), "y": np.ones((4, 1))}
        >>> params, opt_state, losses = train_step(model, params, optimizer, opt_state, batch)
        >>> losses.shape
        (2,)
    """
    check_choice("precision", precision, PRECISIONS)
    if not any(isinstance(array, Tracer) for array in batch.values()):  # in somebody's own jit there are no values yet
        batch = check_batch(batch, loss, dtype=dtype_of(params), whole=False, model=model)
    return take_step(as_pure(model), params, optimizer, opt_state, batch, as_pytree(loss), precision)


def fit(
    model: Module,
    params: Params,
    data: Mapping[str, Any] | ParquetTable,
    *,
    optimizer: Optimizer = Adam(),
    loss: Loss = FactualLoss(),
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    shuffle: bool | WindowShuffle = True,
    seed: int = 0,
    rows: Sequence[int] | Int[np.ndarray, " rows"] | None = None,
    validation_rows: Sequence[int] | Int[np.ndarray, " held_out"] | None = None,
    patience: int | None = None,
    precision: str = "float32",
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> tuple[Params, Float[np.ndarray, "steps outputs"]]:
    """Trains the parameters and returns them with the losses, step by step.

    The training is one compiled loop over batches that stay on the device, entered a few times a second so that
    progress shows and Ctrl-C is heard. Another call with the same model, kinds of loss and optimiser and batch size,
    and about as many rows, compiles nothing, whatever its data, seed, rates, weights and number of steps.

    Twin: `torch_ref.fit`, which changes its model in place and returns the losses only.

    Args:
        model: the model.
        params: its parameters to start from; they stay as they are.
        data: arrays by the names that `loss` gives them, one entry a row: for `FactualLoss` x, t, y and perhaps w; or a
            `ParquetTable` larger than memory, which is read while the model trains.
        optimizer: settings of the optimiser.
        loss: takes the model and a batch with its `mask`, and returns one number for each output, to be added.
        epochs: how often every row is seen; give this or `steps`.
        steps: how many steps the optimiser takes.
        batch_size: rows in a batch; None takes all rows in every step.
        shuffle: new batches in every epoch, or the rows as they lie; or the order that a `ParquetTable` is read in.
        seed: of the numpy generator that draws the batches.
        rows: the numbers of the rows to train on, some perhaps several times, as in a bootstrap; None takes all that
            are not held out.
        validation_rows: the numbers of rows to hold out. After each epoch the loss on them, its parts added, is looked
            at, and the parameters that did best are returned.
        patience: after how many epochs in a row without a better loss on them the training stops; None never stops it.
        precision: of the products: `"float32"` (all digits, whatever the device), `"tf32"` (11 bits where the device
            has them, for speed) or `"bfloat16"` (8 bits, in all that the model computes). Parameters, losses and the
            optimiser stay in the parameters' dtype.
        checkpoint: a folder of its own for this training. It keeps the last 3 checkpoints there, and the same call goes
            on from the last good one, to the same result; a finished training returns at once. None keeps none.
        every: steps between two checkpoints; None makes one about every 10 seconds, or fewer where writing takes long.
            The last step always makes one.
        progress: shows a bar, or plain lines, once the training takes long.
        mesh: devices to share the training, see `make_mesh`; None is one device. On several hosts every process calls
            `fit` with the same arguments and gets the same result.

    Returns:
        The parameters, and the losses [steps, outputs] before each step. With `validation_rows` the losses end where
        the training stopped, and a further column holds the loss on the held-out rows after each step that ended an
        epoch, NaN after the others; the parameters are those after its smallest.

    Raises:
        ValueError: the data is empty, damaged, or does not fit the loss or the model; an unknown precision; row numbers
            of no rows, or that are trained on and held out; checkpoints of another training, the message says in what,
            or that are all damaged, or a folder that another process trains in.
        OSError: a checkpoint cannot be written; those before it are whole.
        FloatingPointError: a loss became NaN or infinite; the message names the step.
        ConnectionError: another process of the mesh ended.

    Example:
        >>> import flax_impl
        >>> data = flax_impl.data.synthetic(rows=20, features=4).arrays()
        >>> model = flax_impl.TwoHead(4, [4], [4])
        >>> params, losses = fit(model, model.init_params(seed=0), data, steps=3, batch_size=10, progress=False)
        >>> losses.shape
        (3, 2)
    """
    check_optimizer(optimizer)
    check_choice("precision", precision, PRECISIONS)
    folder, every = check_checkpoint(checkpoint, every)
    asked: dict[str, Any] = {
        "optimizer": optimizer,
        "loss": loss,
        "rows": rows,
        "validation_rows": validation_rows,
        "patience": patience,
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": steps,
        "seed": seed,
        "shuffle": shuffle,
        "precision": precision,
    }
    place = Placement(mesh)
    if isinstance(data, ParquetTable):
        plan = make_streamed_plan(model, data, dtype=dtype_of(params), process=place.process, **asked)
    else:
        plan = make_plan(model, check_batch(data, loss, dtype=dtype_of(params), whole=True, model=model), **asked)
    texts = {} if folder is None else plan_settings(plan, params)
    with (
        raising_lost_peers(mesh),
        open_checkpoints(folder, every, texts, mesh) as checkpoints,
        Progress(plan.steps, progress) as report,
    ):

        def note(done: int, losses: np.ndarray, over: bool) -> None:
            parts = plan.parts(losses)
            check_losses(parts, done - len(losses), plan.steps)
            if not over:  # after a stop there are no losses
                report(done, parts[-1])

        params, losses, _ = plan.run(params, note, place, checkpoints=checkpoints)
    if plan.held_out is not None:
        check_watched(losses[:, -1])
    check_trained(to_numpy(params))
    return params, losses
