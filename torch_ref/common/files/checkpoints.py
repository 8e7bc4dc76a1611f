"""The checkpoints of a training: found, checked, written in the background, and the last few kept."""

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from ..checks.arguments import check_integer, listed
from .checkpoint_folder import (
    Checkpoint,
    check_kind,
    checkpoints_in,
    read_checkpoint,
    remove_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from .lock import FolderLock
from .settings_text import differences

# After a checkpoint, where nobody says how many steps later the next one comes: seconds at least, and the share of them
# that it may have cost. It costs what the training waits for, and what the background computes beside it.
_SECONDS, _SHARE = 10.0, 0.02
_KEPT = 3


class KeepsCheckpoints(Protocol):
    """What a training needs of its checkpoints.

    Attributes:
        found: the last good one, or None.
        every: steps between two, or None where a clock says when.
    """

    found: Checkpoint | None
    every: int | None

    def steps_left(self, step: int) -> float:
        """Returns how many steps may follow before the next checkpoint; infinitely many where a clock says when."""
        return math.inf if self.every is None else self.every - step % self.every

    def due(self, step: int) -> bool:
        """Returns whether it is time for a checkpoint after this many steps."""
        ...

    def save(
        self, step: int, pack: Callable[[], Mapping[str, np.ndarray]], finished: bool = False, spent: float = 0.0
    ) -> None:
        """Keeps what `pack` returns, see `Checkpoints.save`."""
        ...


def check_checkpoint(checkpoint: str | os.PathLike[str] | None, every: int | None) -> tuple[Path | None, int | None]:
    """Returns the folder and the steps between two checkpoints, or None for each.

    Raises:
        ValueError: `every` is no whole number of at least 1, or comes alone.
    """
    if checkpoint is None:
        if every is not None:
            raise ValueError(f"every: expected checkpoint with it, got {every!r} alone")
        return None, None
    if not isinstance(checkpoint, str | os.PathLike) or not os.fspath(checkpoint):
        raise ValueError(f"checkpoint: expected the path of a folder, got {checkpoint!r}")
    return Path(checkpoint), None if every is None else check_integer("every", every, at_least=1)


class Checkpoints(KeepsCheckpoints):
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: where they are; it is made if it is not there.
        settings: of the training, as texts: checkpoints of another training are refused.
        versions: of the packages; others than the checkpoint's are a warning.
        every: steps between two, or None for about ten seconds, or more where writing takes long.

    Attributes:
        found: the last good one, or None.

    Raises:
        ValueError: the checkpoints are those of another training, are all damaged, or another process is writing them.
        OSError: the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, str], versions: Mapping[str, str], every: int | None
    ) -> None:
        self.folder, self.settings, self.versions, self.every = folder, settings, versions, every
        self._damaged: list[Path] = []
        self._lock = FolderLock(folder)
        try:
            check_kind(folder, "*/step-*", "*/*/step-*")
            remove_leftovers(folder)
            self.found = self._last_good()
            if self.found is not None:
                self._check(self.found)
        except BaseException:
            self._lock.close()
            raise
        self._last, self._good = time.monotonic(), None if self.found is None else self.found.step
        self._waited = self._computed = 0.0  # seconds, for the last one and of its writing in the background
        self._writer, self._writing = ThreadPoolExecutor(1, "checkpoints"), _nothing()

    def due(self, step: int) -> bool:
        """Returns whether it is time for a checkpoint after this many steps."""
        if self.every is not None:
            return step % self.every == 0
        since = time.monotonic() - self._last
        return self._writing.done() and since >= max(_SECONDS, (self._waited + self._computed) / _SHARE)

    def save(
        self,
        step: int,
        pack: Callable[[], Mapping[str, np.ndarray]],
        finished: bool = False,
        spent: float = 0.0,
    ) -> None:
        """Writes arrays in the background, once those before them are written.

        Args:
            step: after how many steps.
            pack: returns the arrays by name, in C order; nobody may change them later.
            finished: the training ended; it waits until they are written.
            spent: seconds that they took already.

        Raises:
            OSError: this checkpoint or the one before it could not be written.
        """
        began = time.monotonic()
        arrays = dict(pack())
        self._writing.result()
        made = Checkpoint(step, finished, self.settings, self.versions, arrays)
        self._writing, self._last = self._writer.submit(self._write, made), time.monotonic()
        self._waited = spent + self._last - began
        if finished:
            self._writing.result()

    def _write(self, made: Checkpoint) -> None:
        began = time.thread_time()
        try:
            write_checkpoint(self.folder, made)
        except OSError as error:
            kept = "there is none before it" if self._good is None else f"that of step {self._good} is whole"
            got = error.strerror or error
            raise OSError(f"{self.folder}: expected to write the checkpoint of step {made.step}, got {got}; {kept}"
                ) from error  # fmt: skip
        self._good = made.step
        here = [path for path in checkpoints_in(self.folder) if path not in self._damaged]
        for path in (*self._damaged, *here[_KEPT:]):
            if path.name != f"step-{made.step:010d}":
                remove_checkpoint(path)
        self._damaged = []
        self._computed = time.thread_time() - began

    def _last_good(self) -> Checkpoint | None:
        problems: list[str] = []
        for path in checkpoints_in(self.folder):
            try:
                found = read_checkpoint(path)
            except ValueError as error:
                problems.append(str(error))
                self._damaged.append(path)
                continue
            for problem in problems:
                warnings.warn(f"{problem}; the checkpoint of step {found.step} is taken", stacklevel=2)
            return found
        if problems:
            raise ValueError(
                f"checkpoint: expected one that is whole in {self.folder}, got {len(problems)} damaged: "
                f"{'; '.join(problems[:3])}; delete the folder to start anew"
            )
        return None

    def _check(self, found: Checkpoint) -> None:
        if others := differences(found.settings, self.settings):
            raise ValueError(f"checkpoint: expected the training that {self.folder} holds, got another: "
                             f"{'; '.join(others)}")  # fmt: skip
        if others := differences(found.versions, self.versions):
            warnings.warn(f"checkpoint: {self.folder} was written with other versions, and the training may end "
                          f"otherwise: {listed(others)}", stacklevel=2)  # fmt: skip

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()
        self._lock.close()
        if error is None:
            self._writing.result()


def _nothing() -> "Future[None]":
    done: Future[None] = Future()
    done.set_result(None)
    return done
