"""Checkpoints."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx, serialization

from .fact import Found, distance, fact, outcome

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
    torch="the optimiser begins anew: {anew} apart; with its `state_dict`: {kept}",
    jax="likewise, unless `opt_state` is kept",
    use="keep params, `opt_state`, the step, the keys and the place in the data together",
)
def resumed_training() -> Found:
    whole = _torch(None, True)
    values = {name: distance(_torch(3, kept), whole) for name, kept in (("anew", False), ("kept", True))}
    return Found(whole, _jax(3, False), _jax(3, True), values=values)


@fact("what Adam keeps for a parameter", torch="{torch}, in `state_dict()['state']`", jax="{jax}, in `opt_state[0]`")
def optimizer_state() -> Found:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    state: Any = optax.adam(0.1).init(jnp.ones(3))
    return Found(values={"torch": list(optimizer.state_dict()["state"][0]), "jax": state[0]._fields})


@fact(
    "a file with other names or shapes",
    torch="`load_state_dict`: {torch}",
    jax="`nnx.update`: {nnx}; `flax.serialization.from_state_dict`: {linen}",
    use="`flax_impl.models.from_numpy`, which lists all that is missing, unexpected or of another shape",
)
def strict_loading() -> Found:
    net, held = torch.nn.Linear(2, 2), nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(held, nnx.Param))
    odd = {"kernel": jnp.zeros((5, 7)), "bias": params["bias"], "other": params["bias"]}
    state = {"weight": torch.zeros(5, 7), "bias": torch.zeros(2), "other": torch.zeros(2)}
    calls = {
        "torch": lambda: net.load_state_dict(state),
        "nnx": lambda: nnx.update(held, odd),
        "linen": lambda: serialization.from_state_dict(params, odd),
    }
    return Found(values={name: outcome(call) for name, call in calls.items()})
