"""Learning rate schedules by name; the arguments are torch's, and so is their meaning.

A schedule moves with the optimiser's steps, not with the epochs.
"""

import math
from dataclasses import dataclass
from typing import Any

import chex
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .hub.checks import check_integer, check_numbers
from .hub.settings import make_settings
from .pytrees import pytree


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

    def build(self, lr: chex.Numeric) -> optax.Schedule:
        """Returns the learning rate as a function of the steps that are done.

        Args:
            lr: the learning rate before the first step.

        Raises:
            TypeError: this is the base class, which is no schedule by itself.
        """
        raise TypeError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {type(self).__name__}")


@pytree()
@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays `lr`.

    Example:
        >>> schedule = Constant().build(lr=1.0)
        >>> for step in range(4):
        ...     print(round(float(schedule(step)), 2))
        1.0
        1.0
        1.0
        1.0
    """

    def build(self, lr: chex.Numeric) -> optax.Schedule:
        """Returns the learning rate as a function of the steps that are done.

        Args:
            lr: the learning rate before the first step.
        """
        return lambda step: lr


@pytree()
@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """`lr` times `gamma` for every `step_size` steps that are done.

    Args:
        step_size: steps from one fall to the next.
        gamma: the factor of a fall.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> schedule = Step(step_size=2, gamma=0.1).build(lr=1.0)
        >>> for step in range(4):
        ...     print(round(float(schedule(step)), 2))
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

    def build(self, lr: chex.Numeric) -> optax.Schedule:
        """Returns the learning rate as a function of the steps that are done.

        Args:
            lr: the learning rate before the first step.
        """
        return lambda step: lr * _power(self.gamma, jnp.floor_divide(step, self.step_size))


@pytree()
@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """`lr` times `gamma` for every step that is done.

    Args:
        gamma: the factor of each step.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> schedule = Exponential(gamma=0.9).build(lr=1.0)
        >>> for step in range(4):
        ...     print(round(float(schedule(step)), 2))
        1.0
        0.9
        0.81
        0.73
    """

    gamma: float

    def __post_init__(self) -> None:
        check_numbers(self, gamma={"above": 0})

    def build(self, lr: chex.Numeric) -> optax.Schedule:
        """Returns the learning rate as a function of the steps that are done.

        Args:
            lr: the learning rate before the first step.
        """
        return lambda step: lr * _power(self.gamma, step)


@pytree("eta_min")
@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """From `lr` down to `eta_min` along half a cosine, and up again after that, as torch does.

    Args:
        T_max: steps from top to bottom.
        eta_min: the rate at the bottom.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> schedule = Cosine(T_max=2, eta_min=0.1).build(lr=1.0)
        >>> for step in range(4):
        ...     print(round(float(schedule(step)), 2))
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

    def build(self, lr: chex.Numeric) -> optax.Schedule:
        """Returns the learning rate as a function of the steps that are done.

        Args:
            lr: the learning rate before the first step.
        """

        # optax.cosine_decay_schedule stays at its end, and decays to a share of lr instead of a rate.
        def rate(step: ArrayLike) -> ArrayLike:
            # The period is taken off in whole numbers: in float32 a late step has lost its place in it.
            angle = math.pi / self.T_max * jnp.asarray(jnp.remainder(step, min(2 * self.T_max, 2**31 - 1)), float)
            return self.eta_min + (lr - self.eta_min) * (1 + jnp.cos(angle)) / 2

        return rate


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


def _power(base: float, exponent: ArrayLike) -> Float[Array, ""]:
    return jnp.exp(math.log(base) * jnp.asarray(exponent, float))  # base itself has too few digits in float32
