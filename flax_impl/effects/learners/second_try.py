"""Nets that diverge are trained once more, with a tenth of the learning rate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import listed
from torch_ref.common.checks.divergence import check_losses
from torch_ref.common.settings.optimizers import Optimizer

from ...models.layers import Params
from ...training.replicas.per_core import stack_losses
from ..prepare import warn_user

Trained = tuple[Params, Float[np.ndarray, "nets steps columns"]]
_Net = TypeVar("_Net")


def train_all_twice(
    train: Callable[[Int[np.ndarray, " some"], Optimizer, str], Trained],
    nets: int,
    optimizer: Optimizer,
    *,
    watched: bool,
) -> Trained:
    """Trains all nets at once, and those that diverge once more.

    Args:
        train: trains the nets of some numbers, in a stage of this name; one that diverged has parameters that are NaN.
        nets: how many there are.
        optimizer: for the first try.
        watched: the last column of the losses is of held-out rows.

    Raises:
        FloatingPointError: a net diverged twice.
    """
    params, losses = train(np.arange(nets), optimizer, "nets")
    failed = _diverged(params)
    if not len(failed):
        return params, losses
    slower = _slower(optimizer, failed.tolist())
    again, histories = train(failed, slower, "nets-again")
    if len(still := _diverged(again)):
        history = histories[still[0]]
        raise _diverged_again(int(failed[still[0]]), slower, _reason(history[:, :-1] if watched else history))
    params = jax.tree.map(lambda leaf, other: leaf.at[failed].set(other), params, again)
    kept = dict(zip(failed.tolist(), histories, strict=True))
    return params, stack_losses([kept.get(number, history) for number, history in enumerate(losses)])


def train_twice(train: Callable[[int, Optimizer, str], _Net], net: int, optimizer: Optimizer) -> _Net:
    """Trains one net, and once more where it diverges.

    Args:
        train: trains the net of a number, in a stage of this name, or raises FloatingPointError.
        net: its number.
        optimizer: for the first try.

    Raises:
        FloatingPointError: the net diverged twice.
    """
    try:
        return train(net, optimizer, f"net-{net}")
    except FloatingPointError:
        slower = _slower(optimizer, [net])
    try:
        return train(net, slower, f"net-{net}-again")
    except FloatingPointError as error:
        raise _diverged_again(net, slower, error) from error


def _slower(optimizer: Optimizer, nets: Sequence[int]) -> Optimizer:
    """Returns the optimiser of the second try, and warns of it."""
    slower: Any = replace(optimizer, lr=optimizer.lr / 10)
    warn_user(f"net {listed(nets)} diverged and starts again, with lr={slower.lr:g}")
    return slower


def _diverged_again(net: int, slower: Optimizer, why: object) -> FloatingPointError:
    return FloatingPointError(f"net {net} diverged, and again with lr={slower.lr:g}: {why}")


def _diverged(params: Params) -> np.ndarray:
    """Returns the numbers of the nets whose parameters are not finite."""
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in map(np.asarray, jax.tree.leaves(params))]
    return np.flatnonzero(~np.all(finite, axis=0))


def _reason(parts: Float[np.ndarray, "steps parts"]) -> str:
    """Returns why a net diverged, in the words of `fit`."""
    try:
        check_losses(parts, 0, len(parts))
    except FloatingPointError as error:
        return str(error)
    return "its weights, or the loss on the held-out rows, are not finite"
