"""First weights."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import flax_impl

from .fact import Found, fact

WIDTH = 1000


def _drawn(layer: nn.Module) -> dict[str, np.ndarray]:
    return layer.init(jax.random.key(0), jnp.zeros((1, WIDTH)))["params"]  # pyright: ignore


def _spread(weight: object) -> float:
    """Returns the variance times the number of inputs, in two digits: it is drawn."""
    return float(f"{np.var(np.asarray(weight)) * WIDTH:.2g}")


@fact(
    "linear layer, weight",
    torch="uniform, variance {torch} / inputs",
    jax="normal, cut off, variance {jax} / inputs",
    use='`variance_scaling(1 / 3, "fan_in", "uniform")`',
)
def linear_weight_spread() -> Found:
    layer = torch.nn.Linear(WIDTH, WIDTH)
    found = _spread(layer.weight.detach()), _spread(_drawn(nn.Dense(WIDTH))["kernel"])
    mended = _spread(_drawn(nn.Dense(WIDTH, **flax_impl.layers.linear_initializers(WIDTH)))["kernel"])
    return Found(*found, mended, values={"torch": found[0], "jax": found[1]})


@fact(
    "linear layer, bias",
    torch="uniform as the weight, up to {torch} / sqrt(inputs)",
    jax="{jax}",
    use="an initialiser that is told the number of inputs: Flax's sees the bias's own shape only",
)
def linear_bias_spread() -> Found:
    def largest(bias: object) -> float:
        return float(f"{np.abs(np.asarray(bias)).max() * math.sqrt(WIDTH):.2g}")

    layer = torch.nn.Linear(WIDTH, WIDTH)
    bias = _drawn(nn.Dense(WIDTH))["bias"]
    mended = _drawn(nn.Dense(WIDTH, **flax_impl.layers.linear_initializers(WIDTH)))["bias"]
    values = {"torch": largest(layer.bias.detach()), "jax": largest(bias)}
    return Found(largest(layer.bias.detach()), largest(bias), largest(mended), values=values)


@fact(
    "embedding",
    torch="normal, variance {torch}",
    jax="normal, variance {jax}, one by the number of features",
    use="`nn.Embed(..., embedding_init=nn.initializers.normal(1.0))`",
)
def embedding_spread() -> Found:
    def spread(table: object) -> float:
        return float(f"{np.var(np.asarray(table)):.1g}")

    ids = jnp.zeros(1, int)
    tables = [
        layer.init(jax.random.key(0), ids)["params"]["embedding"]
        for layer in (nn.Embed(4000, 100), nn.Embed(4000, 100, embedding_init=nn.initializers.normal(1.0)))
    ]
    found = spread(torch.nn.Embedding(4000, 100).weight.detach()), *map(spread, tables)
    return Found(*found, values={"torch": found[0], "jax": found[1]})


@fact(
    "the same seed",
    torch="numbers of its own",
    jax="others, and others again in Linen and in NNX: {same} numbers in common",
    use="take the weights over; seeds are not comparable",
)
def same_seed() -> Found:
    torch.manual_seed(0)
    drawn = [
        torch.nn.Linear(20, 20).weight.detach().numpy().T,
        np.asarray(nn.Dense(20).init(jax.random.key(0), jnp.zeros((1, 20)))["params"]["kernel"]),  # pyright: ignore
        np.asarray(nnx.Linear(20, 20, rngs=nnx.Rngs(0)).kernel[...]),
    ]
    pairs = [(0, 1), (0, 2), (1, 2)]
    return Found(values={"same": sum(int((drawn[i] == drawn[j]).sum()) for i, j in pairs)})
