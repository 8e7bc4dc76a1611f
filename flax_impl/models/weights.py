"""Weights to and from numpy, under torch's names and in torch's layout, and files of them that rebuild their model."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from torch_ref.common.checks.arrays import check_weights
from torch_ref.common.files.model_file import read_model, write_model

from . import nnx
from .layers import Params
from .two_head import TwoHead
from .two_in_two_out import TwoInTwoOut

Model = TypeVar("Model", TwoHead, TwoInTwoOut)
AnyModel = TwoHead | TwoInTwoOut | nnx.TwoHead | nnx.TwoInTwoOut
MODELS: dict[str, type[TwoHead] | type[TwoInTwoOut]] = {"TwoHead": TwoHead, "TwoInTwoOut": TwoInTwoOut}


def to_numpy(params: Params) -> dict[str, np.ndarray]:
    """Returns a copy of the parameters, such as `representation.layer0.weight` [out, in].

    The rule: a path is joined by dots; `kernel` [in, out] becomes `weight` [out, in]. Others keep name and layout.

    Twin: `torch_ref.models.to_numpy`, which takes the model.

    Args:
        params: a model's parameters, by module and name.

    Returns:
        The arrays by torch's names, in their dtype.

    Raises:
        AssertionError: `params` is no dict, in Flax's words.

    Example:
        >>> weights = to_numpy(TwoHead(3, [4], [4]).init_params(seed=0))
        >>> weights["representation.layer0.weight"].shape
        (4, 3)
    """
    leaves: dict[tuple[str, ...], Any] = flatten_dict(params)
    # Turned over on the host: on the device each shape would be a program to compile.
    return {_name(path): np.array(_turned(path, np.asarray(leaf)), order="C") for path, leaf in leaves.items()}


def from_numpy(model: AnyModel, weights: Mapping[str, np.ndarray]) -> Params:
    """Returns these weights, bit for bit and in their dtype, as parameters of the model.

    Twin: `torch_ref.models.from_numpy`, which gives them to its model.

    Args:
        model: the model, which says what shapes there are.
        weights: arrays by torch's names, as `to_numpy` gives them: all of the model's and no others.

    Returns:
        The parameters, on the default device.

    Raises:
        ValueError: names missing or unexpected, shapes that do not fit, or no floating numbers; one error lists all. Or
            float64 while JAX's 64-bit mode is off, which would cut off digits without a word.

    Example:
        >>> model = TwoHead(3, [4], [4])
        >>> params = model.init_params(seed=0)
        >>> again = from_numpy(model, to_numpy(params))
        >>> jax.tree.all(jax.tree.map(jnp.array_equal, again, params))
        True
    """
    check_weights(weights, _shapes(model))
    for name, array in weights.items():
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            raise ValueError(
                f"{name}: expected float32 while JAX's 64-bit mode is off, got {array.dtype}; "
                "turn it on (jax.enable_x64) or convert the weights"
            )
    by_path = {_path(name): array for name, array in weights.items()}
    return unflatten_dict({path: jnp.asarray(_turned(path, array)) for path, array in by_path.items()})


def save_model(path: str | os.PathLike[str], model: AnyModel, params: Params) -> None:
    """Writes weights and constructor arguments to one safetensors file, which both packages read.

    Twin: `torch_ref.save_model`, whose model holds its parameters; both write the same bytes.

    Args:
        path: the file; one that is there already is replaced, and folders that are missing are made.
        model: a `TwoHead` or a `TwoInTwoOut`.
        params: its parameters.

    Raises:
        ValueError: the parameters are not those of the model, or no floating numbers; one error lists all.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> model = TwoHead(3, [4], [4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(f"{folder}/model.safetensors", model, model.init_params(seed=0))
        ...     os.listdir(folder)
        ['model.safetensors']
    """
    weights = to_numpy(params)
    check_weights(weights, _shapes(model))
    write_model(path, type(model).__name__, model.config, weights)


def load_model(path: str | os.PathLike[str]) -> tuple[TwoHead | TwoInTwoOut, Params]:
    """Returns the model that `save_model` wrote, in either framework, and its parameters.

    Twin: `torch_ref.load_model`, which returns the model.

    Args:
        path: the file that `save_model` wrote.

    Returns:
        `(model, params)`; the parameters have the file's dtype.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else; names and shapes that do not fit are listed at once.
            Or it holds float64 while JAX's 64-bit mode is off.

    Example:
        >>> import tempfile
        >>> model = TwoHead(3, [4], [4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(f"{folder}/model.safetensors", model, model.init_params(seed=0))
        ...     model, params = load_model(f"{folder}/model.safetensors")
        >>> model.config["representation_features"]
        [4]
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


def _shapes(model: AnyModel) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each weight in torch's layout; it takes no memory, since a file's sizes are not trusted."""
    leaves: dict[tuple[str, ...], Any] = flatten_dict(jax.eval_shape(model.init_params))
    return {_name(path): leaf.shape[::-1] if path[-1] == "kernel" else leaf.shape for path, leaf in leaves.items()}


def _turned(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Returns an array as the other side has it: a kernel turned over, any other as it is."""
    return array.T if path[-1] == "kernel" else array


def _name(path: tuple[str, ...]) -> str:
    names = map(str, path)  # NNX numbers the modules of a list
    return ".".join("weight" if name == "kernel" and i == len(path) - 1 else name for i, name in enumerate(names))


def _path(name: str) -> tuple[str, ...]:
    *modules, leaf = name.split(".")
    return (*modules, "kernel" if leaf == "weight" else leaf)
