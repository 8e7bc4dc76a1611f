"""Training as pure functions: one compiled step, and one compiled program for a whole fit."""

import inspect
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from .hub.batching import batch_order, count_steps
from .hub.checks import check_data, check_integer, check_losses
from .hub.progress import Progress
from .layers import Params
from .losses import FactualLoss
from .optimizers import Adam, Optimizer

Loss = Callable[..., tuple[Array, ...]]


def train_step(
    model: nn.Module,
    params: Params,
    optimizer: Optimizer,
    opt_state: optax.OptState,
    batch: Mapping[str, Any],
    loss: Loss = FactualLoss(),
) -> tuple[Params, optax.OptState, Float[Array, " outputs"]]:
    """Takes one step of the optimiser; returns the new parameters and optimiser state, and the losses before the step.

    Twin: `torch_ref.train_step`, which changes its model and its optimiser in place.

    Args:
        model: the model.
        params: its parameters.
        optimizer: settings of the optimiser; another learning rate compiles nothing.
        opt_state: the optimiser's state, at first `optimizer.build().init(params)`.
        batch: arrays by the names that `loss` gives them: for `FactualLoss` x, t, y and perhaps w and mask.
        loss: takes the model and the batch, and returns one number for each output, to be added. Give the same object,
            or one that is equal, for every step: each loss is compiled once.

    Raises:
        ValueError: the batch is empty, or does not fit the loss or the model.
    """
    return _step(model, params, optimizer, opt_state, _arrays(params, _checked(batch, loss)), loss)


