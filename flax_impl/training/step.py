"""The compiled step of a training."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from torch_ref.common.settings.optimizers import Optimizer

from ..models.layers import Params
from ..models.pure import Pure
from .build import build_optimizer
from .precision import lowered, matmul_precision

Loss = Callable[..., tuple[Array, ...]]


@partial(jax.jit, static_argnames=("model", "precision"))
def take_step(
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
        losses = losses_of(model, params, batch, loss, precision)
        return losses.sum(), losses

    with matmul_precision(precision):
        gradients, losses = jax.grad(total, has_aux=True)(params)
    updates, opt_state = build_optimizer(optimizer).update(gradients, opt_state, params)
    moved: Any = optax.apply_updates(params, updates)
    return moved, opt_state, losses


def losses_of(model: Pure, params: Params, batch: Mapping[str, Array], loss: Loss, precision: str) -> Array:
    """Returns the losses [outputs] of a batch."""
    return jnp.stack(loss(partial(lowered(model.apply, precision), {"params": params}), **batch))


@jax.jit
def init_state(optimizer: Optimizer, params: Params) -> optax.OptState:
    """Returns the optimiser's state before the first step."""
    return build_optimizer(optimizer).init(params)


def dtype_of(params: Params) -> str:
    """Returns the name of the parameters' dtype."""
    return jax.tree.leaves(params)[0].dtype.name
