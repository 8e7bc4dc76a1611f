"""The compiled step of a training, and the loop over its steps.

The loop is entered a few times a second, so that progress shows and Ctrl-C is heard.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from torch_ref.common.batches import HeldOut
from torch_ref.common.settings.optimizers import Optimizer

from ..models.layers import Params
from ..models.pure import Pure
from .build import averaged, build_optimizer
from .devices import fetch
from .early_stopping import Watch
from .precision import lowered, matmul_precision

State = tuple[Params, optax.OptState, Watch | None]
Loss = Callable[..., tuple[Array, ...]]


@partial(jax.jit, static_argnames=("model", "precision"))
def take_step(
    model: Pure,
    params: Params,
    optimizer: Optimizer,
    opt_state: optax.OptState,
    batch: Mapping[str, Array],
    loss: Loss,
    precision: str,
) -> tuple[Params, optax.OptState, Float[Array, " outputs"]]:
    """Takes one step; returns the new parameters and optimiser state, and the losses before the step."""

    def total(params: Params) -> tuple[Float[Array, ""], Float[Array, " outputs"]]:
        losses = losses_of(model, params, batch, loss, precision)
        return losses.sum(), losses

    with matmul_precision(precision):
        gradients, losses = jax.grad(total, has_aux=True)(params)
    updates, opt_state = build_optimizer(optimizer).update(gradients, opt_state, params)
    moved: Any = optax.apply_updates(params, updates)
    return moved, opt_state, losses


def losses_of(model: Pure, params: Params, batch: Mapping[str, Array], loss: Loss, precision: str) -> Array:
    """Returns the losses [outputs] of a batch."""
    return jnp.stack(loss(partial(lowered(model, precision), {"params": params}), **batch))


@jax.jit
def init_state(optimizer: Optimizer, params: Params) -> optax.OptState:
    """Returns the optimiser's state before the first step."""
    return build_optimizer(optimizer).init(params)


def dtype_of(params: Params) -> str:
    """Returns the name of the parameters' dtype."""
    return jax.tree.leaves(params)[0].dtype.name


@partial(jax.jit, static_argnames=("model", "precision", "axis"), donate_argnames="state")
def loop_steps(
    model: Pure,
    state: State,
    optimizer: Optimizer,
    table: Mapping[str, Array],
    index: Int[Array, "width batch"] | Int[Array, " width"],
    mask: Bool[Array, "width batch"],
    span: tuple[Int[Array, ""], Int[Array, ""]],
    loss: Loss,
    precision: str,
    held_out: HeldOut | None = None,
    axis: str | None = None,
    validation: Mapping[str, Array] | None = None,
) -> tuple[State, Float[Array, "width outputs"], Bool[Array, ""]]:
    """Takes the steps of a slice until it ends or early stopping does; returns their losses, and whether it did.

    The number of steps is a value and not a shape, which `lax.scan` would make it: another one compiles nothing.

    Args:
        model: the model.
        state: parameters, the optimiser's state, and the watch of an early stopping or None.
        optimizer: settings of the optimiser.
        table: the data [rows, …]; or a batch for each step [width, batch, …].
        index: the rows of each step's batch; or the number of the batch.
        mask: which of them count.
        span: how many steps were taken before, and how many of `index` to take.
        loss: what is minimised.
        precision: of the products.
        held_out: the rows to watch; their loss is a further column, NaN after the steps without a look.
        axis: along which replicas lie, which stop together.
        validation: the data that `held_out` has the rows of; None is the table.
    """
    before, count = span

    def loss_of(params: Params, rows: Int[Array, " held_out"]) -> Float[Array, ""]:
        watched = table if validation is None else validation
        batch = {name: array[rows] for name, array in watched.items()} | {"mask": jnp.ones(len(rows), bool)}
        with matmul_precision(precision):
            return losses_of(model, params, batch, loss, precision).sum()

    def step(i: Int[Array, ""], state: State) -> tuple[State, Float[Array, " outputs"]]:
        batch = {name: array[index[i]] for name, array in table.items()} | {"mask": mask[i]}
        params, opt_state, losses = take_step(model, state[0], optimizer, state[1], batch, loss, precision)
        if held_out is None or state[2] is None:
            return (params, opt_state, None), losses
        watch, seen = state[2].look(averaged(opt_state, params), loss_of, before + i + 1, held_out)
        return (params, opt_state, watch), jnp.append(losses, seen)

    def over(state: State) -> Bool[Array, ""]:
        return jnp.zeros((), bool) if state[2] is None else state[2].over(axis)

    def going(carry: Any) -> Bool[Array, ""]:
        return (carry[0] < count) & ~over(carry[1])

    def body(carry: Any) -> Any:
        i, state, losses = carry
        state, found = step(i, state)
        return i + 1, state, losses.at[i].set(found)

    start = jnp.zeros((), jnp.int32)
    _, found = jax.eval_shape(step, start, state)
    losses = jnp.zeros((len(index), *found.shape), found.dtype)
    _, state, losses = jax.lax.while_loop(going, body, (start, state, losses))
    return state, losses, over(state)


