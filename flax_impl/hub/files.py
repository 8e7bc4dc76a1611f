"""Files that are whole or not there: written beside their target and renamed, and checked when read."""

import hashlib
import inspect
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from .checks import check_choice, check_shape, listed, shown
from .data import Scales

_KEY = "twohead"
_MODEL_FORMAT = "model/1"
_EFFECTS_FORMAT = "effects/1"
_SCALES = ("x_mean", "x_std", "y_mean", "y_std")
_LINEN = ("parent", "name")  # arguments that every Linen module has besides its own


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it to `path` when all went well.

    Whoever reads `path` meanwhile, or after a crash, finds the old file or the new one, never a half; of two that write
    at once, one wins. A link stays one, and a file that is there already keeps its mode.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        yield beside
        if target.exists():
            shutil.copymode(target, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Writes arrays and JSON metadata to one safetensors file; the same content gives the same bytes.

    Args:
        path: the file to write.
        arrays: the arrays by name.
        metadata: anything that JSON holds. It goes under a single key, since safetensors keeps no order among several.
    """
    # safetensors writes the memory as it lies: a transposed view would come back as another matrix.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps({**metadata, "sha256": _digest(arrays, metadata)}, sort_keys=True)
    with replacing(path) as beside:
        beside.write_bytes(safetensors.numpy.save(arrays, {_KEY: text}))


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the metadata that `write_arrays` put into a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged (one flipped bit is enough), or not one of ours.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected a safetensors file, found none")
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            metadata = json.loads((file.metadata() or {})[_KEY])
        stored = metadata.pop("sha256")
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a safetensors file written by this package, got {shown(error)}") from error
    found = _digest(arrays, metadata)
    if stored != found:
        raise ValueError(f"{path}: expected content of sha256 {stored}, got {found}: the file is damaged")
    return arrays, metadata


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


class Ensemble(NamedTuple):
    """The nets of an ensemble, and what turns a table into their input and their output into effects.

    Attributes:
        config: the constructor's arguments of each net.
        weights: of each net, by torch's names.
        scales: of features and outcome.
        feature_names: of the columns.
        bootstrap: the members were trained on bootstrap rows.
        settings: of the estimator that trained it; anything that JSON holds.
    """

    config: dict[str, Any]
    weights: list[dict[str, np.ndarray]]
    scales: Scales
    feature_names: tuple[str, ...]
    bootstrap: bool
    settings: dict[str, Any]


def write_ensemble(path: str | os.PathLike[str], ensemble: Ensemble) -> None:
    """Writes an ensemble to one safetensors file, which both packages read."""
    stacked = {name: np.stack([net[name] for net in ensemble.weights]) for name in ensemble.weights[0]}
    arrays = stacked | {f"scales.{name}": getattr(ensemble.scales, name) for name in _SCALES}
    metadata = {
        "format": _EFFECTS_FORMAT,
        "config": ensemble.config,
        "binary": ensemble.scales.binary,
        "feature_names": list(ensemble.feature_names),
        "bootstrap": ensemble.bootstrap,
        "settings": ensemble.settings,
    }
    write_arrays(path, arrays, metadata)


def read_ensemble(path: str | os.PathLike[str]) -> Ensemble:
    """Returns the ensemble that `write_ensemble` put into a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    arrays, metadata = read_arrays(path)
    try:
        check_choice("format", metadata.get("format"), [_EFFECTS_FORMAT])
        scales = Scales(*(arrays.pop(f"scales.{name}") for name in _SCALES), binary=bool(metadata["binary"]))
        members = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(members) != 1 or 0 in members:
            raise ValueError(f"weights: expected [members, …] each, got {listed(sorted(members))} members")
        weights = [{name: array[number] for name, array in arrays.items()} for number in range(members.pop())]
        config, names = dict(metadata["config"]), tuple(map(str, metadata["feature_names"]))
        check_shape("y_mean", scales.y_mean, (1,))
        check_shape("y_std", scales.y_std, (1,))
        for name, array in (("x_mean", scales.x_mean), ("x_std", scales.x_std), ("feature_names", names)):
            if len(array) != config["in_features"]:
                raise ValueError(
                    f"{name}: expected {config['in_features']} of them, as the nets take, got {len(array)}"
                )
        return Ensemble(config, weights, scales, names, bool(metadata["bootstrap"]), dict(metadata["settings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
