"""Turns the settings of optimisers and schedules into those of `torch.optim`."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from ..common.settings.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop
from ..common.settings.schedules import SCHEDULES, Constant, Cosine, Exponential, Schedule, StepDecay


def build_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Builds torch's optimiser from its settings.

    Twin: `flax_impl.training.build_optimizer`, which needs no parameters.

    Args:
        settings: of the optimiser, such as `Adam(lr=0.001)`.
        parameters: what the optimiser moves, such as `model.parameters()`.

    Returns:
        The optimiser; its `step` clips first and moves the schedule on afterwards.

    Raises:
        TypeError: the settings are the base class, which is no optimiser by itself.
        ValueError: there are no parameters, in torch's words.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = build_optimizer(SGD(lr=0.5), [weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 2)
        0.5
    """
    return build_scheduled(settings, parameters)[0]


def build_scheduled(
    settings: Optimizer, parameters: Iterable[nn.Parameter]
) -> tuple[torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    """Returns the optimiser that `build_optimizer` builds, and the scheduler that its steps move on."""
    parameters = list(parameters)
    optimizer = _core(settings, parameters)
    clip_norm = settings.clip_norm
    if clip_norm is not None:

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)

        optimizer.register_step_pre_hook(clip)
    scheduler = build_schedule(settings.schedule, optimizer)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer, scheduler


def averaged(optimizer: Optimizer, model: nn.Module) -> AveragedModel | None:
    """Returns what keeps the running average of the model's parameters, or None where the optimiser keeps none.

    Its `update_parameters` follows every step, and its `module` is the model with the average.

    Args:
        optimizer: settings of the optimiser.
        model: whose parameters move.
    """
    if not optimizer.average:
        return None

    def average(mean: Tensor, now: Tensor, steps: Any) -> Tensor:
        # The share grows from nothing, so that the first parameters do not stay in the average.
        kept = min(optimizer.average, (1 + int(steps)) / (10 + int(steps)))
        return now + kept * (mean - now)

    return AveragedModel(model, avg_fn=average)


@contextmanager
def showing(average: AveragedModel | None, model: nn.Module) -> Iterator[None]:
    """Gives the model the averaged parameters while the block runs; without an average it keeps its own."""
    if average is None:
        yield
        return
    own = copy.deepcopy(model.state_dict())
    model.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        model.load_state_dict(own)


def build_schedule(settings: Schedule, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Builds torch's scheduler from its settings.

    Twin: `flax_impl.training.build_schedule`, a function of the step.

    Args:
        settings: of the schedule, such as `Exponential(gamma=0.9)`.
        optimizer: whose learning rate the schedule moves.

    Returns:
        The scheduler, to be stepped after every optimiser step.

    Raises:
        TypeError: the settings are the base class, which is no schedule by itself.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = build_schedule(StepDecay(step_size=1, gamma=0.5), optimizer)
        >>> optimizer.step()
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """
    match settings:
        case Constant():
            return lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        case StepDecay():
            return lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)
        case Exponential():
            return lr_scheduler.ExponentialLR(optimizer, settings.gamma)
        case Cosine():
            return lr_scheduler.CosineAnnealingLR(optimizer, settings.T_max, settings.eta_min)
    raise TypeError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {type(settings).__name__}")


def _core(settings: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    match settings:
        case SGD():
            return torch.optim.SGD(
                parameters,
                lr=settings.lr,
                momentum=settings.momentum,
                dampening=settings.dampening,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
            )
        case Adam():
            kind = torch.optim.AdamW if isinstance(settings, AdamW) else torch.optim.Adam
            return kind(
                parameters, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
            )
        case RMSprop():
            return torch.optim.RMSprop(
                parameters,
                lr=settings.lr,
                alpha=settings.alpha,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                centered=settings.centered,
            )
    raise TypeError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {type(settings).__name__}")
