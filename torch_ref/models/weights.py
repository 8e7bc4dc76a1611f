"""Weights to and from numpy, under torch's names and in torch's layout, and files of them that rebuild their model."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ..common.checks.arrays import check_weights
from ..common.files.model_file import read_model, write_model
from .two_head import TwoHead
from .two_in_two_out import TwoInTwoOut

Model = TypeVar("Model", TwoHead, TwoInTwoOut)
MODELS: dict[str, type[TwoHead] | type[TwoInTwoOut]] = {"TwoHead": TwoHead, "TwoInTwoOut": TwoInTwoOut}


def to_numpy(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns a copy of the model's weights, such as `representation.layer0.weight` [out, in].

    Twin: `flax_impl.models.to_numpy`, which takes the parameters.

    Args:
        model: any module; what its `state_dict` holds is copied.

    Returns:
        The arrays by torch's names, in their dtype.

    Raises:
        TypeError: weights in bfloat16, which numpy does not have.

    Example:
        >>> weights = to_numpy(TwoHead(3, [4], [4]))
        >>> weights["representation.layer0.weight"].shape
        (4, 3)
    """
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def from_numpy(model: nn.Module, weights: Mapping[str, np.ndarray]) -> nn.Module:
    """Gives the model these weights, bit for bit and in their dtype, and returns it; it stays on its device.

    Twin: `flax_impl.models.from_numpy`, which returns the parameters.

    Args:
        model: the model; its weights change.
        weights: arrays by torch's names, as `to_numpy` gives them: all of the model's and no others.

    Returns:
        The model.

    Raises:
        ValueError: names missing or unexpected, shapes that do not fit, or no floating numbers; one error lists all.

    Example:
        >>> model = TwoHead(3, [4], [4])
        >>> again = from_numpy(TwoHead(3, [4], [4]), to_numpy(model))
        >>> torch.equal(again.representation.layer0.weight, model.representation.layer0.weight)
        True
    """
    own = model.state_dict(keep_vars=True)
    check_weights(weights, {name: tuple(tensor.shape) for name, tensor in own.items()})
    for name, tensor in own.items():
        tensor.data = torch.tensor(weights[name], device=tensor.device)
    return model


def save_model(path: str | os.PathLike[str], model: TwoHead | TwoInTwoOut) -> None:
    """Writes weights and constructor arguments to one safetensors file, which both packages read.

    Twin: `flax_impl.save_model`, which takes the parameters as well; both write the same bytes.

    Args:
        path: the file; one that is there already is replaced, and folders that are missing are made.
        model: a `TwoHead` or a `TwoInTwoOut`.

    Raises:
        OSError: the file cannot be written.
        TypeError: weights in bfloat16, which numpy does not have.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(f"{folder}/model.safetensors", TwoHead(3, [4], [4]))
        ...     os.listdir(folder)
        ['model.safetensors']
    """
    write_model(path, type(model).__name__, model.config, to_numpy(model))


def load_model(path: str | os.PathLike[str]) -> TwoHead | TwoInTwoOut:
    """Returns the model that `save_model` wrote, in either framework.

    Twin: `flax_impl.load_model`, which returns the model and its parameters.

    Args:
        path: the file that `save_model` wrote.

    Returns:
        The model, on the CPU, with its weights in their dtype.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else; names and shapes that do not fit are listed at once.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(f"{folder}/model.safetensors", TwoHead(3, [4], [4]))
        ...     model = load_model(f"{folder}/model.safetensors")
        >>> model.config["representation_features"]
        [4]
    """
    name, config, weights = read_model(path, MODELS)
    try:
        kind: Any = MODELS[name]
        return rebuild(kind, config, weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error


def rebuild(kind: type[Model], config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Model:
    """Returns a model of these arguments with these weights, as a file holds them.

    Twin: `flax_impl.weights.rebuild`, which returns the model and its parameters.

    Raises:
        TypeError: arguments that the constructor does not have.
        ValueError: names or shapes that do not fit; one error lists all.
    """
    with torch.device("meta"):  # takes no memory: the sizes in a file are not yet to be trusted
        model = kind(**config)
    check_weights(weights, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, assign=True)
    return model
