"""The compiled programs of a training: a step, a loop of steps, and the model's outputs."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from .hub.checks import check_data, check_inputs, check_outputs
from .layers import Params
from .optimizers import Optimizer
from .precision import lowered, matmul_precision

Loss = Callable[..., tuple[Array, ...]]


def cache_compilations(folder: str | os.PathLike[str]) -> None:
    """Keeps what is compiled from now on in a folder, where the next process finds it; call it before anything else.

    JAX itself keeps only what takes a second to compile, and a training takes less.

    Raises:
        OSError: the folder cannot be made.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@partial(jax.jit, static_argnames=("model", "precision"))
def step(
    model: nn.Module,
    params: Params,
    optimizer: Optimizer,
    opt_state: optax.OptState,
    batch: Mapping[str, Array],
    loss: Loss,
    precision: str,
) -> tuple[Params, optax.OptState, Float[Array, " outputs"]]:
    """Takes one step; returns the new parameters and optimiser state, and the losses before the step."""
    call = lowered(model.apply, precision)

    def total(params: Params) -> tuple[Float[Array, ""], Float[Array, " outputs"]]:
        losses = jnp.stack(loss(partial(call, {"params": params}), **batch))
        return losses.sum(), losses

    with matmul_precision(precision):
        gradients, losses = jax.grad(total, has_aux=True)(params)
    updates, opt_state = optimizer.build().update(gradients, opt_state, params)
    moved: Any = optax.apply_updates(params, updates)
    return moved, opt_state, losses


@partial(jax.jit, static_argnames=("model", "precision"), donate_argnames="state")
def loop(
    model: nn.Module,
    state: tuple[Params, optax.OptState],
    optimizer: Optimizer,
    table: Mapping[str, Array],
    index: Int[Array, "width batch"],
    mask: Bool[Array, "width batch"],
    count: Int[Array, ""],
    loss: Loss,
    precision: str,
) -> tuple[tuple[Params, optax.OptState], Float[Array, "width outputs"]]:
    """Takes the first `count` of the steps that `index` holds batches for, and returns their losses.

    The count is a value and not a shape, which `lax.scan` would make it: another number of steps compiles nothing.
    """

    def take(i: Int[Array, ""], state: tuple[Params, optax.OptState]) -> Any:
        batch = {name: array[index[i]] for name, array in table.items()} | {"mask": mask[i]}
        params, opt_state, losses = step(model, state[0], optimizer, state[1], batch, loss, precision)
        return (params, opt_state), losses

    def body(i: Int[Array, ""], carry: Any) -> Any:
        state, losses = carry
        state, found = take(i, state)
        return state, losses.at[i].set(found)

    _, found = jax.eval_shape(take, jnp.zeros((), jnp.int32), state)
    return jax.lax.fori_loop(0, count, body, (state, jnp.zeros((len(index), *found.shape), found.dtype)))


@jax.jit
def init(optimizer: Optimizer, params: Params) -> optax.OptState:
    """Returns the optimiser's state before the first step."""
    return optimizer.build().init(params)


@partial(jax.jit, static_argnames="model")
def apply(model: nn.Module, params: Params, *inputs: Array) -> Any:
    """Returns the model's outputs."""
    return model.apply({"params": params}, *inputs)


def predict_in_parts(
    call: Callable[..., Any], model: nn.Module, params: Params, inputs: Sequence[Any], part: int
) -> tuple[np.ndarray, ...]:
    """Returns `call(model, params, *inputs)`, taking `part` rows of the inputs at a time: outputs [..., rows, out]."""
    names = check_inputs(model.__call__, inputs)
    arrays = check_data(dict(zip(names, inputs, strict=True)), names, dtype=dtype_of(params))
    parts = []
    for start in range(0, len(arrays[names[0]]), part):
        outputs = call(model, params, *(arrays[name][start : start + part] for name in names))
        parts.append((outputs,) if isinstance(outputs, Array) else outputs)
    return check_outputs([np.concatenate(outputs, axis=-2) for outputs in zip(*parts, strict=True)])


def dtype_of(params: Params) -> str:
    """Returns the name of the parameters' dtype."""
    return jax.tree.leaves(params)[0].dtype.name
