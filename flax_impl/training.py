"""Training as pure functions: one compiled step, and one compiled loop for a whole fit."""

import time
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
from .hub.checks import (
    check_batch,
    check_data,
    check_inputs,
    check_integer,
    check_losses,
    check_optimizer,
    check_outputs,
    check_trained,
)
from .hub.progress import Progress
from .layers import Params
from .losses import FactualLoss
from .optimizers import Adam, Optimizer
from .weights import to_numpy

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
        loss: takes the model and the batch by their names, and returns one number for each output, to be added. Give
            the same object, or one that is equal, for every step: each loss is compiled once.

    Raises:
        ValueError: the batch is empty, or does not fit the loss or the model.
    """
    if not any(isinstance(array, Tracer) for array in batch.values()):  # in somebody's own jit there are no values yet
        batch = check_batch(batch, loss, dtype=_dtype(params), whole=False)
    return _step(model, params, optimizer, opt_state, batch, loss)


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

    The training is one compiled loop over batches that stay on the device, entered a few times a second so that
    progress shows and Ctrl-C is heard. Another call with the same model, loss, rows and batch size compiles nothing,
    whatever its data, seed, learning rate and number of steps.

    Twin: `torch_ref.fit`, which changes its model in place and returns the losses only.

    Args:
        model: the model.
        params: its parameters to start from; they stay as they are.
        data: arrays by the names that `loss` gives them, one entry a row: for `FactualLoss` x, t, y and perhaps w.
        optimizer: settings of the optimiser.
        loss: takes the model and a batch with its `mask`, and returns one number for each output, to be added.
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
    check_optimizer(optimizer, Optimizer)
    arrays = {k: jnp.asarray(v) for k, v in check_batch(data, loss, dtype=_dtype(params), whole=True).items()}
    rows = len(next(iter(arrays.values())))
    steps = count_steps(rows, batch_size, epochs, steps)
    index, mask = batch_order(rows, batch_size=batch_size, steps=steps, shuffle=shuffle, seed=seed)
    width = _slice_width(index.shape[1])
    state, history = (params, _init(optimizer, params)), []
    done, count = 0, 1
    with Progress(steps, progress) as report:
        while done < steps:
            count = min(count, steps - done)
            chosen = (_padded(order[done : done + count], width) for order in (index, mask))
            began = time.monotonic()
            state, losses = _loop(model, state, optimizer, arrays, *chosen, count, loss)
            history.append(np.asarray(losses)[:count])
            check_losses(history[-1], done, steps)
            done += count
            report(done, history[-1][-1])
            if time.monotonic() - began < _SLICE_SECONDS:
                count = min(2 * count, width)
    check_trained(to_numpy(state[0]))
    return state[0], np.concatenate(history)


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
        FloatingPointError: an output is not finite.
    """
    batch_size = check_integer("batch_size", batch_size, at_least=1)
    names = check_inputs(model.__call__, inputs)
    arrays = check_data(dict(zip(names, inputs, strict=True)), names, dtype=_dtype(params))
    parts = []
    for start in range(0, len(arrays[names[0]]), batch_size):
        outputs = _apply(model, params, *(arrays[name][start : start + batch_size] for name in names))
        parts.append((outputs,) if isinstance(outputs, Array) else outputs)
    return check_outputs([np.concatenate(outputs) for outputs in zip(*parts, strict=True)])


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


# A slice of the loop is as many steps as take about this long: a blink for the user, an age for the device.
_SLICE_SECONDS = 0.1


def _slice_width(batch_size: int) -> int:
    """Returns how many steps a slice may have: as many as the order of their rows takes little memory for."""
    return max(1, min(1024, 2**20 // batch_size))


def _padded(order: np.ndarray, width: int) -> np.ndarray:
    return np.pad(order, ((0, width - len(order)), (0, 0)))


@partial(jax.jit, static_argnames=("model", "loss"))
def _loop(
    model: nn.Module,
    state: tuple[Params, optax.OptState],
    optimizer: Optimizer,
    data: Mapping[str, Array],
    index: Int[Array, "width batch"],
    mask: Bool[Array, "width batch"],
    count: Int[Array, ""],
    loss: Loss,
) -> tuple[tuple[Params, optax.OptState], Float[Array, "width outputs"]]:
    """Takes the first `count` of the steps that `index` holds batches for, and returns their losses.

    The count is a value and not a shape, which `lax.scan` would make it: another number of steps compiles nothing.
    """

    def step(i: Int[Array, ""], state: tuple[Params, optax.OptState]) -> Any:
        batch = {name: array[index[i]] for name, array in data.items()} | {"mask": mask[i]}
        params, opt_state, losses = _step(model, state[0], optimizer, state[1], batch, loss)
        return (params, opt_state), losses

    def body(i: Int[Array, ""], carry: Any) -> Any:
        state, losses = carry
        state, found = step(i, state)
        return state, losses.at[i].set(found)

    _, found = jax.eval_shape(step, jnp.zeros((), jnp.int32), state)
    return jax.lax.fori_loop(0, count, body, (state, jnp.zeros((len(index), *found.shape), found.dtype)))


@jax.jit
def _init(optimizer: Optimizer, params: Params) -> optax.OptState:
    return optimizer.build().init(params)


@partial(jax.jit, static_argnames="model")
def _apply(model: nn.Module, params: Params, *inputs: Array) -> Any:
    return model.apply({"params": params}, *inputs)


def _dtype(params: Params) -> str:
    return jax.tree.leaves(params)[0].dtype.name
