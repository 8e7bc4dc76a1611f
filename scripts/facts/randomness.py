"""Randomness and dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from .fact import Found, fact


@fact("dropout, its scale", torch="kept entries times {torch}", jax="kept entries times {jax}")
def dropout_scale() -> Found:
    ones = np.ones(1000)
    reference = torch.nn.Dropout(0.2)(torch.tensor(ones)).max()
    ported = nn.Dropout(0.2).apply({}, jnp.asarray(ones), deterministic=False, rngs={"dropout": jax.random.key(0)})
    largest = jnp.max(jnp.asarray(ported))
    return Found(reference, largest, values={"torch": reference, "jax": largest})


@fact(
    "dropout, its mask",
    torch="from a generator that all calls share",
    jax="from the key of the call: the same key, the same mask",
    use="to compare, switch it off, or give both the same mask",
)
def dropout_mask() -> Found:
    x = np.arange(1.0, 41.0)
    torch.manual_seed(0)
    reference = torch.nn.Dropout(0.5)(torch.tensor(x))
    ported = nn.Dropout(0.5).apply({}, jnp.asarray(x), deterministic=False, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(reference) != 0
    return Found(reference, ported, jnp.where(kept, x / 0.5, 0))


@fact(
    "a second draw",
    torch="another one: the generator moved",
    jax="{same}: the key did not",
    use="`key, sub = jax.random.split(key)`, or `nnx.Rngs`, which counts",
)
def second_draw() -> Found:
    key = jax.random.key(0)
    same = (jax.random.normal(key, (8,)) == jax.random.normal(key, (8,))).all()
    return Found(values={"same": "the same numbers" if same else "another one"})


@fact(
    "training and evaluation",
    torch="`model.train()` and `model.eval()`, a switch in the model",
    jax="an argument of the call in Linen (`deterministic`), a switch in NNX (`model.eval()`)",
)
def modes() -> Found:
    x = np.arange(1.0, 9.0)
    layer = torch.nn.Dropout(0.5).eval()
    return Found(layer(torch.tensor(x)), nn.Dropout(0.5).apply({}, jnp.asarray(x), deterministic=True))
