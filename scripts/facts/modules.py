"""Modules and names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import torch
from flax import nnx

from .fact import Found, fact


class _Torch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second = torch.nn.Linear(2, 2)
        self.first = torch.nn.Linear(2, 2)


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2, name="first")(nn.Dense(2, name="second")(x))


class _NNX(nnx.Module):
    def __init__(self) -> None:
        self.second, self.first = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 2, rngs=nnx.Rngs(1))


def _linen() -> dict[str, dict[str, jax.Array]]:
    return _Linen().init(jax.random.key(0), jnp.zeros((1, 2)))["params"]  # pyright: ignore


@fact(
    "order of the parameters",
    torch="as defined: {torch}",
    jax="by the alphabet in `jax.tree`: {linen} in Linen, {nnx} in NNX",
    use="go by names, never by position",
)
def parameter_order() -> Found:
    of_torch = [name for name, _ in _Torch().named_parameters()]
    trees = {"linen": _linen(), "nnx": nnx.to_pure_dict(nnx.state(_NNX(), nnx.Param))}
    ways = {
        name: [".".join(str(key.key) for key in keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]  # pyright: ignore
        for name, tree in trees.items()
    }
    return Found(values={"torch": of_torch, **ways})


@fact(
    "a module used twice",
    torch="one object, one set of weights: {torch} parameters",
    jax="Linen's compact form makes a new one each time it is written: {compact}; one object made before: {shared}",
    use="make the layer once, in `setup` or before the calls; in NNX it is an attribute anyway",
)
def shared_layer() -> Found:
    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(2)(nn.Dense(2)(x))

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            layer = nn.Dense(2)
            return layer(layer(x))

    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(module.init(jax.random.key(0), jnp.zeros((1, 2)))))
        for module in (Compact(), Shared())
    ]
    own = sum(parameter.numel() for parameter in torch.nn.Linear(2, 2).parameters())
    return Found(values={"torch": own, "compact": counts[0], "shared": counts[1]})
