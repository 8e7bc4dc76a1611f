"""Pairs of diffusers: the decoder of Stable Diffusion's autoencoder and its UNet, tiny and random.

The UNet of diffusers 0.35.2 leaves its torch twin at two lines, which the harness found. `mended` mends them.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from .pair import Pair, stir


def _squares(model: Any, **batch: Any) -> Any:
    output = model(**batch)
    return (output[0] ** 2).mean()


class _Decoder(torch.nn.Module):
    """Calls what a decoder is called by, so that hooks see it."""

    def __init__(self, autoencoder: torch.nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, z: torch.Tensor) -> Any:
        return self.autoencoder.decode(z, return_dict=False)  # pyright: ignore[reportCallIssue]


def _autoencoder(
    drawn: np.random.Generator,
) -> tuple[torch.nn.Module, Any, Callable[..., Any], Mapping[str, np.ndarray]]:
    diffusers = importlib.import_module("diffusers")

    settings = {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32),
        "layers_per_block": 1, "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    port = diffusers.FlaxAutoencoderKL(**settings)

    def run(params: Any, z: Any) -> Any:
        return (port.apply({"params": params}, z, method=port.decode).sample,)

    z = drawn.normal(size=(2, 4, 6, 6)).astype(np.float32)
    return _Decoder(diffusers.AutoencoderKL(**settings)), port, run, {"z": z}


def _unet(
    drawn: np.random.Generator,
    *,
    mends: bool = True,
) -> tuple[torch.nn.Module, Any, Callable[..., Any], Mapping[str, np.ndarray]]:
    diffusers = importlib.import_module("diffusers")

    settings = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 32), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 8,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 2,
    }  # fmt: skip
    port = diffusers.FlaxUNet2DConditionModel(**settings)

    def run(params: Any, sample: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
        return (port.apply({"params": params}, sample, timestep, encoder_hidden_states).sample,)

    def mended(*args: Any, **kwargs: Any) -> Any:
        with _mended():
            return run(*args, **kwargs)

    batch = {
        "sample": drawn.normal(size=(2, 4, 8, 8)).astype(np.float32),
        "timestep": np.array([3, 40]),
        "encoder_hidden_states": drawn.normal(size=(2, 5, 8)).astype(np.float32),
    }
    return diffusers.UNet2DConditionModel(**settings), port, mended if mends else run, batch


@contextmanager
def _mended() -> Iterator[None]:
    """Mends what the UNet does otherwise than its torch twin: GELU by tanh, and 1e-5 in the norms before attention."""
    attention = importlib.import_module("diffusers.models.attention_flax")

    def norm(*args: Any, epsilon: float, **kwargs: Any) -> Any:
        return nn.GroupNorm(*args, epsilon=1e-6, **kwargs)

    own = {**vars(nn), "gelu": partial(nn.gelu, approximate=False), "GroupNorm": norm}
    with mock.patch.object(attention, "nn", SimpleNamespace(**own)):
        yield


AS_SHIPPED = "unet as shipped"
TABLE = {"autoencoder": _autoencoder, "unet": _unet, AS_SHIPPED: partial(_unet, mends=False)}


def pair(name: str, seed: int = 0, stirred: bool = True) -> Pair:
    """Returns a pair of `TABLE`, its weights converted by diffusers itself."""
    module = importlib.import_module("diffusers.models.modeling_flax_pytorch_utils")

    torch.manual_seed(seed)
    reference, port, run, batch = TABLE[name](np.random.default_rng(seed))
    reference.eval()
    if stirred:
        stir(reference, seed)
    weights = {key.removeprefix("autoencoder."): value for key, value in reference.state_dict().items()}
    params = jax.tree.map(jnp.asarray, module.convert_pytorch_state_dict_to_flax(weights, port))
    return Pair(name, reference, _squares, run, params, _squares, batch)
