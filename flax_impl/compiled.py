"""The compiled programs of a training: a step, a loop of steps, and the model's outputs."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from .functional import Module, Pure, functional
from .hub.batching import HeldOut
from .hub.checks import check_data, check_inputs, check_outputs
from .layers import Params
from .optimizers import Optimizer
from .precision import lowered, matmul_precision
from .stopping import Watch

Loss = Callable[..., tuple[Array, ...]]
State = tuple[Params, optax.OptState, Watch | None]


def cache_compilations(folder: str | os.PathLike[str]) -> None:
    """Keeps what is compiled from now on in a folder, where the next process finds it; call it before anything else.

    JAX itself keeps only what takes a second to compile, and a training takes less.

    Args:
        folder: where to keep it; it is made if it is not there.

    Raises:
        OSError: the folder cannot be made.

    Example:
        >>> import tempfile
        >>> before = jax.config.jax_compilation_cache_dir
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache_compilations(folder)
        ...     jax.config.jax_compilation_cache_dir == str(Path(folder).resolve())
        True
        >>> jax.config.update("jax_compilation_cache_dir", before)
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@partial(jax.jit, static_argnames=("model", "precision"))
def step(
    model: Pure,
    params: Params,
    optimizer: Optimizer,
    opt_state: optax.OptState,
    batch: Mapping[str, Array],
    loss: Loss,
    precision: str,
) -> tuple[Params, optax.OptState, Float[Array, " outputs"]]:
    """Takes one step; returns the new parameters and optimiser state, and the losses before the step."""

    def total(params: Params) -> tuple[Float[Array, ""], Float[Array, " outputs"]]:
        losses = _losses(model, params, batch, loss, precision)
        return losses.sum(), losses

    with matmul_precision(precision):
        gradients, losses = jax.grad(total, has_aux=True)(params)
    updates, opt_state = optimizer.build().update(gradients, opt_state, params)
    moved: Any = optax.apply_updates(params, updates)
    return moved, opt_state, losses


@partial(jax.jit, static_argnames=("model", "precision", "axis"), donate_argnames="state")
def loop(
    model: Pure,
    state: State,
    optimizer: Optimizer,
    table: Mapping[str, Array],
    index: Int[Array, "width batch"],
    mask: Bool[Array, "width batch"],
    span: tuple[Int[Array, ""], Int[Array, ""]],
    loss: Loss,
    precision: str,
    held_out: HeldOut | None = None,
    axis: str | None = None,
) -> tuple[State, Float[Array, "width outputs"], Bool[Array, ""]]:
    """Takes the steps of a slice until it ends or early stopping does; returns their losses, and whether it did.

    The number of steps is a value and not a shape, which `lax.scan` would make it: another one compiles nothing.

    Args:
        model: the model.
        state: parameters, the optimiser's state, and the watch of an early stopping or None.
        optimizer: settings of the optimiser.
        table: the data.
        index: the rows of each step's batch.
        mask: which of them count.
        span: how many steps were taken before, and how many of `index` to take.
        loss: what is minimised.
        precision: of the products.
        held_out: the rows to watch; their loss is a further column, NaN after the steps without a look.
        axis: along which replicas lie, which stop together.
    """
    before, count = span

    def loss_of(params: Params, rows: Int[Array, " held_out"]) -> Float[Array, ""]:
        batch = {name: array[rows] for name, array in table.items()} | {"mask": jnp.ones(len(rows), bool)}
        with matmul_precision(precision):
            return _losses(model, params, batch, loss, precision).sum()

    def take(i: Int[Array, ""], state: State) -> tuple[State, Float[Array, " outputs"]]:
        batch = {name: array[index[i]] for name, array in table.items()} | {"mask": mask[i]}
        params, opt_state, losses = step(model, state[0], optimizer, state[1], batch, loss, precision)
        if held_out is None or state[2] is None:
            return (params, opt_state, None), losses
        watch, seen = state[2].look(params, loss_of, before + i + 1, held_out)
        return (params, opt_state, watch), jnp.append(losses, seen)

    def over(state: State) -> Bool[Array, ""]:
        return jnp.zeros((), bool) if state[2] is None else state[2].over(axis)

    def going(carry: Any) -> Bool[Array, ""]:
        return (carry[0] < count) & ~over(carry[1])

    def body(carry: Any) -> Any:
        i, state, losses = carry
        state, found = take(i, state)
        return i + 1, state, losses.at[i].set(found)

    start = jnp.zeros((), jnp.int32)
    _, found = jax.eval_shape(take, start, state)
    losses = jnp.zeros((len(index), *found.shape), found.dtype)
    _, state, losses = jax.lax.while_loop(going, body, (start, state, losses))
    return state, losses, over(state)


def _losses(model: Pure, params: Params, batch: Mapping[str, Array], loss: Loss, precision: str) -> Array:
    return jnp.stack(loss(partial(lowered(model.apply, precision), {"params": params}), **batch))


@jax.jit
def init(optimizer: Optimizer, params: Params) -> optax.OptState:
    """Returns the optimiser's state before the first step."""
    return optimizer.build().init(params)


@partial(jax.jit, static_argnames="model")
def apply(model: Pure, params: Params, *inputs: Array) -> Any:
    """Returns the model's outputs."""
    return model.apply({"params": params}, *inputs)


def predict_in_parts(
    call: Callable[..., Any], model: Module, params: Params, inputs: Sequence[Any], part: int
) -> tuple[np.ndarray, ...]:
    """Returns `call(model, params, *inputs)`, taking `part` rows of the inputs at a time: outputs [..., rows, out]."""
    names = check_inputs(model.__call__, inputs)
    arrays = check_data(dict(zip(names, inputs, strict=True)), names, dtype=dtype_of(params))
    parts, held = [], functional(model)
    for start in range(0, len(arrays[names[0]]), part):
        outputs = call(held, params, *(arrays[name][start : start + part] for name in names))
        parts.append((outputs,) if isinstance(outputs, Array) else outputs)
    return check_outputs([np.concatenate(outputs, axis=-2) for outputs in zip(*parts, strict=True)])


def dtype_of(params: Params) -> str:
    """Returns the name of the parameters' dtype."""
    return jax.tree.leaves(params)[0].dtype.name
