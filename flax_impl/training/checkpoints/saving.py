"""How the loop of a training makes checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from torch_ref.common.files.checkpoints import KeepsCheckpoints

from ..loop import Saving


def make_saving(
    checkpoints: KeepsCheckpoints,
    losses: np.ndarray | None,
    pack: Callable[[Any, np.ndarray], Mapping[str, np.ndarray]],
) -> Saving:
    """Returns what the loop needs to go on from the checkpoint that was found, and to make more.

    Args:
        checkpoints: of the training.
        losses: of the steps before; None where no checkpoint was found.
        pack: takes a state and the losses of all steps, and returns them as arrays by name.
    """

    def save(done: int, state: Any, losses: Callable[[], np.ndarray], over: bool) -> None:
        if over or checkpoints.due(done):
            checkpoints.save(done, lambda: pack(state, losses()), finished=over)

    found = checkpoints.found
    done, finished = (0, False) if found is None else (found.step, found.finished)
    return Saving(done, losses if finished else None, losses, checkpoints.steps_left, save)