def fit(
    model: nn.Module,
    params: Params,
    data: Mapping[str, Any],
    *,
    optimizer: Optimizer = Adam(),
    loss: Loss = FactualLoss(),
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Params, Float[np.ndarray, "steps outputs"]]:
    """Trains the parameters and returns them with the losses, step by step.

    The whole training is one compiled `lax.scan` over batches that stay on the device. Another call with the same
    model, loss and shapes compiles nothing, whatever its data, seed and learning rate.

    Twin: `torch_ref.fit`, which changes its model in place and returns the losses only.

    Args:
        model: the model.
        params: its parameters to start from; they stay as they are.
        data: arrays by the names that `loss` gives them, one entry a row: for `FactualLoss` x, t, y and perhaps w.
        optimizer: settings of the optimiser.
        loss: takes the model and a batch, and returns one number for each output, to be added.
        epochs: how often every row is seen; give this or `steps`.
        steps: how many steps the optimiser takes.
        batch_size: rows in a batch; None takes all rows in every step.
        shuffle: new batches in every epoch, or the rows as they lie.
        seed: of the numpy generator that draws the batches.
        progress: shows a bar, or plain lines, once the training takes long.

    Raises:
        ValueError: the data is empty, or does not fit the loss or the model.
        FloatingPointError: a loss became NaN or infinite; the message names the step.
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer: expected settings such as Adam(lr=0.001), got {optimizer!r}")
    arrays = _arrays(params, _checked(data, loss, leave_out="mask"))
    rows = len(next(iter(arrays.values())))
    steps = count_steps(rows, batch_size, epochs, steps)
    index, mask = batch_order(rows, batch_size=batch_size, steps=steps, shuffle=shuffle, seed=seed)
    with Progress(steps, progress) as report:
        ticket = next(_tickets)
        _reports[ticket] = report
        try:
            every = max(1, steps // 100)
            params, losses = _scan(model, params, optimizer, arrays, index, mask, loss, progress, ticket, every)
            history = np.asarray(losses)
            jax.effects_barrier()  # the last reports are in before the bar closes
        finally:
            del _reports[ticket]
    check_losses(history)
    return params, history


def predict(model: nn.Module, params: Params, *inputs: Any, batch_size: int = 65_536) -> tuple[np.ndarray, ...]:
    """Returns the model's outputs for all rows of its inputs: for a two-head model `(y0, y1)`.

    Twin: `torch_ref.predict`, whose model holds its parameters.

    Args:
        model: the model.
        params: its parameters.
        inputs: what the model is called with, each [rows, features].
        batch_size: how many rows go through at a time.

    Raises:
        ValueError: an input is empty, holds NaN or infinity, or does not fit the model.
    """
    check_integer("batch_size", batch_size, at_least=1)
    names = list(inspect.signature(model.__call__).parameters)[: len(inputs)]
    arrays = _arrays(params, check_data(dict(zip(names, inputs, strict=True)), names))
    rows = len(arrays[names[0]])
    parts = []
    for start in range(0, rows, batch_size):
        outputs = _apply(model, params, *(arrays[name][start : start + batch_size] for name in names))
        parts.append((outputs,) if isinstance(outputs, Array) else outputs)
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


@partial(jax.jit, static_argnames=("model", "loss"))
def _step(
    model: nn.Module,
    params: Params,
    optimizer: Optimizer,
    opt_state: optax.OptState,
    batch: Mapping[str, Array],
    loss: Loss,
) -> tuple[Params, optax.OptState, Float[Array, " outputs"]]:
    def total(params: Params) -> tuple[Float[Array, ""], Float[Array, " outputs"]]:
        losses = jnp.stack(loss(partial(model.apply, {"params": params}), **batch))
        return losses.sum(), losses

    gradients, losses = jax.grad(total, has_aux=True)(params)
    updates, opt_state = optimizer.build().update(gradients, opt_state, params)
    moved: Any = optax.apply_updates(params, updates)
    return moved, opt_state, losses


@partial(jax.jit, static_argnames=("model", "loss", "progress"))
def _scan(
    model: nn.Module,
    params: Params,
    optimizer: Optimizer,
    data: Mapping[str, Array],
    index: Int[Array, "steps batch"],
    mask: Bool[Array, "steps batch"],
    loss: Loss,
    progress: bool,
    ticket: Int[Array, ""],
    report_every: Int[Array, ""],
) -> tuple[Params, Float[Array, "steps outputs"]]:
    def body(state: tuple[Params, optax.OptState], chosen: tuple[Array, Array, Array]) -> Any:
        params, opt_state = state
        step, rows, mask = chosen
        batch = {name: array[rows] for name, array in data.items()} | {"mask": mask}
        params, opt_state, losses = _step(model, params, optimizer, opt_state, batch, loss)
        if progress:
            due = (step + 1) % report_every == 0
            jax.lax.cond(due, lambda: jax.debug.callback(_report, ticket, step + 1, losses), lambda: None)
        return (params, opt_state), losses

    start = (params, optimizer.build().init(params))
    (params, _), losses = jax.lax.scan(body, start, (jnp.arange(len(index)), index, mask))
    return params, losses


# A compiled program calls back by number, since the bar of one fit must not become part of it.
_tickets = itertools.count()
_reports: dict[int, Progress] = {}


def _report(ticket: Array, step: Array, losses: Array) -> None:
    _reports[int(ticket)](int(step), [float(loss) for loss in losses])


@partial(jax.jit, static_argnames="model")
def _apply(model: nn.Module, params: Params, *inputs: Array) -> Any:
    return model.apply({"params": params}, *inputs)


def _checked(data: Mapping[str, Any], loss: Loss, leave_out: str = "") -> Mapping[str, Any]:
    """Returns the data on the host, checked against the arguments of the loss, but for the model and one left out.

    Inside somebody's own `jit` there are no values to check, and the data is returned as it is.
    """
    if any(isinstance(array, Tracer) for array in data.values()):
        return data
    _, *arguments = inspect.signature(loss).parameters.values()
    arguments = [argument for argument in arguments if argument.name != leave_out]
    required = [argument.name for argument in arguments if argument.default is argument.empty]
    optional = [argument.name for argument in arguments if argument.default is not argument.empty]
    return check_data(data, required, optional)


def _arrays(params: Params, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the arrays on the device, in the parameters' dtype, but for the treatment and the mask."""
    like = jax.tree.leaves(params)[0]
    dtypes = {"t": jnp.int32, "mask": jnp.bool_}
    return {name: jnp.asarray(array, dtypes.get(name, like.dtype)) for name, array in arrays.items()}
