"""The state of a training as arrays by name, and back, for its checkpoints."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from ...common.files.checkpoints import Checkpoints
from ...common.files.settings_text import versions_of
from ...common.files.shared_checkpoints import SharedCheckpoints
from ..early_stopping import Watch
from ..processes import Share

_BETWEEN = 16  # steps after which several processes ask the clock of process 0


@dataclass(frozen=True)
class Training:
    """The objects that hold a training's state.

    Args:
        model: with the parameters.
        optimizer: that moves them.
        scheduler: that moves the optimiser's rate.
        average: keeps the running average, or None.
        watch: of an early stopping, or None.
        share: of the processes that train it; each has a random state of its own.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: lr_scheduler.LRScheduler
    average: AveragedModel | None
    watch: Watch | None
    share: Share


def open_checkpoints(
    folder: Path | None, every: int | None, settings: Mapping[str, str], share: Share
) -> AbstractContextManager[Checkpoints | SharedCheckpoints | None]:
    """Returns the checkpoints of a training, or None where nobody asked for them, for a `with` statement.

    Twin: `flax_impl.training.checkpoints.state.open_checkpoints`.

    Args:
        folder: where they are.
        every: steps between two.
        settings: of the training, as texts.
        share: of several processes, or not; process 0 reads and writes for all.
    """
    if folder is None:
        return nullcontext()

    def opened() -> Checkpoints:
        return Checkpoints(folder, {"framework": "torch", **settings}, versions_of("twohead", "torch"), every)

    if share.group is None:
        return opened()
    return SharedCheckpoints(opened if share.process[0] == 0 else None, every, share.tell_all, between=_BETWEEN)


def pack(state: Training, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a training's state and its losses so far, by name.

    Twin: `flax_impl.training.checkpoints.state.pack`, whose state is a tree of arrays.

    Args:
        state: the objects that hold it.
        losses: [steps, columns] so far.
    """
    arrays: dict[str, Any] = _named("params", state.model.state_dict())
    held = state.optimizer.state_dict()
    for number, of_weight in held["state"].items():
        arrays |= _named(f"optimizer/{number}", of_weight)
    arrays["optimizer/lr"] = np.array([group["lr"] for group in held["param_groups"]])
    arrays["optimizer/steps"] = np.array(state.scheduler.last_epoch)
    if state.average is not None:
        arrays |= _named("average", state.average.state_dict())
    if state.watch is not None:
        arrays |= _named("watch/params", state.watch.params)
        arrays |= {"watch/loss": np.array(state.watch.loss), "watch/waited": np.array(state.watch.waited)}
        arrays["watch/ended"] = np.array(state.watch.ended)
    arrays["random/cpu"] = state.share.gather(torch.get_rng_state()).numpy()
    if torch.cuda.is_available():
        states = enumerate(torch.cuda.get_rng_state_all())
        arrays |= {f"random/cuda{i}": state.share.gather(made).numpy() for i, made in states}
    return arrays | {"losses": losses}


def unpack(state: Training, arrays: Mapping[str, np.ndarray]) -> tuple[Training, np.ndarray]:
    """Returns the state and the losses that `pack` took apart.

    Twin: `flax_impl.training.checkpoints.state.unpack`, which makes a new tree.

    Args:
        state: the objects before the first step; they are filled.
        arrays: by name.

    Raises:
        ValueError: arrays are missing, or of another shape.
    """
    try:
        state.model.load_state_dict(_under("params", arrays))
        held = state.optimizer.state_dict()
        of_weights: dict[int, dict[str, Any]] = {}
        for name, array in _under("optimizer", arrays).items():
            number, _, field = name.partition("/")
            if field:
                of_weights.setdefault(int(number), {})[field] = array
        rates, steps = arrays["optimizer/lr"].tolist(), int(arrays["optimizer/steps"])
        groups = [group | {"lr": rate} for group, rate in zip(held["param_groups"], rates, strict=True)]
        state.optimizer.load_state_dict({"state": of_weights, "param_groups": groups})
        place = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates}
        state.scheduler.load_state_dict(state.scheduler.state_dict() | place)
        if state.average is not None:
            state.average.load_state_dict(_under("average", arrays))
        if state.watch is not None:
            device = next(state.model.parameters()).device
            state.watch.params = {name: array.to(device) for name, array in _under("watch/params", arrays).items()}
            state.watch.loss = float(arrays["watch/loss"])
            state.watch.waited, state.watch.ended = int(arrays["watch/waited"]), int(arrays["watch/ended"])
        torch.set_rng_state(_own_part(state.share, arrays["random/cpu"]))
        devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        for i in devices:
            if f"random/cuda{i}" in arrays:
                torch.cuda.set_rng_state(_own_part(state.share, arrays[f"random/cuda{i}"]), i)
        return state, arrays["losses"]
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint: expected the arrays of this training, got {error}") from error


def _named(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns copies: the training goes on in the memory of the tensors."""
    given = {f"{part}/{name}": value.detach().cpu() for name, value in values.items() if value is not None}
    return {name: np.array(value.numpy(), order="C") for name, value in given.items()}


def _under(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = {name[len(part) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{part}/")}
    return {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def _own_part(share: Share, states: np.ndarray) -> torch.Tensor:
    """Returns the random state of this process; one that was not there takes that of process 0."""
    return torch.from_numpy(np.array(states[share.process[0] if share.process[0] < len(states) else 0]))
