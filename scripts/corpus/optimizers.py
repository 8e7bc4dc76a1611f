"""Trains a pair of transformers with a fault in the port's optimiser, and says whether it is found and named."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch

import torch_ref
from flax_impl.parity import check_parity
from torch_ref.common.settings.optimizers import AdamW
from torch_ref.common.settings.schedules import Exponential

from . import huggingface
from .training import linen, of_all_outputs

_STEPS = 4
_RATES = tuple(1e-2 * 0.7**k for k in range(_STEPS + 2))
_ADAM: dict[str, Any] = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}


@dataclass(frozen=True)
class Case:
    """A fault of an optimiser.

    Args:
        title: what it is.
        reference: a key of `REFERENCES`.
        port: an optimiser of optax.
        words: of which one must be in the first cause.
    """

    title: str
    reference: str
    port: optax.GradientTransformation
    words: tuple[str, ...]


def _is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _is_vector(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim <= 1, params)


def _groups(module: torch.nn.Module) -> list[list[torch.nn.Parameter]]:
    parameters = list(module.parameters())
    return [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]]


REFERENCES: dict[str, Callable[[torch.nn.Module], Any]] = {
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1),
    "schedule": lambda model: AdamW(lr=1e-2, weight_decay=0.1, schedule=Exponential(gamma=0.7)),
    "AdamW, clipped": lambda model: AdamW(lr=1e-2, weight_decay=0.1, clip_norm=0.05),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1),
    "RMSprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-2),
    "two decays": lambda model: torch.optim.AdamW(
        [{"params": own, "weight_decay": decay} for own, decay in zip(_groups(model), (0.1, 0.0), strict=True)], lr=1e-2
    ),
    "two rates": lambda model: torch.optim.AdamW(
        [{"params": own, "lr": rate} for own, rate in zip(_groups(model), (1e-2, 1e-3), strict=True)], weight_decay=0.1
    ),
}  # fmt: skip


def _decay(after: float) -> optax.GradientTransformation:
    """Takes a share of the parameters away, whatever the rate."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None: (jax.tree.map(lambda u, p: u - after * p, updates, params), state),
    )


def _by_array(norm: float) -> optax.GradientTransformation:
    def clipped(gradient: Any) -> Any:
        return gradient * jnp.minimum(1.0, norm / (jnp.linalg.norm(gradient.ravel()) + 1e-6))

    return optax.GradientTransformation(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None: (jax.tree.map(clipped, updates), state),
    )