# A slice of the loop is as many steps as take about this long, or four times it: a blink for the user, an age for the
# device.
_SLICE_SECONDS = 0.1


class RowOrder(Protocol):
    """Gives the next steps' row numbers [steps, batch], perhaps after leading axes, and masks [steps, batch].

    Attributes:
        width: how many rows a step takes in all, or numbers, where it gives the rows themselves.
    """

    width: int

    def take(self, steps: int) -> tuple[np.ndarray, ...]:
        """Returns those of the next steps."""
        ...


class Saving(NamedTuple):
    """How a training goes on from a checkpoint, and makes more.

    Attributes:
        done: how many steps were taken before.
        ended: the losses of all steps, where the training ended before; None where steps are left.
        losses: those of the steps before [steps, columns], or None where there are none.
        steps_left: takes how many steps are done, and returns how many may follow before the next checkpoint.
        save: gets how many steps are done, the state after them, the losses of all of them, and whether the training
            ends here.
    """

    done: int
    ended: np.ndarray | None
    losses: np.ndarray | None
    steps_left: Callable[[int], float]
    save: Callable[[int, Any, Callable[[], np.ndarray], bool], None]


def run_slices(
    advance: Callable[..., tuple[Any, Array, Array]],
    state: Any,
    order: RowOrder,
    put: Callable[..., tuple[Any, ...]],
    steps: int,
    note: Callable[[int, np.ndarray, bool], None],
    saving: Saving | None = None,
    agree: Callable[[bool], bool] = bool,
) -> tuple[Any, np.ndarray]:
    """Takes all steps of a training, or those until it stops early; returns its last state and its losses.

    Args:
        advance: takes the state, the row numbers and masks of a slice, and how many steps were taken and how many of
            the slice's to take; returns the state after them, their losses, and whether the training stops here.
        state: at the start; `advance` may reuse its memory.
        order: gives row numbers and masks.
        put: places those of a slice where `advance` takes them from.
        steps: how many to take.
        note: gets the number of steps done, the losses of those that were new, and whether the training stops here.
        saving: how it goes on from a checkpoint and makes more; the order and the state are those after it.
        agree: takes what the clock of this process says, and returns that of process 0: all take the same slices.

    Returns:
        The state, and losses [..., steps, outputs]. The last slice's are zeros after the step that stopped.
    """
    width = slice_width(order.width)
    history: list[np.ndarray] = [] if saving is None or saving.losses is None else [saving.losses]
    done, count, quick, over = 0 if saving is None else saving.done, 1, False, False
    chosen = put(*_padded(order.take(1), width))
    while done < steps and not over:
        began = time.monotonic()
        # Returns at once; while it computes, the next rows are drawn and on their way to the device.
        state, losses, stops = advance(state, *chosen, (np.int32(done), np.int32(count)))
        done += count
        following = min(4 * count if quick else count, width, steps - done)
        if saving is not None:
            following = int(min(following, saving.steps_left(done)))
        chosen = put(*_padded(order.take(following), width)) if following else chosen
        history.append(fetch(losses)[..., :count, :])
        over = bool(fetch(stops).all())
        quick = agree(time.monotonic() - began < _SLICE_SECONDS)
        note(done, history[-1], over)
        if saving is not None:
            saving.save(done, state, lambda: np.concatenate(history, axis=-2), over or done == steps)
        count = following
    return state, np.concatenate(history, axis=-2)


def slice_width(rows: int) -> int:
    """Returns how many steps a slice may have: as many as the order of their rows takes little memory for."""
    return max(1, min(1024, 2**22 // rows))


def _padded(given: tuple[np.ndarray, ...], width: int) -> list[np.ndarray]:
    return [_widened(array, width - array.shape[-2]) if array.shape[-2] < width else array for array in given]


def _widened(array: np.ndarray, more: int) -> np.ndarray:
    return np.pad(array, (*[(0, 0)] * (array.ndim - 2), (0, more), (0, 0)))
