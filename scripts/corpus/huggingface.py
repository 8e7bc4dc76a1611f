"""Pairs of transformers: models that Hugging Face wrote in torch and, by other hands, in Flax; tiny and random."""

import copy
import importlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.core import Tracer

from .pair import Pair, stir

TABLE: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_RATES = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "activation_dropout",
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout", "embed_dropout", "dropout_rate", "hidden_dropout",
    "feat_proj_dropout", "classifier_dropout", "summary_first_dropout",
)  # fmt: skip
_Arrays = dict[str, np.ndarray]


def _text(drawn: np.random.Generator) -> _Arrays:
    return {"input_ids": drawn.integers(3, 60, (2, 7))}


def _masked_text(drawn: np.random.Generator) -> _Arrays:
    mask = np.ones((2, 7), np.int64)
    mask[1, 5:] = 0
    return {**_text(drawn), "attention_mask": mask}


def _text_to_text(drawn: np.random.Generator) -> _Arrays:
    return {**_text(drawn), "decoder_input_ids": drawn.integers(3, 60, (2, 5))}


def _image(drawn: np.random.Generator, size: int = 12) -> _Arrays:
    return {"pixel_values": drawn.normal(size=(2, 3, size, size)).astype(np.float32)}


def _sound(drawn: np.random.Generator) -> _Arrays:
    return {"input_values": drawn.normal(size=(2, 400)).astype(np.float32)}


def _spectrum(drawn: np.random.Generator) -> _Arrays:
    features = drawn.normal(size=(2, 8, 20)).astype(np.float32)
    return {"input_features": features, "decoder_input_ids": drawn.integers(3, 60, (2, 5))}


_INPUTS: dict[str, Callable[[np.random.Generator], _Arrays]] = {
    "text": _text,
    "masked text": _masked_text,
    "text to text": _text_to_text,
    "image 12": _image,
    "sound": _sound,
    "spectrum": _spectrum,
    "image and text": lambda drawn: {**_text(drawn), **_image(drawn)},
}


def mend() -> None:
    """Mends what transformers 4.48 asks of JAX and JAX has no more: two arguments of clip and a method of arrays."""
    clip = jnp.clip

    def old_clip(array: Any, *args: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
        given = [bound for bound in (a_min, a_max) if bound is not None]
        return clip(array, min=a_min, max=a_max) if given else clip(array, *args, **kwargs)

    jnp.clip = old_clip
    array_type = type(jnp.zeros(()))
    kinds: tuple[Any, ...] = (array_type, Tracer)
    for kind in kinds:
        if not hasattr(kind, "split"):
            kind.split = lambda self, parts, axis=0: jnp.split(self, parts, axis)


def pair(
    name: str, seed: int = 0, stirred: bool = True, dtype: str = "float32", rates: tuple[float, float] = (0.0, 0.0)
) -> Pair:
    """Returns a pair of `TABLE`, its weights converted by transformers itself.

    Args:
        name: of the pair.
        seed: of weights and inputs.
        stirred: whether the fresh weights are moved a little.
        dtype: that the port computes in.
        rates: of dropout, in the reference and in the port; where the first is not 0, both are in training mode.
    """
    mend()
    transformers = importlib.import_module("transformers")
    entry = TABLE[name]
    config = getattr(transformers, entry["config"])(**entry["settings"])
    drawing = rates[0] > 0
    torch.manual_seed(seed)
    reference = getattr(transformers, entry["model"])(_dropping(config, rates[0])).train(drawing)
    if stirred:
        stir(reference, seed)
    port = getattr(transformers, f"Flax{entry['model']}")(
        _dropping(config, rates[1]), dtype=jnp.dtype(dtype), _do_init=True
    )
    params = converted(reference, port)
    batch = _INPUTS[entry["inputs"]](np.random.default_rng(seed))
    if name == "electra":  # the port takes ones where none are given, the reference zeros
        batch["token_type_ids"] = np.zeros_like(batch["input_ids"])

    def run(params: Any, **arrays: Any) -> Any:
        drawn = {"train": True, "dropout_rng": jax.random.key(seed)} if drawing else {}
        return port(params=params, **arrays, **drawn)

    return Pair(name, reference, _squares, run, params, _squares, batch)


def converted(reference: torch.nn.Module, port: Any) -> Any:
    """Returns a port's parameters for what its reference has now, as transformers converts them."""
    convert = importlib.import_module("transformers.modeling_flax_pytorch_utils").convert_pytorch_state_dict_to_flax
    return convert(dict(reference.state_dict()), port)


def _dropping(config: Any, rate: float) -> Any:
    """Returns a configuration with that rate of dropout everywhere."""
    config = copy.deepcopy(config)
    for part in (
        config,
        *(getattr(config, part) for part in ("text_config", "vision_config") if hasattr(config, part)),
    ):
        for name in _RATES:
            if hasattr(part, name):
                setattr(part, name, rate)
    return config


def _squares(model: Any, **batch: Any) -> Any:
    output = model(**batch)
    first = output[0] if not hasattr(output, "logits_per_image") else output.logits_per_image
    return (first**2).mean()
