"""Checkpoints of a training that several processes share: process 0 reads and writes them, and tells the others.

So the folder need not lie on a disk that all can see, and all go on from the same checkpoint.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

import numpy as np
import safetensors.numpy

from .checkpoint_folder import Checkpoint
from .checkpoints import Checkpoints, KeepsCheckpoints

# Takes the bytes of this process, and returns those of process 0 in every process.
Tell = Callable[[bytes], bytes]
_ERRORS: dict[str, type[Exception]] = {"OSError": OSError, "ValueError": ValueError, "RuntimeError": RuntimeError}


def done_by_first(act: Callable[[], bytes] | None, tell: Tell) -> bytes:
    """Does something in process 0, and returns its result in every process, or raises its error there.

    Args:
        act: what process 0 does; None in the others.
        tell: gives the bytes of process 0 to all.
    """
    if act is not None:
        try:
            held = act()
        except Exception as error:
            kind = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), "RuntimeError")
            tell(f"{kind}:{error}".encode())
            raise
        tell(b":" + held)
        return held
    kind, _, held = tell(b"").partition(b":")
    if kind:
        raise _ERRORS[kind.decode()](held.decode())
    return held


class SharedCheckpoints(KeepsCheckpoints):
    """The checkpoints of a training that several processes share.

    Args:
        open_own: opens the checkpoints, in process 0; None in the others.
        every: steps between two, or None for about ten seconds.
        tell: gives the bytes of process 0 to all; every process calls it as often as the others.
        between: the clock is asked after so many steps, where each step asks: all have to wait for the answer.

    Attributes:
        found: the last good one, or None.

    Raises:
        ValueError: as `Checkpoints`, in every process.
        OSError: as `Checkpoints`, in every process.
    """

    def __init__(
        self, open_own: Callable[[], Checkpoints] | None, every: int | None, tell: Tell, between: int = 1
    ) -> None:
        self.every, self._tell, self._between, self._own = every, tell, between, None
        with ExitStack() as stack:

            def opened() -> bytes:
                assert open_own is not None
                self._own = stack.enter_context(open_own())
                return _to_bytes(self._own.found)

            self.found = _from_bytes(done_by_first(None if open_own is None else opened, tell))
            self._stack: AbstractContextManager[object] = stack.pop_all()

    def due(self, step: int) -> bool:
        """Returns whether it is time for a checkpoint after this many steps, by the clock of process 0."""
        if self.every is not None:
            return step % self.every == 0
        if self._between > 1 and step % self._between:
            return False
        return self._tell(b"1" if self._own is not None and self._own.due(step) else b"0") == b"1"

    def save(
        self, step: int, pack: Callable[[], Mapping[str, np.ndarray]], finished: bool = False, spent: float = 0.0
    ) -> None:
        """Writes arrays as `Checkpoints.save` does; every process packs, since all may hold a part of the state.

        Raises:
            OSError: this checkpoint or the one before it could not be written.
        """
        began = time.monotonic()
        arrays, own = pack(), self._own

        def saved() -> bytes:
            assert own is not None
            own.save(step, lambda: arrays, finished, spent=spent + time.monotonic() - began)
            return b""

        done_by_first(None if own is None else saved, self._tell)

    def __enter__(self) -> "SharedCheckpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _to_bytes(found: Checkpoint | None) -> bytes:
    """Returns what the other processes need of a checkpoint."""
    if found is None:
        return b""
    return safetensors.numpy.save(dict(found.arrays), {"place": json.dumps([found.step, found.finished])})


def _from_bytes(held: bytes) -> Checkpoint | None:
    if not held:
        return None
    header = json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")])
    step, finished = json.loads(header["__metadata__"]["place"])
    return Checkpoint(step, finished, {}, {}, safetensors.numpy.load(held))
