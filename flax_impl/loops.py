"""A compiled loop, entered a few times a second, so that progress shows and Ctrl-C is heard."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from jax import Array

from .sharding import fetch

# A slice of the loop is as many steps as take about this long, or four times it: a blink for the user, an age for the
# device.
_SLICE_SECONDS = 0.1


class Order(Protocol):
    """What gives the next steps' row numbers and masks [steps, batch], perhaps after leading axes.

    Args:
        width: how many rows a step takes in all.
    """

    width: int

    def take(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns those of the next steps."""
        ...


def run_slices(
    advance: Callable[..., tuple[Any, Array, Array]],
    state: Any,
    order: Order,
    steps: int,
    note: Callable[[int, np.ndarray, bool], None],
) -> tuple[Any, np.ndarray]:
    """Takes all steps of a training, or those until it stops early; returns its last state and its losses.

    Args:
        advance: takes the state, the row numbers and masks of a slice, and how many steps were taken and how many of
            the slice's to take; returns the state after them, their losses, and whether the training stops here.
        state: at the start; `advance` may reuse its memory.
        order: gives row numbers and masks.
        steps: how many to take.
        note: gets the number of steps done, the losses of those that were new, and whether the training stops here.

    Returns:
        The state, and losses [..., steps, outputs]. The last slice's are zeros after the step that stopped.
    """
    width = _slice_width(order.width)
    history: list[np.ndarray] = []
    done, count, quick, over = 0, 1, False, False
    chosen = _padded(order.take(1), width)
    while done < steps and not over:
        began = time.monotonic()
        # Returns at once; what follows is done while it computes.
        state, losses, stops = advance(state, *chosen, (np.int32(done), np.int32(count)))
        done += count
        following = min(4 * count if quick else count, width, steps - done)
        chosen = _padded(order.take(following), width) if following else chosen
        history.append(fetch(losses)[..., :count, :])
        over = bool(fetch(stops).all())
        quick = time.monotonic() - began < _SLICE_SECONDS
        note(done, history[-1], over)
        count = following
    return state, np.concatenate(history, axis=-2)


def _slice_width(rows: int) -> int:
    """Returns how many steps a slice may have: as many as the order of their rows takes little memory for."""
    return max(1, min(1024, 2**22 // rows))


def _padded(orders: tuple[np.ndarray, np.ndarray], width: int) -> list[np.ndarray]:
    lead = [(0, 0)] * (orders[0].ndim - 2)
    return [np.pad(order, (*lead, (0, width - order.shape[-2]), (0, 0))) for order in orders]
