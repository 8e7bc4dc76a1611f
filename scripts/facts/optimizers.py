"""Optimisers, decay, clipping and schedules."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import flax_impl

from .fact import Found, fact

STEPS = 10
_GENERATOR = np.random.default_rng(0)
START = _GENERATOR.normal(size=5)
GRADIENTS = _GENERATOR.normal(size=(STEPS, 5))


def of_torch(make: Callable[..., torch.optim.Optimizer], dtype: str = "float64", clip: float | None = None) -> Any:
    """Returns a parameter after the steps of torch's optimiser."""
    parameter = torch.nn.Parameter(torch.tensor(START.astype(dtype)))
    optimizer = make([parameter])
    for gradient in GRADIENTS.astype(dtype):
        parameter.grad = torch.tensor(gradient)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([parameter], clip)
        optimizer.step()
    return parameter.detach()


def of_optax(optimizer: optax.GradientTransformation, dtype: str = "float64") -> Any:
    """Returns a parameter after the steps of optax's optimiser."""
    params = jnp.asarray(START.astype(dtype))
    state = optimizer.init(params)
    for gradient in GRADIENTS.astype(dtype):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


def default(call: Callable[..., Any], name: str) -> Any:
    """Returns the default of an argument."""
    return inspect.signature(call).parameters[name].default


@fact("SGD with momentum, Nesterov's too", torch="", jax="`optax.sgd(lr, momentum, nesterov)`")
def sgd_momentum() -> Found:
    return Found(
        of_torch(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
        of_optax(optax.sgd(0.1, 0.9, nesterov=True)),
    )


@fact(
    "SGD with dampening",
    torch="`dampening=0.3`, from the second step on",
    jax="`optax.sgd` has none",
    use="`flax_impl.SGD(dampening=0.3)`",
)
def sgd_dampening() -> Found:
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}
    reference = of_torch(lambda p: torch.optim.SGD(p, **settings))
    return Found(
        reference,
        of_optax(optax.sgd(0.1, 0.9)),
        of_optax(flax_impl.training.build_optimizer(flax_impl.SGD(**settings))),
    )


@fact(
    "SGD with weight decay",
    torch="added to the gradient, before the momentum",
    jax="`add_decayed_weights` after `sgd` is another optimiser",
    use="`optax.chain(optax.add_decayed_weights(d), optax.sgd(lr, momentum))`",
)
def sgd_decay() -> Found:
    decay = optax.add_decayed_weights(0.1)
    return Found(
        of_torch(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)),
        of_optax(optax.chain(optax.sgd(0.1, 0.9), optax.add_decayed_weights(-0.1 * 0.1))),
        of_optax(optax.chain(decay, optax.sgd(0.1, 0.9))),
    )


@fact("Adam", torch="epsilon {torch}, outside the root", jax="epsilon {jax}, `eps_root` {root}")
def adam() -> Found:
    values = {
        "torch": default(torch.optim.Adam, "eps"),
        "jax": default(optax.adam, "eps"),
        "root": default(optax.adam, "eps_root"),
    }
    return Found(of_torch(lambda p: torch.optim.Adam(p, lr=0.1)), of_optax(optax.adam(0.1)), values=values)


@fact(
    "Adam's first step in float32",
    torch="`1 - beta ** step` in float64",
    jax="in float32: digits are lost",
    use="`flax_impl.Adam`, which takes it by the logarithm",
)
def adam_in_float32() -> Found:
    gradient = GRADIENTS[:1].astype(np.float32)
    parameter = torch.nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.grad = torch.tensor(gradient[0])
    optimizer.step()

    def step(optimizer: optax.GradientTransformation) -> Any:
        params = jnp.zeros(5, jnp.float32)
        return optimizer.update(jnp.asarray(gradient[0]), optimizer.init(params), params)[0]

    with jax.enable_x64(False):
        ported, mended = step(optax.adam(0.1)), step(flax_impl.training.build_optimizer(flax_impl.Adam(lr=0.1)))
    return Found(parameter, ported, mended, coarse=True, rounding=4 * float(np.finfo(np.float32).eps))


