"""Training, written as the article writes it: forward, both losses, backward, step."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..common.checks.arguments import check_choice
from ..common.checks.arrays import check_batch
from ..common.checks.divergence import check_losses, check_trained, check_watched
from ..common.files.checkpoints import check_checkpoint
from ..common.files.settings_text import model_text, training_settings
from ..common.progress import Progress
from ..common.settings.optimizers import Adam, Optimizer, check_optimizer
from ..common.stream.order import WindowShuffle
from ..common.stream.table import ParquetTable
from ..models.weights import to_numpy
from .build import averaged, build_scheduled, showing
from .checkpoints.state import Training, open_checkpoints, pack, unpack
from .early_stopping import Watch
from .losses import FactualLoss
from .precision import PRECISIONS, matmul_precision
from .predict import dtype_of, to_tensors
from .processes import Share
from .rows import rows_of

Loss = Callable[..., tuple[Tensor, ...]]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Any],
    loss: Loss = FactualLoss(),
    precision: str = "float32",
) -> Float[Tensor, " outputs"]:
    """Takes one step of the optimiser and returns the losses before it.

    Twin: `flax_impl.train_step`, which is pure: parameters and optimiser state go in and come out.

    Args:
        model: the model; its parameters change.
        optimizer: as `build_optimizer` makes it from the model's parameters.
        batch: arrays by the names that `loss` gives them: for `FactualLoss` x, t, y and perhaps w and mask.
        loss: takes the model and the batch by their names, and returns one number for each output, to be added.
        precision: as for `fit`.

    Returns:
        The losses [outputs] before the step, one for each output.

    Raises:
        ValueError: the batch is empty, or does not fit the loss or the model; an unknown precision.

    Example:
        >>> import torch_ref
        >>> model = torch_ref.TwoHead(3, [4], [4])
        >>> optimizer = torch_ref.training.build_optimizer(Adam(lr=0.01), model.parameters())
        >>> batch = {"x": np.zeros((4, 3)), "t": np.array([0, 1, 1, 0]), "y": np.ones((4, 1))}
        >>> losses = train_step(model, optimizer, batch)
        >>> losses.shape
        torch.Size([2])
    """
    check_choice("precision", precision, PRECISIONS)
    tensors = to_tensors(model, check_batch(batch, loss, dtype=dtype_of(model), whole=False, model=model))
    with Share(None).over(model, loss) as losses_of:
        return _step(model, optimizer, tensors, losses_of, precision)


def fit(
    model: nn.Module,
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
    process_group: dist.ProcessGroup | None = None,
) -> Float[np.ndarray, "steps outputs"]:
    """Trains the model and returns its losses, step by step.

    Twin: `flax_impl.fit`, one compiled loop, which takes parameters and returns the trained ones with the losses.

    Args:
        model: the model; its parameters change.
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
            has them, for speed) or `"bfloat16"` (8 bits, by autocast). Parameters, losses and the optimiser stay in the
            parameters' dtype.
        checkpoint: a folder of its own for this training. It keeps the last 3 checkpoints there, and the same call goes
            on from the last good one, to the same result; a finished training returns at once. None keeps none.
        every: steps between two checkpoints; None makes one about every 10 seconds, or fewer where writing takes long.
            The last step always makes one.
        progress: shows a bar, or plain lines, once the training takes long.
        process_group: processes to share the training by DistributedDataParallel, such as
            `torch.distributed.group.WORLD`; None is this process alone. Every process calls `fit` with the same
            arguments, and gets the same losses and weights.

    Returns:
        The losses [steps, outputs] before each step. With `validation_rows` the losses end where
        the training stopped, and a further column holds the loss on the held-out rows after each step that ended an
        epoch, NaN after the others; the model is the one after its smallest.

    Raises:
        ValueError: the data is empty, damaged, or does not fit the loss or the model; an unknown precision; row numbers
            of no rows, or that are trained on and held out; checkpoints of another training, the message says in what,
            or that are all damaged, or a folder that another process trains in.
        OSError: a checkpoint cannot be written; those before it are whole.
        FloatingPointError: a loss became NaN or infinite; the message names the step.
        ConnectionError: another process of the group ended.

    Example:
        >>> import torch_ref
        >>> data = torch_ref.data.synthetic(rows=20, features=4).arrays()
        >>> model = torch_ref.TwoHead(4, [4], [4])
        >>> losses = fit(model, data, steps=3, batch_size=10, progress=False)
        >>> losses.shape
        (3, 2)
    """
    check_optimizer(optimizer)
    check_choice("precision", precision, PRECISIONS)
    folder, every = check_checkpoint(checkpoint, every)
    share = Share(process_group)
    asked: dict[str, Any] = {
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed,
        "rows": rows,
        "validation_rows": validation_rows,
        "patience": patience,
    }
    batches = rows_of(data, loss, model, share, epochs=epochs, steps=steps, **asked)
    steps, held_out = batches.steps, batches.held_out
    texts = {}
    if folder is not None:
        asked |= {"model": model_text(model, _layout(model)), "loss": loss, "optimizer": optimizer, "steps": steps}
        asked |= {"precision": precision, "dtype": dtype_of(model)}
        texts = training_settings(to_numpy(model), batches.known_by(), **asked)
    built, scheduler = build_scheduled(optimizer, model.parameters())
    average = averaged(optimizer, model)
    judged: Any = model if average is None else average.module
    watch = None if held_out is None else Watch(model)
    state = Training(model, built, scheduler, average, watch, share)
    known, losses, seen = [], [], []
    with (
        share.over(model, loss) as losses_of,
        open_checkpoints(folder, every, texts, share) as checkpoints,
        Progress(steps, progress) as report,
    ):

        def held_out_loss(validation: Mapping[str, Tensor]) -> Tensor:
            with showing(average, model):
                return share.mean(torch.stack(losses_of(validation)).sum())

        def history() -> np.ndarray:
            new = [share.mean(torch.stack(losses)).cpu().numpy()] if losses else []
            taken = np.concatenate([*known, *new])
            check_losses(taken, 0, steps)
            return taken if watch is None else np.column_stack([taken, np.asarray(seen, taken.dtype)])

        done = 0
        if checkpoints is not None and checkpoints.found is not None:
            done, (_, before) = checkpoints.found.step, unpack(state, checkpoints.found.arrays)
            known = [before if watch is None else before[:, :-1]]  # means over the processes already
            seen += [] if watch is None else before[:, -1].tolist()
        over = done == steps or (watch is not None and watch.ended > 0)
        with nullcontext() if over else batches.from_step(done):
            validation = {} if over else batches.validation()
            while not over:
                losses.append(_step(model, built, batches.next(), losses_of, precision))
                done += 1
                if average is not None:
                    average.update_parameters(model)
                report(done, losses[-1])
                if watch is not None and held_out is not None:
                    seen.append(watch.look(judged, partial(held_out_loss, validation), done, held_out))
                over = done == steps or (watch is not None and watch.ended > 0)
                if checkpoints is not None and (over or checkpoints.due(done)):
                    checkpoints.save(done, lambda: pack(state, history()), finished=over)
        taken = history()
    if watch is not None:
        check_watched(np.asarray(seen))
        model.load_state_dict(watch.params)
    elif judged is not model:
        model.load_state_dict(judged.state_dict())
    check_trained(to_numpy(model))
    return taken


def _layout(model: nn.Module) -> dict[str, Any]:
    """Returns the class of each module in a model, and the plain settings that it holds."""
    plain = (bool, int, float, str, tuple, list, type(None))
    return {
        name: (type(of), {key: value for key, value in vars(of).items() if key[0] != "_" and isinstance(value, plain)})
        for name, of in model.named_modules()
    }


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    losses_of: Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]],
    precision: str,
) -> Float[Tensor, " outputs"]:
    with matmul_precision(precision, next(iter(batch.values())).device.type):
        losses = losses_of(batch)
        optimizer.zero_grad()
        torch.autograd.backward(losses)  # the article's loss0.backward(), loss1.backward(), in one walk
    for parameter in model.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # a loss that never used it: no gradient is a gradient of zero
    optimizer.step()
    return torch.stack(losses).detach()
