"""Turns the settings of optimisers and schedules into those of optax, with torch's meaning of every argument."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from torch_ref.common.settings.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop
from torch_ref.common.settings.schedules import SCHEDULES, Constant, Cosine, Exponential, Schedule, StepDecay

from . import traced_settings  # noqa: F401 (makes the settings pytrees)


def build_optimizer(settings: Optimizer) -> optax.GradientTransformation:
    """Builds optax's optimiser from its settings.

    Twin: `torch_ref.training.build_optimizer`, which takes the parameters.

    Args:
        settings: of the optimiser, such as `Adam(lr=0.001)`.

    Returns:
        The chain: clip, then the core, then the learning rate of the step.

    Raises:
        TypeError: the settings are the base class, which is no optimiser by itself.

    Example:
        >>> weight = gradient = jnp.ones(())
        >>> optimizer = build_optimizer(SGD(lr=0.5))
        >>> update, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> round((weight + update).item(), 2)
        0.5
    """
    clip = optax.identity() if settings.clip_norm is None else _clip(settings.clip_norm)
    rate = build_schedule(settings.schedule, settings.lr)
    chain = optax.chain(clip, _core(settings), optax.scale_by_learning_rate(rate))
    return optax.chain(chain, _keep_average(settings.average)) if settings.average else chain


def averaged(opt_state: optax.OptState, params: optax.Params) -> Any:
    """Returns the running average of the parameters, or the parameters where the optimiser keeps none.

    Args:
        opt_state: the state of an optimiser that `build_optimizer` made.
        params: the parameters after its last step.
    """
    held = opt_state[-1] if isinstance(opt_state, tuple) and opt_state else None
    return held.params if isinstance(held, _Average) else params


def build_schedule(settings: Schedule, lr: chex.Numeric) -> optax.Schedule:
    """Builds optax's schedule from its settings.

    Twin: `torch_ref.training.build_schedule`, which moves an optimiser's rate.

    Args:
        settings: of the schedule, such as `Exponential(gamma=0.9)`.
        lr: the learning rate before the first step.

    Returns:
        The learning rate as a function of the steps that are done.

    Raises:
        TypeError: the settings are the base class, which is no schedule by itself.

    Example:
        >>> schedule = build_schedule(StepDecay(step_size=1, gamma=0.5), lr=1.0)
        >>> float(schedule(1))
        0.5
    """
    match settings:
        case Constant():
            return lambda step: lr
        case StepDecay(step_size=step_size, gamma=gamma):
            return lambda step: lr * _power(gamma, jnp.floor_divide(step, step_size))
        case Exponential(gamma=gamma):
            return lambda step: lr * _power(gamma, step)
        case Cosine():
            return _cosine(settings, lr)
    raise TypeError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {type(settings).__name__}")


def _core(settings: Optimizer) -> optax.GradientTransformation:
    match settings:
        case SGD():
            # optax.trace knows no dampening. torch's leaves out the first step, and has no effect without momentum.
            def dampen(step: ArrayLike) -> ArrayLike:
                return jnp.where((step == 0) | (settings.momentum == 0), 1.0, 1.0 - settings.dampening)

            return optax.chain(
                _decay(settings.weight_decay),
                optax.scale_by_schedule(dampen) if settings.dampening else optax.identity(),
                optax.trace(settings.momentum, settings.nesterov),
            )
        case AdamW():
            decay = _decay(settings.weight_decay)
            return optax.chain(_scale_by_adam(*settings.betas, settings.eps), decay)
        case Adam():
            decay = _decay(settings.weight_decay)
            return optax.chain(decay, _scale_by_adam(*settings.betas, settings.eps))
        case RMSprop():
            scale = optax.scale_by_stddev if settings.centered else optax.scale_by_rms
            return optax.chain(
                _decay(settings.weight_decay),
                scale(settings.alpha, settings.eps, eps_in_sqrt=False),
                optax.trace(settings.momentum),
            )
    raise TypeError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {type(settings).__name__}")


def _cosine(settings: Cosine, lr: chex.Numeric) -> optax.Schedule:
    # optax.cosine_decay_schedule stays at its end, and decays to a share of lr instead of a rate.
    def rate(step: ArrayLike) -> Any:
        # The period is taken off in whole numbers: in float32 a late step has lost its place in it.
        done = jnp.remainder(step, min(2 * settings.T_max, 2**31 - 1))
        angle = math.pi / settings.T_max * jnp.asarray(done, float)
        return settings.eta_min + (lr - settings.eta_min) * (1 + jnp.cos(angle)) / 2

    return rate


def _decay(rate: float | None) -> optax.GradientTransformation:
    return optax.identity() if rate is None else optax.add_decayed_weights(rate)


def _clip(clip_norm: chex.Numeric) -> optax.GradientTransformation:
    # torch adds 1e-6 to the norm; optax.clip_by_global_norm does not.
    def clip(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        factor = jnp.minimum(1.0, clip_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda update: update * factor, updates)

    return optax.stateless(clip)


class _Average(NamedTuple):
    steps: Int[Array, ""]
    params: optax.Params


def _keep_average(share: float) -> optax.GradientTransformation:
    def init(params: optax.Params) -> _Average:
        return _Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[Any, _Average]:
        # The share grows from nothing, so that the first parameters do not stay in the average.
        steps = jnp.asarray(state.steps, float)
        kept = jnp.where(steps == 0, 0.0, jnp.minimum(share, (1 + steps) / (10 + steps)))

        def average(mean: Array, now: Array, step: Array) -> Array:
            new = now + step
            return new + kept.astype(new.dtype) * (mean - new)

        return updates, _Average(state.steps + 1, jax.tree.map(average, state.params, params, updates))

    return optax.GradientTransformation(init, update)


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


def _power(base: float, exponent: ArrayLike) -> Float[Array, ""]:
    return jnp.exp(math.log(base) * jnp.asarray(exponent, float))  # base itself has too few digits in float32
