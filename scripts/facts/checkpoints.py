"""Checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import serialization

from .fact import Found, fact

_GENERATOR = np.random.default_rng(0)
GRADIENTS = _GENERATOR.normal(size=(6, 3))


def _torch(stop: int | None, with_optimizer: bool) -> torch.Tensor:
    """Returns a parameter after six steps of Adam, taken up again after some of them."""
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for step, gradient in enumerate(GRADIENTS):
        if step == stop:
            state = optimizer.state_dict()
            optimizer = torch.optim.Adam([parameter], lr=0.1)
            if with_optimizer:
                optimizer.load_state_dict(state)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach()


def _jax(stop: int | None, with_optimizer: bool) -> jax.Array:
    params, optimizer = jnp.ones(3), optax.adam(0.1)
    state = optimizer.init(params)
    for step, gradient in enumerate(GRADIENTS):
        if step == stop:
            kept = serialization.to_bytes({"params": params, "opt_state": state})
            fresh = {"params": jnp.zeros(3), "opt_state": optimizer.init(params)}
            restored = serialization.from_bytes(fresh, kept)
            params, state = restored["params"], restored["opt_state"] if with_optimizer else fresh["opt_state"]
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = jnp.asarray(optax.apply_updates(params, updates))
    return params


@fact(
    "a training that is taken up again from its weights alone",
    torch="the optimiser begins anew, unless its `state_dict` is kept as well",
    jax="likewise, unless `opt_state` is kept",
    use="keep params, `opt_state`, the step, the keys and the place in the data together",
)
def resumed_training() -> Found:
    return Found(_torch(None, True), _jax(3, False), _jax(3, True))


@fact(
    "Adam's counter of steps",
    torch="`state['step']` is in the `state_dict`",
    jax="`opt_state[0].count` is in the tree of {kept}",
)
def optimizer_counter() -> Found:
    state = optax.adam(0.1).init(jnp.ones(3))
    return Found(values={"kept": f"{len(jax.tree.leaves(state))} arrays for one parameter"})
