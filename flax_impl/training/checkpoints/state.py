"""The state of a training as arrays by name, and back, for its checkpoints."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from torch_ref.common.files.checkpoints import Checkpoints
from torch_ref.common.files.settings_text import versions_of
from torch_ref.common.files.shared_checkpoints import SharedCheckpoints

from ..devices import fetch, is_shared, tell_all


def open_checkpoints(
    folder: Path | None, every: int | None, settings: Mapping[str, str], mesh: Mesh | None, *more: str
) -> AbstractContextManager[Checkpoints | SharedCheckpoints | None]:
    """Returns the checkpoints of a training, or None where nobody asked for them, for a `with` statement.

    Twin: `torch_ref.training.checkpoints.state.open_checkpoints`.

    Args:
        folder: where they are.
        every: steps between two.
        settings: of the training, as texts.
        mesh: of several processes, or not; process 0 reads and writes for all.
        more: packages that have a part in it, besides those of every training.
    """
    if folder is None:
        return nullcontext()
    versions = versions_of("twohead", "jax", "jaxlib", "flax", "optax", *more)

    def opened() -> Checkpoints:
        return Checkpoints(folder, {"framework": "flax", **settings}, versions, every)

    if not is_shared(mesh):
        return opened()
    return SharedCheckpoints(opened if jax.process_index() == 0 else None, every, tell_all)


def pack(state: Any, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a training's state and its losses so far, by name.

    Twin: `torch_ref.training.checkpoints.state.pack`, whose state are objects.

    Args:
        state: parameters, the optimiser's state, and the watch of an early stopping or None.
        losses: [steps, columns] so far.
    """
    arrays = {name: np.array(fetch(leaf), order="C") for name, leaf in _leaves(state)[0]}  # steps reuse the memory
    return arrays | {"losses": losses}


def unpack(state: Any, arrays: Mapping[str, np.ndarray]) -> tuple[Any, np.ndarray]:
    """Returns the state and the losses that `pack` took apart.

    Twin: `torch_ref.training.checkpoints.state.unpack`, which fills objects.

    Args:
        state: one of the same structure, such as that before the first step.
        arrays: by name.

    Raises:
        ValueError: arrays are missing, or of another shape or dtype.
    """
    leaves, structure = _leaves(state)
    for name, leaf in leaves:
        expected, array = f"{leaf.dtype}{list(leaf.shape)}", arrays.get(name)
        found = "none" if array is None else f"{array.dtype}{list(array.shape)}"
        if found != expected:
            raise ValueError(f"checkpoint: expected {name} as {expected}, got {found}")
    return jax.tree.unflatten(structure, [arrays[name] for name, _ in leaves]), arrays["losses"]


def _leaves(state: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Returns the leaves by name, in their order, and the structure of the state."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    parts = ("params", "optimizer", "watch")
    names = []
    for path, _ in leaves:
        part: Any = path[0]
        names.append(f"{parts[part.idx]}/{jax.tree_util.keystr(tuple(path[1:]), simple=True, separator='/')}")
    if len({*names}) < len(names):
        raise ValueError("checkpoint: expected names of parameters that '/' joins apart, got two alike")
    return list(zip(names, (leaf for _, leaf in leaves), strict=True)), structure
