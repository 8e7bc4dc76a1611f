"""Checkpoints of trainings that run side by side, each at a step of its own: one checkpoint holds them all.

It has what the replicas that ended came to, stacked, and the whole state of those that run. Replicas that nobody has
begun take no place. So a thousand replicas make one file, and no thread waits for another.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from torch_ref.common.files.checkpoint_folder import Checkpoint
from torch_ref.common.files.checkpoints import KeepsCheckpoints

from ..checkpoints.state import pack, unpack

_Arrays = Mapping[str, np.ndarray]


class KeptReplicas:
    """What replicas ended with, and the states of those that run; kept in checkpoints where there are any.

    Args:
        trained: holds the parameters of those that ended, stacked; each is filled in before `end` is called.
        checkpoints: where they are kept, or None.

    Attributes:
        losses: of each replica that ended, by its number.
    """

    def __init__(self, trained: Any, checkpoints: KeepsCheckpoints | None) -> None:
        self.losses: dict[int, np.ndarray] = {}
        self._trained, self._checkpoints, self._lock = trained, checkpoints, threading.Lock()
        self._count = len(jax.tree.leaves(trained)[0])
        self._states: dict[int, _Arrays] = {}  # the last one known of each replica that did not end
        self._running: set[int] = set()
        self._awaited: set[int] = set()  # whose states the next checkpoint waits for
        self._spent = 0.0
        if checkpoints is not None and checkpoints.found is not None:
            self._unpack(checkpoints.found.arrays)

    def begin(self, number: int) -> "KeptReplica | None":
        """Returns the checkpoints of a replica that starts, or goes on; None where nothing is kept."""
        with self._lock:
            self._running.add(number)
        kept = self._checkpoints
        return None if kept is None else KeptReplica(self, kept.every, number, self._states.get(number))

    def steps_of(self, number: int) -> int:
        """Returns how many steps of a replica are known."""
        known = self.losses.get(number)
        return len(known if known is not None else self._states.get(number, {"losses": ()})["losses"])

    def end(self, number: int, losses: np.ndarray) -> None:
        """Takes what a replica ended with; its parameters are among the trained ones already.

        After the last one `finish` writes the checkpoint.
        """
        with self._lock:
            self._running.discard(number)
            self.losses[number] = losses
            self._states.pop(number, None)
            self._arrived(number)

    def finish(self) -> None:
        """Writes the last checkpoint, of all replicas."""
        if self._checkpoints is not None and not (self._checkpoints.found and self._checkpoints.found.finished):
            self._checkpoints.save(self._steps(), self._pack, finished=True)

    def due(self, number: int, step: int) -> bool:
        """Returns whether the state of a replica is wanted after so many of its steps."""
        assert self._checkpoints is not None
        with self._lock:
            if not self._awaited and self._checkpoints.due(step):
                self._awaited = {*self._running}
            every = self._checkpoints.every
            return number in self._awaited and (every is None or step % every == 0)

    def save(self, number: int, arrays: Callable[[], _Arrays]) -> None:
        """Takes the state of a replica, and writes a checkpoint where it is the last that was wanted."""
        began = time.monotonic()
        packed = arrays()
        with self._lock:
            self._states[number] = packed
            self._spent += time.monotonic() - began
            self._arrived(number)

    def _arrived(self, number: int) -> None:
        if number in self._awaited:
            self._awaited.discard(number)
            if not self._awaited and self._checkpoints is not None and len(self.losses) < self._count:
                spent, self._spent = self._spent, 0.0
                self._checkpoints.save(self._steps(), self._pack, spent=spent)

    def _steps(self) -> int:
        """Returns how many steps of all replicas are known."""
        return sum(self.steps_of(number) for number in {*self.losses, *self._states})

    def _pack(self) -> _Arrays:
        arrays = {f"running/{n}/{name}": array for n, state in self._states.items() for name, array in state.items()}
        if not self.losses:
            return arrays
        numbers = np.array(sorted(self.losses))
        histories = [self.losses[number] for number in numbers.tolist()]
        of_ended = pack((jax.tree.map(lambda leaf: leaf[numbers], self._trained),), np.concatenate(histories))
        of_ended |= {"replicas": numbers, "steps": np.array([len(history) for history in histories])}
        return arrays | {f"ended/{name}": array for name, array in of_ended.items()}

    def _unpack(self, arrays: _Arrays) -> None:
        states: dict[int, dict[str, np.ndarray]] = {}
        for name, array in arrays.items():
            if name.startswith("running/"):
                _, number, own = name.split("/", 2)
                states.setdefault(int(number), {})[own] = array
        self._states = {**states}
        if "ended/replicas" not in arrays:
            return
        numbers = arrays["ended/replicas"]
        like = jax.tree.map(lambda leaf: leaf[: len(numbers)], self._trained)
        of_ended = {name.removeprefix("ended/"): array for name, array in arrays.items() if name.startswith("ended/")}
        (params,), losses = unpack((like,), of_ended)
        jax.tree.map(lambda whole, leaf: whole.__setitem__(numbers, leaf), self._trained, params)
        histories = np.split(losses, np.cumsum(of_ended["steps"])[:-1])
        self.losses = dict(zip(numbers.tolist(), histories, strict=True))


class KeptReplica(KeepsCheckpoints):
    """The checkpoints of one replica, as a single training has them.

    Args:
        replicas: all of them.
        every: steps between two, or None.
        number: of this one.
        state: its last one, or None where it begins.
    """

    def __init__(self, replicas: KeptReplicas, every: int | None, number: int, state: _Arrays | None) -> None:
        self._replicas, self._number, self.every = replicas, number, every
        self.found = None if state is None else Checkpoint(len(state["losses"]), False, {}, {}, state)

    def due(self, step: int) -> bool:
        """Returns whether it is time for a checkpoint after this many steps."""
        return self._replicas.due(self._number, step)

    def save(self, step: int, pack: Callable[[], _Arrays], finished: bool = False, spent: float = 0.0) -> None:
        """Keeps the state; that of a finished replica only as what it ended with, once that is known."""
        if not finished:
            self._replicas.save(self._number, pack)