def _exact(norm: float) -> optax.GradientTransformation:
    """Clips as torch does: by the norm plus 1e-6."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        factor = jnp.minimum(1.0, norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda u: u * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _two(first: Any, second: Any) -> optax.GradientTransformation:
    return optax.multi_transform(
        {"matrix": first, "vector": second},
        lambda params: jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params),
    )


def _adamw(lr: float = 1e-2, weight_decay: float = 0.1, **settings: Any) -> optax.GradientTransformation:
    return optax.adamw(lr, weight_decay=weight_decay, **settings)


def _sgd(*parts: Any, decay: float = 0.1) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay), *parts)


_STEP = optax.scale_by_learning_rate(1e-2)
CASES = (
    Case("no decay", "AdamW", optax.adam(1e-2), ("has no weight decay",)),
    Case("decay through the moments", "AdamW", optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2)),
        ("adds the decay to the gradient",)),
    Case("optax's default decay", "AdamW", optax.adamw(1e-2), ("decays by 0.0001",)),
    Case("another decay", "AdamW", _adamw(weight_decay=0.05), ("decays by 0.05",)),
    Case("decay without the rate", "AdamW",
        optax.chain(optax.scale_by_adam(**_ADAM), _STEP, _decay(0.1)), ("without the learning rate", "decays by 10")),
    Case("no decay on vectors", "AdamW", _adamw(mask=_is_matrix), ("spares every bias",)),
    Case("no decay on matrices", "AdamW", _adamw(mask=_is_vector), ("spares every weight matrix",)),
    Case("rate ten times as large", "AdamW", _adamw(1e-1, 0.1), ("learning rate is 10 times",)),
    Case("another beta1", "AdamW", _adamw(b1=0.8), ("b1=0.8",)),
    Case("another beta2", "AdamW", _adamw(b2=0.99), ("b2=0.99",)),
    Case("another epsilon", "AdamW", _adamw(eps=1e-5), ("eps=1e-05",)),
    Case("epsilon within the root too", "AdamW", _adamw(eps_root=1e-8), ("inside the root too",)),
    Case("Nesterov's Adam", "AdamW", _adamw(nesterov=True), ("Nesterov",)),
    Case("AMSGrad", "AdamW",
        optax.chain(optax.scale_by_amsgrad(**_ADAM), optax.add_decayed_weights(0.1), _STEP), ("amsgrad", "largest")),
    Case("steps upwards", "AdamW",
        optax.chain(optax.scale_by_adam(**_ADAM), optax.add_decayed_weights(0.1), optax.scale(1e-2)), ("sign",)),
    Case("the first rate for ever", "schedule", _adamw(), ("keeps the first learning rate",)),
    Case("the schedule a step ahead", "schedule", optax.adamw(lambda k: jnp.array(_RATES)[k + 1], weight_decay=0.1),
        ("a step ahead",)),
    Case("the schedule a step behind", "schedule",
        optax.adamw(lambda k: jnp.array(_RATES)[jnp.maximum(k - 1, 0)], weight_decay=0.1), ("a step behind",)),
    Case("no clipping", "AdamW, clipped", _adamw(), ("does not clip",)),
    Case("clipped by optax's norm", "AdamW, clipped", optax.chain(optax.clip_by_global_norm(0.05), _adamw()),
        ("clip_by_global_norm",)),
    Case("clipped value by value", "AdamW, clipped", optax.chain(optax.clip(0.05), _adamw()), ("clips each value",)),
    Case("clipped array by array", "AdamW, clipped", optax.chain(_by_array(0.05), _adamw()),
        ("each array by its own",)),
    Case("another norm", "AdamW, clipped", optax.chain(_exact(0.02), _adamw()), ("norm of 0.02",)),
    Case("the update clipped", "AdamW, clipped", optax.chain(_adamw(), _exact(0.05)), ("clips the update",)),
    Case("no momentum", "SGD", _sgd(optax.sgd(1e-2)), ("no momentum",)),
    Case("another momentum", "SGD", _sgd(optax.sgd(1e-2, momentum=0.8)), ("momentum=0.8",)),
    Case("Nesterov's momentum", "SGD", _sgd(optax.sgd(1e-2, momentum=0.9, nesterov=True)), ("Nesterov",)),
    Case("a mean for the momentum", "SGD", _sgd(optax.ema(0.9, debias=False), _STEP), ("momentum is a mean",)),
    Case("decay apart from the momentum", "SGD",
        optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), _STEP), ("apart from the gradient",)),
    Case("half the gradient", "SGD", optax.chain(optax.scale(0.5), _sgd(optax.sgd(1e-2, momentum=0.9))),
        ("0.5 times the gradient",)),
    Case("optax's RMSprop", "RMSprop", optax.rmsprop(1e-2), ("optax.rmsprop's defaults",)),
    Case("epsilon within the root", "RMSprop", optax.rmsprop(1e-2, decay=0.99), ("inside the root",)),
    Case("the mean square starts at 1", "RMSprop",
        optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False, initial_scale=1.0), ("starts at 1",)),
    Case("centred", "RMSprop", optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False, centered=True), ("centered",)),
    Case("the groups' decay for all", "two decays", _adamw(), ("decays every bias",)),
    Case("the mask inverted", "two decays", _adamw(mask=_is_vector), ("the other group",)),
    Case("one rate for both groups", "two rates", _adamw(), ("one learning rate for all",)),
    Case("the rates exchanged", "two rates", _two(_adamw(1e-3), _adamw(1e-2)), ("the other way round",)),
)  # fmt: skip


def faults(name: str) -> Iterator[tuple[Case, Any]]:
    """Yields each fault and the report of the training with it, after the honest port with each reference's optimiser.

    Args:
        name: of a pair of transformers.
    """
    honest = {
        "AdamW": _adamw(),
        "schedule": optax.adamw(lambda k: jnp.array(_RATES)[k], weight_decay=0.1),
        "AdamW, clipped": optax.chain(_exact(0.05), _adamw()),
        "SGD": _sgd(optax.sgd(1e-2, momentum=0.9)),
        "RMSprop": optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False),
        "two decays": _adamw(mask=_is_matrix),
        "two rates": _two(_adamw(1e-2), _adamw(1e-3)),
    }
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        pair = huggingface.pair(name, dtype="float64")
        module, loss = linen(pair)
        traces: dict[str, Any] = {}
        for reference, right in honest.items():
            model = copy.deepcopy(pair.reference).double()
            traces[reference] = torch_ref.record(
                model,
                [pair.batch] * _STEPS,
                of_all_outputs,
                optimizer=REFERENCES[reference](model),
                tapes=(),
                progress=False,
            )
            yield (
                Case("as it is", reference, right, ()),
                check_parity(traces[reference], module, loss, optimizer=right, progress=False),
            )
        for case in CASES:
            yield case, check_parity(traces[case.reference], module, loss, optimizer=case.port, progress=False)
