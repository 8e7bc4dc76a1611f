"""One training over several processes, as DistributedDataParallel has it: each takes its share of every batch.

DDP averages gradients over the processes. That is the gradient of the mean over the whole batch only where each local
sum is divided by the count of the whole batch. With local counts, one treated row in one process would weigh as much as
fifty in another.
"""

import atexit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..common.checks.arguments import shown
from ..common.checks.peers import PEER_LOST, check_processes, peers_not_found
from .balance import CFRLoss


def initialize_distributed(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of a training; called once, before anything else.

    Twin: `flax_impl.training.initialize_distributed`.

    Args:
        coordinator: host and port of process 0, such as `"10.0.0.1:5700"`; None, with the two others, takes them from
            the environment, where `torchrun` puts them.
        processes: how many processes there are.
        process_id: the number of this one, from 0.

    Raises:
        ValueError: only some of the three are given, or they make no sense.
        ConnectionError: the others were not to be found.

    Example:
        >>> initialize_distributed("10.0.0.1:5700", processes=2, process_id=0)  # doctest: +SKIP
        >>> initialize_distributed("10.0.0.1:5700", processes=2)
        Traceback (most recent call last):
            ...
        ValueError: process_id: expected all of coordinator, processes, process_id, or none, got None
    """
    check_processes(coordinator, processes, process_id)
    arguments: dict[str, Any] = {"timeout": timedelta(minutes=5)}  # a peer may freeze, and torch waits half an hour
    if coordinator is not None:
        arguments |= {"init_method": f"tcp://{coordinator}", "world_size": processes, "rank": process_id}
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", **arguments)
    except (RuntimeError, ValueError) as error:  # torch's own words for a time that is over, or an empty environment
        raise ConnectionError(f"coordinator: {peers_not_found(coordinator)}: {error}") from error
    atexit.register(_leave)


def _leave() -> None:
    """Leaves the others in order: threads of gloo's that outlive the interpreter abort the process now and then."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Share:
    """What one process does of a training that several share; without a group it does all.

    Args:
        group: the processes, such as `torch.distributed.group.WORLD`, or None.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group

    @property
    def process(self) -> tuple[int, int]:
        """Returns this process's number in the group, and how many there are."""
        return (0, 1) if self.group is None else (dist.get_rank(self.group), dist.get_world_size(self.group))

    def tell_all(self, held: bytes) -> bytes:
        """Returns the bytes of process 0 in every process; each of them calls it as often as the others."""
        told = [held]
        dist.broadcast_object_list(told, group=self.group, group_src=0)
        return told[0]

    def gather(self, own: Tensor) -> Tensor:
        """Returns what each process gives, stacked; as many numbers of each."""
        if self.group is None:
            return own[None]
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, own, group=self.group)
        return torch.stack(found)

    def rows(self, index: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns this process's part of a batch's row numbers and mask; alone, the rows that count."""
        if self.group is None:
            return index[mask], mask[mask]
        rank, parts = self.process
        more = -len(index) % parts
        index, mask = (np.pad(array, (0, more)) for array in (index, mask))
        return np.split(index, parts)[rank], np.split(mask, parts)[rank]

    @contextmanager
    def over(self, model: nn.Module, loss: Any) -> Iterator[Any]:
        """Yields a function of a batch that returns its losses, whose gradients are averaged on the way back.

        Raises:
            ValueError: a loss that processes cannot share.
            ConnectionError: a peer process died.
        """
        if self.group is None:
            yield lambda batch: loss(model, **batch)
            return
        _check_shareable(loss)
        try:
            # Static: every step runs the same graph, even with an arm that has no rows. Parameters that a loss leaves
            # unused are allowed so, and need no search in each step.
            yield DistributedDataParallel(
                SharedLosses(model, loss, self.group), process_group=self.group, static_graph=True
            )
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
                raise ConnectionError(f"process_group: {PEER_LOST}: {error}") from error
            raise

    def mean(self, losses: Tensor) -> Tensor:
        """Returns the losses of the whole batches."""
        if self.group is not None:
            dist.all_reduce(losses, group=self.group)
            losses = losses / dist.get_world_size(self.group)
        return losses


class SharedLosses(nn.Module):
    """A model and its loss in one call: DDP wants one call of `forward` a step, and the article makes two.

    Each part is scaled so that the average over the processes divides by the rows of the whole batch.
    """

    def __init__(self, model: nn.Module, loss: Any, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.model, self.loss, self.group = model, loss, group

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Returns the scaled parts of the loss."""
        local = self.loss.counts(**batch)
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        total = torch.tensor(local, device=device)
        dist.all_reduce(total, group=self.group)
        processes = dist.get_world_size(self.group)
        scales = [processes * max(own, 1) / max(every, 1) for own, every in zip(local, total.tolist(), strict=True)]
        return tuple(part * scale for part, scale in zip(self.loss(self.model, **batch), scales, strict=True))


def _check_shareable(loss: Any) -> None:
    """Raises ValueError unless every part of the loss is a mean over rows that it counts."""
    if isinstance(loss, CFRLoss):
        raise ValueError("process_group: expected None with CFRLoss, whose penalty sees whole batches, got one")
    if not hasattr(loss, "counts"):
        raise ValueError(
            f"process_group: expected FactualLoss or JointLoss, which count the rows they divide by, got {shown(loss)}"
        )
