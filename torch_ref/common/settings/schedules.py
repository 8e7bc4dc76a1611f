"""Settings of learning rate schedules: torch's arguments and meaning, for both frameworks.

A schedule moves with the optimiser's steps, not with the epochs. Each wing's `training/build.py` builds it.
"""

from dataclasses import dataclass
from typing import Any

from ..checks.arguments import check_integer, check_numbers
from .by_name import make_settings


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the optimiser's steps. Base class; use one of `SCHEDULES`.

    Example:
        >>> sorted(SCHEDULES)
        ['constant', 'cosine', 'exponential', 'step']
        >>> isinstance(StepDecay(step_size=10), Schedule)
        True
    """


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays `lr`.

    Example:
        >>> Constant()
        Constant()
    """


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """Multiplies `lr` by `gamma` after every `step_size` steps; torch's `StepLR`.

    Args:
        step_size: steps from one fall to the next.
        gamma: the factor of a fall.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> StepDecay(step_size=10)
        StepDecay(step_size=10, gamma=0.1)
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", check_integer("step_size", self.step_size, at_least=1))
        check_numbers(self, gamma={"above": 0})


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """Multiplies `lr` by `gamma` after every step; torch's `ExponentialLR`.

    Args:
        gamma: the factor of each step.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> Exponential(gamma=0.9)
        Exponential(gamma=0.9)
    """

    gamma: float

    def __post_init__(self) -> None:
        check_numbers(self, gamma={"above": 0})


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """From `lr` down to `eta_min` along half a cosine, and up again after that; torch's `CosineAnnealingLR`.

    Args:
        T_max: steps from top to bottom.
        eta_min: the rate at the bottom.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> Cosine(T_max=100)
        Cosine(T_max=100, eta_min=0.0)

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    """

    T_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_max", check_integer("T_max", self.T_max, at_least=1))
        check_numbers(self, eta_min={"at_least": 0})


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "exponential": Exponential,
    "step": StepDecay,
}


def make_schedule(name: str, **arguments: Any) -> Schedule:
    """Returns the schedule of that name.

    Args:
        name: one of `SCHEDULES`: `"constant"`, `"cosine"`, `"exponential"` or `"step"`.
        arguments: those of the schedule's class, by name.

    Returns:
        The schedule, a frozen dataclass.

    Raises:
        ValueError: an unknown name; an argument that the schedule lacks, that is missing, or that is out of bounds.

    Example:
        >>> make_schedule("step", step_size=10)
        StepDecay(step_size=10, gamma=0.1)
    """
    return make_settings("schedule", SCHEDULES, name, arguments)
