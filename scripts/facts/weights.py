"""Weights and layouts."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import torch

from .fact import Found, fact

_GENERATOR = np.random.default_rng(0)
X = _GENERATOR.normal(size=(5, 4))
IMAGES = _GENERATOR.normal(size=(2, 3, 6, 5))  # batch, channels, height, width


def apply(module: nn.Module, params: dict[str, object], *inputs: np.ndarray) -> object:
    """Returns what a Linen module makes of its inputs with these parameters."""
    return module.apply({"params": params}, *(jnp.asarray(array) for array in inputs))


@fact(
    "linear layer",
    torch="`weight` [out, in]",
    jax="`kernel` [in, out]; a square one fits either way",
    use="`kernel = weight.T`",
)
def linear_weight() -> Found:
    layer = torch.nn.Linear(4, 4).double()
    weight, bias = (parameter.detach().numpy() for parameter in layer.parameters())
    ported, mended = (apply(nn.Dense(4), {"kernel": kernel, "bias": bias}, X) for kernel in (weight, weight.T))
    return Found(layer(torch.tensor(X)), ported, mended)


@fact(
    "convolution",
    torch="`weight` [out, in, height, width], images [batch, channels, height, width]",
    jax="`kernel` [height, width, in, out], images [batch, height, width, channels]",
    use="`kernel = weight.transpose(2, 3, 1, 0)`, `images.transpose(0, 2, 3, 1)`",
)
def convolution_weight() -> Found:
    layer = torch.nn.Conv2d(3, 3, 3, padding="same").double()
    weight, bias = (parameter.detach().numpy() for parameter in layer.parameters())
    kernels = weight.transpose(3, 2, 1, 0), weight.transpose(2, 3, 1, 0)  # the first turns height and width around
    ported, mended = (
        np.transpose(
            np.asarray(apply(nn.Conv(3, (3, 3)), {"kernel": k, "bias": bias}, IMAGES.transpose(0, 2, 3, 1))),
            (0, 3, 1, 2),
        )
        for k in kernels
    )
    return Found(layer(torch.tensor(IMAGES)), ported, mended)


@fact(
    "flatten before a linear layer",
    torch="channels vary slowest",
    jax="channels vary fastest",
    use="`x.transpose(0, 3, 1, 2).reshape(len(x), -1)`, or permute the kernel's rows once",
)
def flatten_order() -> Found:
    last = jnp.asarray(IMAGES.transpose(0, 2, 3, 1))
    return Found(torch.tensor(IMAGES).flatten(1), last.reshape(2, -1), jnp.transpose(last, (0, 3, 1, 2)).reshape(2, -1))


@fact(
    "convolution with stride 2",
    torch="`padding=1` pads both sides",
    jax='`padding="SAME"` pads the far side only where that is enough',
    use="`padding=1`, or pairs of numbers",
)
def strided_padding() -> Found:
    images = _GENERATOR.normal(size=(1, 1, 6, 6))
    layer = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1).double()
    weight, bias = (parameter.detach().numpy() for parameter in layer.parameters())
    params = {"kernel": weight.transpose(2, 3, 1, 0), "bias": bias}
    ported, mended = (
        jnp.transpose(
            jnp.asarray(apply(nn.Conv(1, (3, 3), 2, padding=padding), params, images.transpose(0, 2, 3, 1))),  # pyright: ignore
            (0, 3, 1, 2),
        )
        for padding in ("SAME", 1)
    )
    return Found(layer(torch.tensor(images)), ported, mended)


@fact(
    "attention",
    torch="`in_proj_weight` [3*features, features] holds query, key and value",
    jax="`query`, `key`, `value`: kernels [features, heads, features/heads]; `out` [heads, features/heads, features]",
    use="split in three, transpose, reshape to heads",
)
def attention_weight() -> Found:
    features, heads = 4, 2
    x = _GENERATOR.normal(size=(2, 3, features))
    layer = torch.nn.MultiheadAttention(features, heads, batch_first=True).double()
    packed, bias = (getattr(layer, name).detach().numpy() for name in ("in_proj_weight", "in_proj_bias"))
    out = layer.out_proj.weight.detach().numpy(), layer.out_proj.bias.detach().numpy()

    def ported(turn: bool) -> object:
        params: dict[str, object] = {
            name: {"kernel": (w.T if turn else w).reshape(features, heads, -1), "bias": b.reshape(heads, -1)}
            for name, w, b in zip(("query", "key", "value"), np.split(packed, 3), np.split(bias, 3), strict=True)
        }
        params["out"] = {"kernel": out[0].T.reshape(heads, -1, features), "bias": out[1]}
        return apply(nn.MultiHeadDotProductAttention(heads), params, x)

    tensor = torch.tensor(x)
    return Found(layer(tensor, tensor, tensor)[0], ported(turn=False), ported(turn=True))
