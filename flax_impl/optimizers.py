"""Optimisers by name; the arguments are torch's, and so is their meaning.

What only scales (rates, decays, bounds) is a leaf of the settings, which a compiled training takes as a value. What is
raised to a power or subtracted from 1 stays a Python number: in float32, 1 - 0.999 alone would cost four digits.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .hub.checks import check_numbers, check_pair, shown
from .hub.settings import make_settings
from .pytrees import pytree
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
        >>> weight = gradient = jnp.ones(())
        >>> optimizer = SGD(lr=1.0, clip_norm=0.25).build()
        >>> update, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> round((weight + update).item(), 2)
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

    def build(self) -> optax.GradientTransformation:
        """Returns the optimiser as optax has them: clip, then the core, then the learning rate of the step.

        Twin: `torch_ref.Optimizer.build`, which takes the parameters.

        Raises:
            TypeError: this is the base class, which is no optimiser by itself.
        """
        clip = optax.identity() if self.clip_norm is None else _clip(self.clip_norm)
        return optax.chain(clip, self._core(), optax.scale_by_learning_rate(self.schedule.build(self.lr)))

    def _core(self) -> optax.GradientTransformation:
        raise TypeError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {type(self).__name__}")


@pytree("lr", "clip_norm", "schedule", "momentum", "weight_decay")
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
        >>> weight = gradient = jnp.ones(())
        >>> optimizer = SGD(lr=0.5).build()
        >>> update, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> round((weight + update).item(), 2)
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

    def _core(self) -> optax.GradientTransformation:
        # optax.trace knows no dampening. torch's leaves out the first step, and has no effect without momentum.
        def dampen(step: ArrayLike) -> ArrayLike:
            return jnp.where((step == 0) | (self.momentum == 0), 1.0, 1.0 - self.dampening)

        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_schedule(dampen) if self.dampening else optax.identity(),
            optax.trace(self.momentum, self.nesterov),
        )


@pytree("lr", "clip_norm", "schedule", "eps", "weight_decay")
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
        >>> weight = gradient = jnp.ones(())
        >>> optimizer = Adam(lr=0.1).build()
        >>> update, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> round((weight + update).item(), 2)
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

    def _core(self) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(self.weight_decay), _scale_by_adam(*self.betas, self.eps))


@pytree("lr", "clip_norm", "schedule", "eps", "weight_decay")
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
        >>> weight = gradient = jnp.ones(())
        >>> optimizer = AdamW(lr=0.1, weight_decay=1.0).build()
        >>> update, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> round((weight + update).item(), 2)
        0.8

    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    weight_decay: float = 1e-2  # torch's default; optax.adamw's is 1e-4

    def _core(self) -> optax.GradientTransformation:
        return optax.chain(_scale_by_adam(*self.betas, self.eps), optax.add_decayed_weights(self.weight_decay))


@pytree("lr", "clip_norm", "schedule", "eps", "weight_decay", "momentum")
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
        >>> weight = gradient = jnp.ones(())
        >>> optimizer = RMSprop(lr=0.01).build()
        >>> update, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> round((weight + update).item(), 2)
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

    def _core(self) -> optax.GradientTransformation:
        scale = optax.scale_by_stddev if self.centered else optax.scale_by_rms
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            scale(self.alpha, self.eps, eps_in_sqrt=False),
            optax.trace(self.momentum),
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


def _clip(clip_norm: chex.Numeric) -> optax.GradientTransformation:
    # torch adds 1e-6 to the norm; optax.clip_by_global_norm does not.
    def clip(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        factor = jnp.minimum(1.0, clip_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda update: update * factor, updates)

    return optax.stateless(clip)


class _AdamState(NamedTuple):
    step: Int[Array, ""]
    mean: optax.Updates
    square: optax.Updates


def _scale_by_adam(beta1: float, beta2: float, eps: chex.Numeric) -> optax.GradientTransformation:
    # optax.scale_by_adam takes 1 - beta ** step in float32: at the first step that is wrong by 1e-5.
    def init(params: optax.Params) -> _AdamState:
        return _AdamState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[Any, _AdamState]:
        step = state.step + 1
        mean = optax.tree.update_moment(updates, state.mean, beta1, 1)
        square = optax.tree.update_moment(updates, state.square, beta2, 2)
        correction1, correction2 = _one_minus_power(beta1, step), _one_minus_power(beta2, step)

        def scale(m: Array, v: Array) -> Array:
            return (m / correction1.astype(m.dtype)) / (jnp.sqrt(v / correction2.astype(v.dtype)) + eps)

        return jax.tree.map(scale, mean, square), _AdamState(step, mean, square)

    return optax.GradientTransformation(init, update)


def _one_minus_power(base: float, exponent: ArrayLike) -> Float[Array, ""]:
    return -jnp.expm1((math.log(base) if base else -math.inf) * jnp.asarray(exponent, float))
