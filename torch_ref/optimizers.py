"""Optimisers by name; the arguments are torch's, and so is their meaning."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .hub.checks import check_numbers, check_pair, shown
from .hub.settings import make_settings
from .schedules import Constant, Schedule


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings of an optimiser; `build` makes it. The classes below are the ones there are.

    Args:
        lr: learning rate.
        clip_norm: gradients whose norm, over all parameters, is larger are scaled down to it; None clips nothing.
        schedule: how the learning rate changes from step to step.

    Raises:
        ValueError: an argument out of bounds, or a `schedule` that is none.
        TypeError: from `build`, where it is this class and none of those below.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = SGD(lr=1.0, clip_norm=0.25).build([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 2)
        0.75
    """

    lr: float = 1e-3
    clip_norm: float | None = None
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        check_numbers(self, lr={"at_least": 0})
        if self.clip_norm is not None:
            check_numbers(self, clip_norm={"above": 0})
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"schedule: expected a schedule such as Constant(), got {shown(self.schedule)}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns torch's optimiser; its `step` clips first and moves the schedule on afterwards.

        Twin: `flax_impl.Optimizer.build`, which needs no parameters.

        Args:
            parameters: what the optimiser moves, such as `model.parameters()`.

        Raises:
            TypeError: this is the base class, which is no optimiser by itself.
            ValueError: there are no parameters, in torch's words.
        """
        parameters = list(parameters)
        optimizer = self._core(parameters)
        clip_norm = self.clip_norm
        if clip_norm is not None:

            def clip(*_: Any) -> None:
                nn.utils.clip_grad_norm_(parameters, clip_norm)

            optimizer.register_step_pre_hook(clip)
        scheduler = self.schedule.build(optimizer)
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
        return optimizer

    def _core(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        raise TypeError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {type(self).__name__}")


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        momentum: share of the last direction that is kept.
        dampening: share of the gradient that is left out of the direction, from the second step on.
        weight_decay: share of the parameters that is added to the gradient.
        nesterov: looks one step ahead along the direction.

    Raises:
        ValueError: an argument out of bounds; `nesterov` without momentum or with dampening.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = SGD(lr=0.5).build([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 2)
        0.5

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

    def _core(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        betas: shares of the two moments that are kept from step to step.
        eps: added to the root of the second moment, outside it.
        weight_decay: share of the parameters that is added to the gradient (L2), so that the moments see it.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = Adam(lr=0.1).build([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 2)
        0.9

    Source: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", check_pair("betas", self.betas, at_least=0, below=1))
        check_numbers(self, eps={"at_least": 0}, weight_decay={"at_least": 0})

    def _core(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled decay: the parameters shrink by `lr * weight_decay`, and the moments do not see it.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        betas: shares of the two moments that are kept from step to step.
        eps: added to the root of the second moment, outside it.
        weight_decay: share of the parameters that each step takes away, times the learning rate.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = AdamW(lr=0.1, weight_decay=1.0).build([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 2)
        0.8

    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    weight_decay: float = 1e-2

    def _core(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop.

    Args:
        lr: learning rate.
        clip_norm: largest norm of the gradients, or None.
        schedule: how the learning rate changes.
        alpha: share of the mean square that is kept from step to step.
        eps: added to the root of the mean square, outside it.
        weight_decay: share of the parameters that is added to the gradient.
        momentum: share of the last direction that is kept.
        centered: takes the variance instead of the mean square.

    Raises:
        ValueError: an argument out of bounds.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = RMSprop(lr=0.01).build([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 2)
        0.9

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

    def _core(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            parameters,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            centered=self.centered,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}


def make_optimizer(name: str, **arguments: Any) -> Optimizer:
    """Returns the settings of the optimiser of that name.

    Args:
        name: one of `OPTIMIZERS`: `"adam"`, `"adamw"`, `"rmsprop"` or `"sgd"`.
        arguments: those of the optimiser's class, by name.

    Returns:
        The settings, a frozen dataclass.

    Raises:
        ValueError: an unknown name, or an argument that this optimiser lacks; the message lists those there are. Or an
            argument out of bounds.

    Example:
        >>> make_optimizer("sgd", lr=0.1).momentum
        0.0
    """
    return make_settings("optimizer", OPTIMIZERS, name, arguments)
