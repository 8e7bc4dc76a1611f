"""Weights to and from numpy, under torch's names and in torch's layout, and files of them that rebuild their model."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from .hub.checks import check_weights
from .hub.files import read_model, write_model
from .layers import Params
from .two_head import TwoHead
from .two_in_two_out import TwoInTwoOut

Model = TypeVar("Model", TwoHead, TwoInTwoOut)
MODELS: dict[str, type[TwoHead] | type[TwoInTwoOut]] = {"TwoHead": TwoHead, "TwoInTwoOut": TwoInTwoOut}


def to_numpy(params: Params) -> dict[str, np.ndarray]:
    """Returns a copy of the parameters, such as `representation.layer0.weight` [out, in].

    The rule: a path is joined by dots; `kernel` [in, out] becomes `weight` [out, in].

    Twin: `torch_ref.to_numpy`, which takes the model.
    """
    leaves: dict[tuple[str, ...], Any] = flatten_dict(params)
    # Turned over on the host: on the device each shape would be a program to compile.
    return {_name(path): np.array(np.asarray(leaf).T, order="C") for path, leaf in leaves.items()}


def from_numpy(model: TwoHead | TwoInTwoOut, weights: Mapping[str, np.ndarray]) -> Params:
    """Returns these weights, bit for bit and in their dtype, as parameters of the model.

    Twin: `torch_ref.from_numpy`, which gives them to its model.

    Raises:
        ValueError: names missing or unexpected, shapes that do not fit, or no floating numbers; one error lists all. Or
            float64 while JAX's 64-bit mode is off, which would cut off digits without a word.
    """
    check_weights(weights, _shapes(model))
    for name, array in weights.items():
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            raise ValueError(
                f"{name}: expected float32 while JAX's 64-bit mode is off, got {array.dtype}; "
                "turn it on (jax.enable_x64) or convert the weights"
            )
    return unflatten_dict({_path(name): jnp.asarray(array.T) for name, array in weights.items()})


def save_model(path: str | os.PathLike[str], model: TwoHead | TwoInTwoOut, params: Params) -> None:
    """Writes weights and constructor arguments to one safetensors file, which both packages read.

    Twin: `torch_ref.save_model`, whose model holds its parameters; both write the same bytes.

    Raises:
        ValueError: the parameters are not those of the model, or no floating numbers; one error lists all.
    """
    weights = to_numpy(params)
    check_weights(weights, _shapes(model))
    write_model(path, type(model).__name__, model.config, weights)


def load_model(path: str | os.PathLike[str]) -> tuple[TwoHead | TwoInTwoOut, Params]:
    """Returns the model that `save_model` wrote, in either framework, and its parameters.

    Twin: `torch_ref.load_model`, which returns the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else; names and shapes that do not fit are listed at once.
    """
    name, config, weights = read_model(path, MODELS)
    try:
        kind: Any = MODELS[name]
        return rebuild(kind, config, weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error


def rebuild(kind: type[Model], config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[Model, Params]:
    """Returns a model of these arguments and these weights as its parameters, as a file holds them.

    Twin: `torch_ref.weights.rebuild`, which returns the model.

    Raises:
        TypeError: arguments that the constructor does not have.
        ValueError: names or shapes that do not fit; one error lists all.
    """
    model = kind(**config)
    return model, from_numpy(model, weights)


def _shapes(model: TwoHead | TwoInTwoOut) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each weight in torch's layout; it takes no memory, since a file's sizes are not trusted."""
    leaves: dict[tuple[str, ...], Any] = flatten_dict(jax.eval_shape(model.init_params))
    return {_name(path): leaf.shape[::-1] for path, leaf in leaves.items()}


def _name(path: tuple[str, ...]) -> str:
    return ".".join((*path[:-1], "weight" if path[-1] == "kernel" else path[-1]))


def _path(name: str) -> tuple[str, ...]:
    *modules, leaf = name.split(".")
    return (*modules, "kernel" if leaf == "weight" else leaf)
