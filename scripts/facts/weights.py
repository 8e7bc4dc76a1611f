"""Weights and layouts."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import torch

from .fact import Found, fact

_GENERATOR = np.random.default_rng(0)
X = _GENERATOR.normal(size=(5, 4))
IMAGES = _GENERATOR.normal(size=(2, 3, 6, 5))  # batch, channels, height, width
SQUARE = _GENERATOR.normal(size=(1, 1, 6, 6))
SEQUENCE = _GENERATOR.normal(size=(2, 3, 4))  # batch, time, features


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
    images = SQUARE
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
    layer = torch.nn.MultiheadAttention(features, heads, batch_first=True).double()
    packed, bias = (getattr(layer, name).detach().numpy() for name in ("in_proj_weight", "in_proj_bias"))
    out = layer.out_proj.weight.detach().numpy(), layer.out_proj.bias.detach().numpy()

    def ported(turn: bool) -> object:
        params: dict[str, object] = {
            name: {"kernel": (w.T if turn else w).reshape(features, heads, -1), "bias": b.reshape(heads, -1)}
            for name, w, b in zip(("query", "key", "value"), np.split(packed, 3), np.split(bias, 3), strict=True)
        }
        params["out"] = {"kernel": out[0].T.reshape(heads, -1, features), "bias": out[1]}
        return apply(nn.MultiHeadDotProductAttention(heads), params, SEQUENCE)

    tensor = torch.tensor(SEQUENCE)
    return Found(layer(tensor, tensor, tensor)[0], ported(turn=False), ported(turn=True))


def _gates(layer: torch.nn.Module, names: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns a recurrent layer's weights by gate: `i` from the input, `h` from the state."""
    held = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    parts = {
        side: (np.split(held[f"weight_{side}h_l0"], len(names)), np.split(held[f"bias_{side}h_l0"], len(names)))
        for side in "ih"
    }
    return {
        side + gate: {"kernel": weight.T, "bias": bias}
        for side, (weights, biases) in parts.items()
        for gate, weight, bias in zip(names, weights, biases, strict=True)
    }


def _recurrent(cell: nn.RNNCellBase, params: dict[str, object]) -> object:
    return nn.RNN(cell).apply({"params": {"cell": params}}, jnp.asarray(SEQUENCE))


@fact(
    "LSTM",
    torch="gates stacked in the order input, forget, cell, output; two biases",
    jax="`OptimizedLSTMCell`: a kernel for each gate, `ii`, `hi`, …; one bias, with the state's",
    use="split in four: i, f, g, o; `bias = bias_ih + bias_hh`",
)
def lstm_weight() -> Found:
    layer = torch.nn.LSTM(4, 3, batch_first=True).double()

    def ported(order: str) -> object:
        gates = _gates(layer, order)
        params: dict[str, object] = {f"i{gate}": {"kernel": gates[f"i{gate}"]["kernel"]} for gate in order}
        for gate in order:
            bias = gates[f"i{gate}"]["bias"] + gates[f"h{gate}"]["bias"]
            params[f"h{gate}"] = {"kernel": gates[f"h{gate}"]["kernel"], "bias": bias}
        return _recurrent(nn.OptimizedLSTMCell(3, param_dtype=float), params)

    return Found(layer(torch.tensor(SEQUENCE))[0], ported("ifog"), ported("ifgo"))


@fact(
    "GRU",
    torch="gates reset, update, new; two biases, and the new gate's stay apart",
    jax="`GRUCell`: `ir`, `iz`, `in`, `hr`, `hz`, `hn`; `hn` alone has the state's bias",
    use="add the biases of r and z; keep `in.bias = bias_in`, `hn.bias = bias_hn`",
)
def gru_weight() -> Found:
    layer = torch.nn.GRU(4, 3, batch_first=True).double()

    def ported(apart: bool) -> object:
        gates = _gates(layer, "rzn")
        params: dict[str, object] = {f"h{gate}": {"kernel": gates[f"h{gate}"]["kernel"]} for gate in "rz"}
        for gate in "rzn":
            both = gates[f"i{gate}"]["bias"] + gates[f"h{gate}"]["bias"]
            bias = gates["in"]["bias"] if gate == "n" and apart else both
            params[f"i{gate}"] = {"kernel": gates[f"i{gate}"]["kernel"], "bias": bias}
        of_state = gates["hn"]["bias"] if apart else np.zeros(3)
        params["hn"] = {"kernel": gates["hn"]["kernel"], "bias": of_state}
        return _recurrent(nn.GRUCell(3, param_dtype=float), params)

    return Found(layer(torch.tensor(SEQUENCE))[0], ported(apart=False), ported(apart=True))


@fact(
    "transposed convolution, kernel k, stride s, padding p",
    torch="`weight` [in, out, height, width]; `padding` is what a convolution would have had",
    jax="`kernel` [height, width, in, out]; pads the stretched input",
    use="`padding=k - 1 - p` on each side, `transpose_kernel=True`, `kernel = weight.transpose(2, 3, 1, 0)`",
)
def transposed_convolution() -> Found:
    layer = torch.nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1).double()
    weight, bias = (parameter.detach().numpy() for parameter in layer.parameters())
    images = IMAGES.transpose(0, 2, 3, 1)
    ported = apply(nn.ConvTranspose(2, (3, 3), (2, 2)), {"kernel": weight.transpose(2, 3, 0, 1), "bias": bias}, images)
    module = nn.ConvTranspose(2, (3, 3), (2, 2), [(1, 1), (1, 1)], transpose_kernel=True)
    mended = apply(module, {"kernel": weight.transpose(2, 3, 1, 0), "bias": bias}, images)
    return Found(layer(torch.tensor(IMAGES)), *(np.transpose(np.asarray(y), (0, 3, 1, 2)) for y in (ported, mended)))
