"""The file of a model: its weights, its name and its constructor's arguments."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks.arguments import check_choice
from .array_file import read_arrays, write_arrays

_MODEL_FORMAT = "model/1"

_LINEN = ("parent", "name")  # arguments that every Linen module has besides its own


def write_model(
    path: str | os.PathLike[str], name: str, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> None:
    """Writes the weights of a model, its name and its constructor's arguments."""
    write_arrays(path, weights, {"format": _MODEL_FORMAT, "model": name, "config": dict(config)})


def read_model(
    path: str | os.PathLike[str], models: Mapping[str, type]
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Returns the name, the constructor's arguments and the weights that `write_model` put into a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another format, or of a model or arguments that `models` do not have.
    """
    weights, metadata = read_arrays(path)
    name, config = str(metadata.get("model")), metadata.get("config")
    try:
        check_choice("format", metadata.get("format"), [_MODEL_FORMAT])
        check_choice("model", name, models)
        if not isinstance(config, dict):
            raise ValueError(f"config: expected the arguments of {name}, got {config!r}")
        arguments = [argument for argument in inspect.signature(models[name]).parameters if argument not in _LINEN]
        for argument in config:
            check_choice(f"argument of {name}", argument, arguments)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return name, config, weights
