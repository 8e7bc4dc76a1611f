"""Learning rate schedules by name; the arguments are torch's, and so is their meaning.

A schedule moves with the optimiser's steps, not with the epochs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import lr_scheduler

from .hub.checks import check_integer, check_numbers
from .hub.settings import make_settings


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the optimiser's steps; the classes below are the ones there are.

    Raises:
        TypeError: from `build`, where it is this class and none of those below.

    Example:
        >>> sorted(SCHEDULES)
        ['constant', 'cosine', 'exponential', 'step']
        >>> isinstance(Step(step_size=10), Schedule)
        True
    """

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Returns torch's scheduler, to be stepped after every optimiser step.

        Args:
            optimizer: whose learning rate the schedule moves.

        Raises:
            TypeError: this is the base class, which is no schedule by itself.
        """
        raise TypeError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {type(self).__name__}")


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays `lr`.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = Constant().build(optimizer)
        >>> for _ in range(4):
        ...     print(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        1.0
        1.0
        1.0
        1.0
    """

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Returns torch's scheduler, to be stepped after every optimiser step.

        Args:
            optimizer: whose learning rate the schedule moves.
        """
        return lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """`lr` times `gamma` for every `step_size` steps that are done.

    Args:
        step_size: steps from one fall to the next.
        gamma: the factor of a fall.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = Step(step_size=2, gamma=0.1).build(optimizer)
        >>> for _ in range(4):
        ...     print(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        1.0
        1.0
        0.1
        0.1
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", check_integer("step_size", self.step_size, at_least=1))
        check_numbers(self, gamma={"above": 0})

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Returns torch's scheduler, to be stepped after every optimiser step.

        Args:
            optimizer: whose learning rate the schedule moves.
        """
        return lr_scheduler.StepLR(optimizer, self.step_size, self.gamma)


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """`lr` times `gamma` for every step that is done.

    Args:
        gamma: the factor of each step.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = Exponential(gamma=0.9).build(optimizer)
        >>> for _ in range(4):
        ...     print(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        1.0
        0.9
        0.81
        0.73
    """

    gamma: float

    def __post_init__(self) -> None:
        check_numbers(self, gamma={"above": 0})

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Returns torch's scheduler, to be stepped after every optimiser step.

        Args:
            optimizer: whose learning rate the schedule moves.
        """
        return lr_scheduler.ExponentialLR(optimizer, self.gamma)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """From `lr` down to `eta_min` along half a cosine, and up again after that, as torch does.

    Args:
        T_max: steps from top to bottom.
        eta_min: the rate at the bottom.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = Cosine(T_max=2, eta_min=0.1).build(optimizer)
        >>> for _ in range(4):
        ...     print(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        1.0
        0.55
        0.1
        0.55

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    """

    T_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_max", check_integer("T_max", self.T_max, at_least=1))
        check_numbers(self, eta_min={"at_least": 0})

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Returns torch's scheduler, to be stepped after every optimiser step.

        Args:
            optimizer: whose learning rate the schedule moves.
        """
        return lr_scheduler.CosineAnnealingLR(optimizer, self.T_max, self.eta_min)


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "exponential": Exponential,
    "step": Step,
}


def make_schedule(name: str, **arguments: Any) -> Schedule:
    """Returns the schedule of that name.

    Args:
        name: one of `SCHEDULES`: `"constant"`, `"cosine"`, `"exponential"` or `"step"`.
        arguments: those of the schedule's class, by name.

    Returns:
        The schedule, a frozen dataclass.

    Raises:
        ValueError: an unknown name, or an argument that this schedule lacks; the message lists those there are. Or an
            argument that is missing or out of bounds.

    Example:
        >>> make_schedule("step", step_size=10)
        Step(step_size=10, gamma=0.1)
    """
    return make_settings("schedule", SCHEDULES, name, arguments)
