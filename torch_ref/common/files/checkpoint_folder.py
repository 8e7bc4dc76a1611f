"""One checkpoint on disk: a folder with its arrays and a manifest with their sha256, renamed into place."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ..checks.arguments import shown

_FORMAT = "checkpoint/1"
_STATE, _MANIFEST = "state.safetensors", "manifest.json"
_BESIDE = ".beside-"  # what is being written, or deleted


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        step: how many steps were taken.
        finished: whether the training ended there.
        settings: of the training, as texts.
        versions: of the packages that took the steps.
        arrays: the state by name.
    """

    step: int
    finished: bool
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint to its place in the folder: beside it first, all on the disk, then renamed.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    target = folder / f"step-{checkpoint.step:010d}"
    beside = folder / f"{_BESIDE}{uuid.uuid4().hex}"
    try:
        beside.mkdir()
        files = {_STATE: safetensors.numpy.save(dict(checkpoint.arrays))}
        of_files = {name: {"bytes": len(held), "sha256": _sha256(held)} for name, held in files.items()}
        content = {"format": _FORMAT, "step": checkpoint.step, "finished": checkpoint.finished, "files": of_files}
        content |= {"settings": dict(checkpoint.settings), "versions": dict(checkpoint.versions)}
        for name, held in (files | {_MANIFEST: _rendered(content)}).items():
            with open(beside / name, "wb") as file:
                file.write(held)
                file.flush()
                os.fsync(file.fileno())
        _sync(beside)
        remove_checkpoint(target)
        os.rename(beside, target)
        _sync(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def read_checkpoint(path: Path) -> Checkpoint:
    """Returns what `write_checkpoint` wrote.

    Raises:
        ValueError: a file is missing, truncated, damaged (one flipped bit is enough) or of another checkpoint; the
            message names it.
    """
    file = path / _MANIFEST
    held = _bytes(file)
    try:
        content = json.loads(held)
        content.pop("sha256")
        if _rendered(content) != held:
            raise ValueError("other bytes than its sha256 says")
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}")
        if path.name != f"step-{content['step']:010d}":
            raise ValueError(f"that of step {content['step']}")
        known = content["files"][_STATE]
        made = Checkpoint(content["step"], content["finished"], content["settings"], content["versions"], {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: expected the manifest of this checkpoint, got {_line(error)}") from error
    file = path / _STATE
    held = _bytes(file)
    if len(held) != known["bytes"]:
        raise ValueError(f"{file}: expected {known['bytes']} bytes, got {len(held)}")
    if _sha256(held) != known["sha256"]:
        raise ValueError(f"{file}: expected sha256 {known['sha256']}, got {_sha256(held)}")
    try:
        arrays = safetensors.numpy.load(held)
    except SafetensorError as error:
        raise ValueError(f"{file}: expected arrays, got {_line(error)}") from error
    return Checkpoint(made.step, made.finished, made.settings, made.versions, arrays)


def check_kind(folder: Path, *others: str) -> None:
    """Raises ValueError where another kind of training keeps its checkpoints in a folder.

    Args:
        folder: of a training.
        others: patterns of what such trainings keep there.
    """
    for other in others:
        if held := next(folder.glob(other), None):
            raise ValueError(
                f"checkpoint: expected a folder of this training alone, got {folder}, which holds "
                f"{held.relative_to(folder)} of another kind of training"
            )


def checkpoints_in(folder: Path) -> list[Path]:
    """Returns the places of the checkpoints in a folder, the latest first; they may be damaged."""
    names = [path.name for path in folder.iterdir()]
    return [folder / name for name in sorted(names, reverse=True) if name.startswith("step-")]


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint, or what lies in its place, in one move: no half of it is ever taken for a damaged one."""
    beside = path.with_name(f"{_BESIDE}{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, beside)
        _remove(beside)


def remove_leftovers(folder: Path) -> None:
    """Removes what a process that died was writing or deleting."""
    for path in folder.iterdir():
        if path.name.startswith(_BESIDE):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _rendered(content: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a manifest, which holds its own sha256."""
    digest = _sha256(json.dumps(dict(content), sort_keys=True).encode())
    return (json.dumps({**content, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: expected a file, found none") from error
    except OSError as error:
        raise ValueError(f"{path}: expected a file that can be read, got {error.strerror}") from error


def _sha256(held: bytes) -> str:
    return hashlib.sha256(held).hexdigest()


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__).strip("'\"")


def _sync(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
