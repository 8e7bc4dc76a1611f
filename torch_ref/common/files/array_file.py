"""Files that are whole or not there: written beside their target and renamed, and checked when read."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ..checks.arguments import shown

_KEY = "twohead"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it to `path` when all went well.

    Whoever reads `path` meanwhile, or after a crash, finds the old file or the new one, never a half; of two that write
    at once, one wins. A link stays one, and a file that is there already keeps its mode.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write, got a folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path}: expected a file to write, got one in a file") from error
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
    text = _rendered(metadata, _digest(arrays, metadata))
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
            text = (file.metadata() or {})[_KEY]
        metadata = json.loads(text)
        stored = metadata.pop("sha256")
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a safetensors file written by this package, got {shown(error)}") from error
    found = _digest(arrays, metadata)
    if stored != found:
        raise ValueError(f"{path}: expected content of sha256 {stored}, got {found}: the file is damaged")
    if _rendered(metadata, stored) != text:  # another spelling of the same, such as 1E-05
        raise ValueError(f"{path}: expected metadata as this package spells it, got another: the file is damaged")
    return arrays, metadata


def _rendered(metadata: Mapping[str, Any], digest: str) -> str:
    return json.dumps({**metadata, "sha256": digest}, sort_keys=True)


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