@fact(
    "Adam with weight decay",
    torch="`Adam(weight_decay=d)`: added to the gradient (L2)",
    jax="`optax.adamw`: decoupled",
    use="`optax.chain(optax.add_decayed_weights(d), optax.adam(lr))`",
)
def adam_decay() -> Found:
    return Found(
        of_torch(lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1)),
        of_optax(optax.adamw(0.1, weight_decay=0.1)),
        of_optax(optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1))),
    )


@fact("AdamW, default decay", torch="{torch}", jax="{jax}", use="give it: `optax.adamw(lr, weight_decay=1e-2)`")
def adamw_decay() -> Found:
    values = {
        "torch": default(torch.optim.AdamW, "weight_decay"),
        "jax": default(optax.adamw, "weight_decay"),
    }
    return Found(
        of_torch(lambda p: torch.optim.AdamW(p, lr=0.1)),
        of_optax(optax.adamw(0.1)),
        of_optax(optax.adamw(0.1, weight_decay=1e-2)),
        values=values,
    )


@fact(
    "RMSprop, defaults",
    torch="alpha {torch}, epsilon outside the root",
    jax="decay {jax}, epsilon inside",
    use="`optax.rmsprop(lr, decay=0.99, eps=1e-8, eps_in_sqrt=False)`",
)
def rmsprop_defaults() -> Found:
    values = {"torch": default(torch.optim.RMSprop, "alpha"), "jax": default(optax.rmsprop, "decay")}
    return Found(
        of_torch(lambda p: torch.optim.RMSprop(p, lr=0.1)),
        of_optax(optax.rmsprop(0.1)),
        of_optax(optax.rmsprop(0.1, decay=0.99, eps_in_sqrt=False)),
        values=values,
    )


@fact(
    "Adagrad, defaults",
    torch="accumulator {torch}, epsilon {torch_eps}, outside the root",
    jax="accumulator {jax}, epsilon {jax_eps}, inside",
    use="`optax.chain` of your own: `g / (sqrt(sum) + eps)`",
)
def adagrad_defaults() -> Found:
    values = {
        "torch": default(torch.optim.Adagrad, "initial_accumulator_value"),
        "torch_eps": default(torch.optim.Adagrad, "eps"),
        "jax": default(optax.adagrad, "initial_accumulator_value"),
        "jax_eps": default(optax.adagrad, "eps"),
    }

    def init(params: Any) -> Any:
        return jnp.zeros_like(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        state = state + updates**2
        return -0.1 * updates / (jnp.sqrt(state) + 1e-10), state

    return Found(
        of_torch(lambda p: torch.optim.Adagrad(p, lr=0.1)),
        of_optax(optax.adagrad(0.1)),
        of_optax(optax.GradientTransformation(init, update)),
        values=values,
    )


@fact(
    "clipping by the norm",
    torch="divides by the norm + 1e-6",
    jax="divides by the norm",
    use="`flax_impl.SGD(clip_norm=c)`, or any optimiser of ours",
)
def clipping() -> Found:
    return Found(
        of_torch(lambda p: torch.optim.SGD(p, lr=0.1), clip=0.5),
        of_optax(optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))),
        of_optax(flax_impl.training.build_optimizer(flax_impl.SGD(lr=0.1, clip_norm=0.5))),
    )


