"""First weights."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from flax_impl.models.layers import linear_initializers

from .fact import Found, fact

WIDTH = 1000


def _drawn(layer: nn.Module) -> dict[str, np.ndarray]:
    return layer.init(jax.random.key(0), jnp.zeros((1, WIDTH)))["params"]  # pyright: ignore


def _shape_of(weight: object) -> tuple[float, float]:
    """Returns the variance times the number of inputs, and the largest entry times its root, in two digits.

    The second tells a uniform draw (1 / sqrt(inputs) at most) from a normal one; more digits are chance.
    """
    weight = np.asarray(weight)
    return tuple(float(f"{x:.1g}") for x in (np.var(weight) * WIDTH, np.abs(weight).max() * math.sqrt(WIDTH)))  # pyright: ignore


@fact(
    "linear layer, weight",
    torch="uniform: variance {torch} / inputs, at most {torch_most} / sqrt(inputs)",
    jax="normal, cut off: variance {jax} / inputs, at most {jax_most} / sqrt(inputs)",
    use='`variance_scaling(1 / 3, "fan_in", "uniform")`',
)
def linear_weight_spread() -> Found:
    as_torch = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    found = [
        _shape_of(weight)
        for weight in (
            torch.nn.Linear(WIDTH, WIDTH).weight.detach(),
            _drawn(nn.Dense(WIDTH))["kernel"],
            _drawn(nn.Dense(WIDTH, kernel_init=as_torch))["kernel"],
        )
    ]
    values = {"torch": found[0][0], "torch_most": found[0][1], "jax": found[1][0], "jax_most": found[1][1]}
    return Found(*found, values=values)


@fact(
    "linear layer, bias",
    torch="uniform as the weight: at most {torch} / sqrt(inputs)",
    jax="{jax}",
    use="an initialiser that is told the number of inputs, `flax_impl.models.layers.linear_initializers(inputs)`: "
    "Flax's sees the bias's own shape only",
)
def linear_bias_spread() -> Found:
    found = [
        _shape_of(bias)
        for bias in (
            torch.nn.Linear(WIDTH, WIDTH).bias.detach(),
            _drawn(nn.Dense(WIDTH))["bias"],
            _drawn(nn.Dense(WIDTH, **linear_initializers(WIDTH)))["bias"],
        )
    ]
    return Found(*found, values={"torch": found[0][1], "jax": found[1][1]})


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
