"""Settings of optimisers: torch's arguments and meaning, for both frameworks.

Each wing's `training/build.py` turns them into an optimiser of its own.
"""

from dataclasses import dataclass
from typing import Any

from ..checks.arguments import check_numbers, check_pair, shown
from .by_name import make_settings
from .schedules import Constant, Schedule


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings that all optimisers share. Base class; use one of `OPTIMIZERS`.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients over all parameters; larger ones are scaled down to it. None clips
            nothing.
        schedule: how the learning rate changes from step to step.
        average: share of a running average of the parameters that each step keeps, such as 0.99. The average is what
            `fit` judges by held-out rows and returns; the first steps keep less. 0 averages nothing.

    Raises:
        ValueError: an argument out of bounds, or a `schedule` that is none.

    Example:
        >>> Optimizer(lr=0.1)
        Optimizer(lr=0.1, clip_norm=None, schedule=Constant(), average=0.0)
    """

    lr: float = 1e-3
    clip_norm: float | None = None
    schedule: Schedule = Constant()
    average: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, lr={"at_least": 0}, average={"at_least": 0, "below": 1})
        if self.clip_norm is not None:
            check_numbers(self, clip_norm={"above": 0})
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"schedule: expected a schedule such as Constant(), got {shown(self.schedule)}")


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        average: share of a running average of the parameters that each step keeps, see `Optimizer`.
        momentum: share of the last direction that is kept.
        dampening: share of the gradient that is left out of the direction, from the second step on.
        weight_decay: share of the parameters that is added to the gradient.
        nesterov: looks one step ahead along the direction.

    Raises:
        ValueError: an argument out of bounds; `nesterov` without momentum or with dampening.

    Example:
        >>> SGD(lr=0.1, momentum=0.9).nesterov
        False

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, momentum={"at_least": 0}, dampening={}, weight_decay={"at_least": 0})
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            got = f"momentum={self.momentum!r} and dampening={self.dampening!r}"
            raise ValueError(f"nesterov: expected a momentum above 0 and no dampening, got {got}")


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        average: share of a running average of the parameters that each step keeps, see `Optimizer`.
        betas: shares of the two moments that are kept from step to step.
        eps: added to the root of the second moment, outside it.
        weight_decay: share of the parameters that is added to the gradient (L2), so that the moments see it.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> Adam().betas
        (0.9, 0.999)

    Source: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", check_pair("betas", self.betas, at_least=0, below=1))
        check_numbers(self, eps={"at_least": 0}, weight_decay={"at_least": 0})


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled decay: the parameters shrink by `lr * weight_decay`, and the moments do not see it.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        average: share of a running average of the parameters that each step keeps, see `Optimizer`.
        betas: shares of the two moments that are kept from step to step.
        eps: added to the root of the second moment, outside it.
        weight_decay: share of the parameters that each step takes away, times the learning rate.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> AdamW().weight_decay  # torch's default; optax.adamw has 1e-4
        0.01

    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    weight_decay: float = 1e-2


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        average: share of a running average of the parameters that each step keeps, see `Optimizer`.
        alpha: share of the mean square that is kept from step to step.
        eps: added to the root of the mean square, outside it.
        weight_decay: share of the parameters that is added to the gradient.
        momentum: share of the last direction that is kept.
        centered: takes the variance instead of the mean square.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> RMSprop().lr
        0.01

    Source: Hinton, "Neural networks for machine learning", lecture 6, 2012; `centered`: Graves, arXiv 1308.0850, 2013.
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, alpha={"at_least": 0, "below": 1}, eps={"at_least": 0})
        check_numbers(self, weight_decay={"at_least": 0}, momentum={"at_least": 0})


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}


def make_optimizer(name: str, **arguments: Any) -> Optimizer:
    """Returns the settings of the optimiser of that name.

    Args:
        name: one of `OPTIMIZERS`: `"adam"`, `"adamw"`, `"rmsprop"` or `"sgd"`.
        arguments: those of the optimiser's class, by name.

    Returns:
        The settings, a frozen dataclass.

    Raises:
        ValueError: an unknown name; an argument that the optimiser lacks, or that is out of bounds.

    Example:
        >>> make_optimizer("sgd", lr=0.1).momentum
        0.0
    """
    return make_settings("optimizer", OPTIMIZERS, name, arguments)


def check_optimizer(optimizer: object) -> None:
    """Raises ValueError unless a training gets the settings of an optimiser."""
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer: expected settings such as Adam(lr=0.001), got {shown(optimizer)}")
