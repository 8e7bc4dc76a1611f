"""Pairs of torch.nn's own layers with those of Linen, NNX, Equinox and Haiku, and with plain functions."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax import lax

from .pair import Pair, stir

_WIDTH, _HEADS, _ROWS, _LENGTH = 16, 2, 3, 5
_Weights = Mapping[str, np.ndarray]


def _made(name: str, module: torch.nn.Module, seed: int, stirred: bool, port: Callable[[_Weights], Any]) -> Pair:
    if stirred:
        stir(module, seed)
    # In float64, since merged biases would be rounded once more.
    weights = {key: value.double().numpy() for key, value in module.state_dict().items()}
    model, params = port(weights)
    x = np.random.default_rng(seed).normal(size=(_ROWS, _LENGTH, _WIDTH)).astype(np.float32)
    return Pair(name, module, _squares_of_x, model, params, _squares_of_x, {"x": x})


def _squares_of_x(model: Any, x: Any) -> Any:
    output = model(x)
    first = output[0] if isinstance(output, tuple) else output
    return (first**2).mean()


class _SelfAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def _lstm_linen(weights: _Weights) -> Any:
    cell = {}
    gates = dict(zip("ifgo", range(4), strict=True))
    for gate, i in gates.items():
        rows = slice(i * _WIDTH, (i + 1) * _WIDTH)
        cell[f"i{gate}"] = {"kernel": weights["weight_ih_l0"][rows].T}
        cell[f"h{gate}"] = {
            "kernel": weights["weight_hh_l0"][rows].T,
            "bias": weights["bias_ih_l0"][rows] + weights["bias_hh_l0"][rows],
        }
    return nn.RNN(nn.OptimizedLSTMCell(_WIDTH)), {"params": {"cell": cell}}


def _gru_linen(weights: _Weights) -> Any:
    rows = [slice(i * _WIDTH, (i + 1) * _WIDTH) for i in range(3)]
    w_i, w_h, b_i, b_h = (weights[f"{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    cell = {
        "ir": {"kernel": w_i[rows[0]].T, "bias": b_i[rows[0]] + b_h[rows[0]]},
        "iz": {"kernel": w_i[rows[1]].T, "bias": b_i[rows[1]] + b_h[rows[1]]},
        "in": {"kernel": w_i[rows[2]].T, "bias": b_i[rows[2]]},
        "hr": {"kernel": w_h[rows[0]].T},
        "hz": {"kernel": w_h[rows[1]].T},
        "hn": {"kernel": w_h[rows[2]].T, "bias": b_h[rows[2]]},
    }
    return nn.RNN(nn.GRUCell(_WIDTH)), {"params": {"cell": cell}}


def _attention_params(weights: _Weights, prefix: str = "attention.") -> dict[str, Any]:
    split = np.split(weights[f"{prefix}in_proj_weight"], 3), np.split(weights[f"{prefix}in_proj_bias"], 3)
    depth = _WIDTH // _HEADS
    found = {
        name: {"kernel": kernel.T.reshape(_WIDTH, _HEADS, depth), "bias": bias.reshape(_HEADS, depth)}
        for name, kernel, bias in zip(("query", "key", "value"), *split, strict=True)
    }
    out = weights[f"{prefix}out_proj.weight"], weights[f"{prefix}out_proj.bias"]
    return {**found, "out": {"kernel": out[0].T.reshape(_HEADS, depth, _WIDTH), "bias": out[1]}}


def _attention_linen(weights: _Weights) -> Any:
    return nn.MultiHeadDotProductAttention(_HEADS), {"params": _attention_params(weights)}


def _attention_nnx(weights: _Weights) -> Any:
    model = nnx.MultiHeadAttention(_HEADS, _WIDTH, decode=False, rngs=nnx.Rngs(0))
    nnx.update(model, jax.tree.map(jnp.asarray, _attention_params(weights)))
    return model, None


def _attention_equinox(weights: _Weights) -> Any:
    import equinox as eqx

    model = eqx.nn.MultiheadAttention(
        _HEADS, _WIDTH, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True,
        key=jax.random.key(0),
    )  # fmt: skip
    split = np.split(weights["attention.in_proj_weight"], 3), np.split(weights["attention.in_proj_bias"], 3)
    arrays = [array for pair in zip(*split, strict=True) for array in pair]
    arrays += [weights["attention.out_proj.weight"], weights["attention.out_proj.bias"]]

    def places(model: Any) -> list[Any]:
        parts = (model.query_proj, model.key_proj, model.value_proj, model.output_proj)
        return [array for part in parts for array in (part.weight, part.bias)]

    model = eqx.tree_at(places, model, [jnp.asarray(array) for array in arrays])
    dynamic, static = eqx.partition(model, eqx.is_array)
    return (lambda params, x: jax.vmap(lambda row: eqx.combine(params, static)(row, row, row))(x)), dynamic


def _lstm_haiku(weights: _Weights) -> Any:
    import haiku as hk  # pyright: ignore[reportMissingImports] (of the extra pairs)

    def run(x: Any) -> Any:
        core = hk.LSTM(_WIDTH)
        return hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)[0]

    i, f, g, o = (slice(k * _WIDTH, (k + 1) * _WIDTH) for k in range(4))
    order = [i, g, f, o]
    kernel = np.concatenate([weights["weight_ih_l0"], weights["weight_hh_l0"]], axis=1)
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    bias[f] -= 1.0  # Haiku adds one to the forget gate
    params = {
        "lstm/linear": {
            "w": np.concatenate([kernel[rows] for rows in order]).T,
            "b": np.concatenate([bias[rows] for rows in order]),
        }
    }
    transformed = hk.without_apply_rng(hk.transform(run))
    return transformed.apply, params


def _encoder(weights: _Weights) -> Any:
    """Returns two post-norm encoder layers as a plain function, scanned over stacked weights, each rematerialised."""
    names = sorted({key.split(".", 2)[2] for key in weights})
    params = {name: np.stack([weights[f"layers.{i}.{name}"] for i in range(2)]) for name in names}

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * scale + shift

    @jax.checkpoint
    def layer(x: Any, p: Any) -> Any:
        qkv = x @ p["self_attn.in_proj_weight"].T + p["self_attn.in_proj_bias"]
        q, k, v = (part.reshape(*x.shape[:2], _HEADS, -1) for part in jnp.split(qkv, 3, -1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(_WIDTH // _HEADS)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape)
        mixed = mixed @ p["self_attn.out_proj.weight"].T + p["self_attn.out_proj.bias"]
        x = norm(x + mixed, p["norm1.weight"], p["norm1.bias"])
        hidden = jax.nn.relu(x @ p["linear1.weight"].T + p["linear1.bias"])
        return norm(x + hidden @ p["linear2.weight"].T + p["linear2.bias"], p["norm2.weight"], p["norm2.bias"])

    return (lambda params, x: lax.scan(lambda x, p: (layer(x, p), None), x, params)[0]), params


class _Experts(torch.nn.Module):
    """A mixture of experts, each of which sees its own rows only, as torch code writes it."""

    def __init__(self, experts: int = 3, chosen: int = 2) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(_WIDTH, experts, bias=False)
        self.experts = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(_WIDTH, 24), torch.nn.SiLU(), torch.nn.Linear(24, _WIDTH))
            for _ in range(experts)
        )
        self.chosen = chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, _WIDTH)
        best, which = torch.topk(self.gate(rows).softmax(-1), self.chosen)
        best = best / best.sum(-1, keepdim=True)
        mixed = torch.zeros_like(rows)
        for i, expert in enumerate(self.experts):
            row, slot = torch.where(which == i)
            mixed = mixed.index_add(0, row, expert(rows[row]) * best[row, slot, None])
        return mixed.reshape(x.shape)


def _experts_stacked(weights: _Weights) -> Any:
    """Returns all experts at once, over stacked kernels, on all rows."""
    params = {
        name: np.stack([weights[f"experts.{i}.{place}"] for i in range(3)])
        for name, place in (("w1", "0.weight"), ("b1", "0.bias"), ("w2", "2.weight"), ("b2", "2.bias"))
    }
    params["gate"] = weights["gate.weight"].T

    def run(p: Any, x: Any) -> Any:
        rows = x.reshape(-1, _WIDTH)
        best, which = lax.top_k(jax.nn.softmax(rows @ p["gate"]), 2)
        best = best / best.sum(-1, keepdims=True)
        share = (jax.nn.one_hot(which, 3) * best[..., None]).sum(1)
        hidden = jax.nn.silu(jnp.einsum("nd,ehd->neh", rows, p["w1"]) + p["b1"])
        outputs = jnp.einsum("neh,edh->ned", hidden, p["w2"]) + p["b2"]
        return (outputs * share[..., None]).sum(1).reshape(x.shape)

    return run, params


def _encoder_layers() -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(_WIDTH, _HEADS, 24, dropout=0.0, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


TABLE: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[_Weights], Any]]] = {
    "lstm, linen": (lambda: torch.nn.LSTM(_WIDTH, _WIDTH, batch_first=True), _lstm_linen),
    "lstm, haiku": (lambda: torch.nn.LSTM(_WIDTH, _WIDTH, batch_first=True), _lstm_haiku),
    "gru, linen": (lambda: torch.nn.GRU(_WIDTH, _WIDTH, batch_first=True), _gru_linen),
    "attention, linen": (_SelfAttention, _attention_linen),
    "attention, nnx": (_SelfAttention, _attention_nnx),
    "attention, equinox": (_SelfAttention, _attention_equinox),
    "encoder, scan and remat": (_encoder_layers, _encoder),
    "experts, stacked": (_Experts, _experts_stacked),
}


def pair(name: str, seed: int = 0, stirred: bool = True) -> Pair:
    """Returns a pair of `TABLE`."""
    reference, port = TABLE[name]
    torch.manual_seed(seed)
    return _made(name, reference(), seed, stirred, port)
