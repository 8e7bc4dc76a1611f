"""A training in stages, each with checkpoints in a folder of its own."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from torch_ref.common.files.checkpoint_folder import check_kind
from torch_ref.common.files.checkpoints import check_checkpoint
from torch_ref.common.files.lock import FolderLock
from torch_ref.common.files.shared_checkpoints import done_by_first

from ..devices import is_shared, raising_lost_peers, tell_all
from .state import open_checkpoints


@dataclass(frozen=True)
class Stages:
    """Where the stages of a training keep their checkpoints.

    Args:
        folder: that has a folder for each stage; None where nothing is kept.
        every: steps between two checkpoints, or None.
        mesh: of the training.
    """

    folder: Path | None
    every: int | None
    mesh: Mesh | None

    def of(self, stage: str) -> Path | None:
        """Returns the folder of a stage."""
        return None if self.folder is None else self.folder / stage

    def keep(
        self, stage: str, settings: Mapping[str, str], compute: Callable[[], dict[str, np.ndarray]], *packages: str
    ) -> dict[str, np.ndarray]:
        """Returns what a stage computes in one go, or what it computed before.

        Args:
            stage: its name.
            settings: what it depends on, as texts.
            compute: returns arrays by name, in C order.
            packages: that have a part in it.
        """
        with (
            raising_lost_peers(self.mesh),
            open_checkpoints(self.of(stage), None, settings, self.mesh, *packages) as checkpoints,
        ):
            if checkpoints is not None and checkpoints.found is not None:
                return dict(checkpoints.found.arrays)
            arrays = compute()
            if checkpoints is not None:
                checkpoints.save(1, lambda: arrays, finished=True)
            return arrays


@contextmanager
def in_stages(
    checkpoint: str | os.PathLike[str] | None, every: int | None, mesh: Mesh | None, *others: str
) -> Iterator[Stages]:
    """Yields the stages of a training, whose folder no other training uses meanwhile.

    Args:
        checkpoint: the folder of all stages, or None.
        every: steps between two checkpoints, or None.
        mesh: of the training; process 0 keeps others out for all.
        others: patterns of the stages that another kind of training has.

    Raises:
        ValueError: no path of a folder, another training is in it, or another kind of training kept its stages there.
        OSError: the folder cannot be written to.
    """
    stages = Stages(*check_checkpoint(checkpoint, every), mesh)
    locks: list[FolderLock] = []

    def lock() -> bytes:
        if stages.folder is not None:
            locks.append(FolderLock(stages.folder))
            check_kind(stages.folder, "step-*", *others)
        return b""

    try:
        if not is_shared(mesh):
            lock()
        elif stages.folder is not None:
            with raising_lost_peers(mesh):
                done_by_first(lock if jax.process_index() == 0 else None, tell_all)
        yield stages
    finally:
        for one in locks:
            one.close()