def _rates(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def _of(schedule: Callable[[Any], Any], steps: int) -> Any:
    return jnp.stack([jnp.asarray(schedule(jnp.asarray(step)), float) for step in range(steps)])


@fact(
    "exponential decay of the rate",
    torch="`ExponentialLR(gamma)`, a step each time it is called",
    jax="`optax.exponential_decay(lr, 1, gamma)`, by the optimiser's steps",
)
def exponential_schedule() -> Found:
    lr = torch.optim.lr_scheduler
    return Found(_rates(lambda o: lr.ExponentialLR(o, 0.9), 8), _of(optax.exponential_decay(1.0, 1, 0.9), 8))


@fact(
    "cosine, past its end",
    torch="rises again",
    jax="`optax.cosine_decay_schedule` stays at the end",
    use="`flax_impl.training.Cosine(T_max)`, which rises",
)
def cosine_schedule() -> Found:
    lr = torch.optim.lr_scheduler
    return Found(
        _rates(lambda o: lr.CosineAnnealingLR(o, 4), 8),
        _of(optax.cosine_decay_schedule(1.0, 4), 8),
        _of(flax_impl.training.build_schedule(flax_impl.training.Cosine(T_max=4), 1.0), 8),
    )


@fact(
    "one cycle",
    torch="cosine, final rate a share of the first",
    jax="`optax.cosine_onecycle_schedule`: the same defaults, another curve",
    use="`optax.join_schedules` of two cosines from torch's three rates",
)
def one_cycle_schedule() -> Found:
    lr, steps = torch.optim.lr_scheduler, 10
    low, high, end, up = 1 / 25, 1.0, 1 / 25 / 1e4, 0.3 * steps - 1
    rise = optax.cosine_decay_schedule(low, up, alpha=high / low)  # pyright: ignore[reportArgumentType]
    fall = optax.cosine_decay_schedule(high, steps - 1 - up, alpha=end / high)  # pyright: ignore[reportArgumentType]
    mended = optax.join_schedules([rise, fall], [up])  # pyright: ignore[reportArgumentType]
    return Found(
        _rates(lambda o: lr.OneCycleLR(o, max_lr=1.0, total_steps=steps), steps),
        _of(optax.cosine_onecycle_schedule(steps, 1.0), steps),
        _of(mended, steps),
    )


@fact(
    "a scheduler that is stepped once an epoch",
    torch="`StepLR(step_size=1)`, called after 2 batches each",
    jax="`optax.exponential_decay(lr, 1, gamma)` counts batches",
    use="`optax.exponential_decay(lr, batches, gamma, staircase=True)`",
)
def epoch_schedule() -> Found:
    by_epoch = np.repeat(_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), 3), 2)
    ways = optax.exponential_decay(1.0, 1, 0.5), optax.exponential_decay(1.0, 2, 0.5, staircase=True)
    return Found(by_epoch, *(_of(schedule, 6) for schedule in ways))


@fact("Adamax, Adadelta", torch="", jax="`optax.adamax(lr)`, `optax.adadelta(lr, rho=0.9, eps=1e-6)`")
def adamax_and_adadelta() -> Found:
    reference = [
        of_torch(lambda p: torch.optim.Adamax(p, lr=0.1)),
        of_torch(lambda p: torch.optim.Adadelta(p, lr=0.1)),
    ]
    found = [of_optax(optax.adamax(0.1)), of_optax(optax.adadelta(0.1, rho=0.9, eps=1e-6))]
    return Found(torch.stack(reference), jnp.stack(found))


@fact(
    "AMSGrad",
    torch="`Adam(amsgrad=True)`: the largest second moment, then its correction",
    jax="`optax.amsgrad`: corrects, then takes the largest",
    use="a transformation of your own, that takes the largest first",
)
def amsgrad() -> Found:
    def init(params: Any) -> Any:
        return 0, *[jnp.zeros_like(params)] * 3

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        step, mean, square, largest = state
        step, mean, square = step + 1, 0.9 * mean + 0.1 * updates, 0.999 * square + 0.001 * updates**2
        largest = jnp.maximum(largest, square)
        scale = jnp.sqrt(largest / (1 - 0.999**step)) + 1e-8
        return -0.1 * mean / (1 - 0.9**step) / scale, (step, mean, square, largest)

    ways = optax.amsgrad(0.1), optax.GradientTransformation(init, update)
    return Found(of_torch(lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True)), *map(of_optax, ways))
