"""Runs many trainings as one program, vectorised over the replicas."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array

from torch_ref.common.batches import BatchOrder, HeldOut
from torch_ref.common.files.checkpoints import KeepsCheckpoints
from torch_ref.common.progress import Progress
from torch_ref.common.settings.optimizers import Optimizer

from ...models.layers import Params
from ...models.pure import Pure
from ..build import averaged
from ..checkpoints.saving import make_saving
from ..checkpoints.state import pack, unpack
from ..devices import Placement, fetch
from ..early_stopping import begin
from ..loop import Saving, init_state, loop_steps, run_slices
from ..plan import Plan


def run_vectorised(
    plans: Sequence[Plan],
    params: Params,
    shared: Sequence[str],
    place: Placement,
    report: Progress,
    checkpoints: KeepsCheckpoints | None = None,
) -> tuple[Params, np.ndarray, list[int]]:
    """Trains all replicas at once; one that ends early is computed on until all have ended.

    Where they do not divide by the mesh, the last is trained more than once. Arguments and result are those of
    `run_per_core`.
    """
    count, first = len(plans), plans[0]
    numbers = [*range(count), *[count - 1] * (-count % place.parts("replica"))]
    chosen = [plans[number] for number in numbers]
    dtype = jax.tree.leaves(params)[0].dtype

    def stacked(values: Sequence[Any]) -> Any:
        """Returns the numbers of all, in the parameters' dtype, which a Python number would take on."""
        return place.whole(jax.tree.map(lambda *leaves: np.asarray(leaves, dtype), *values), "replica")

    tables = {
        name: place.table(array)
        if name in shared
        else place.table(np.stack([plan.table[name] for plan in chosen]), "replica")
        for name, array in first.table.items()
    }
    optimizers, losses_of = stacked([plan.optimizer for plan in chosen]), stacked([plan.loss for plan in chosen])
    whole = params if len(numbers) == count else jax.tree.map(lambda leaf: np.asarray(leaf)[numbers], params)
    start = place.whole(whole, "replica")
    held_out, watch = None, None
    if first.held_out is not None:
        rows = np.stack([plan.held_out.rows for plan in chosen if plan.held_out is not None])
        held_out = first.held_out._replace(rows=place.whole(rows, "replica"))
        watch = place.whole(jax.vmap(begin)(start), "replica", copy=False)
    axes = tuple((name, name in shared) for name in tables)
    loop = vectorised_loop(first.model, first.precision, axes, watch is not None)

    def put(index: np.ndarray, mask: np.ndarray) -> tuple[Array, Array]:
        return place.batches(index if len(numbers) == count else index[numbers], "replica"), place.batches(mask)

    def advance(state: Any, index: Array, mask: Array, span: Any) -> Any:
        return loop(state, optimizers, tables, index, mask, span, losses_of, held_out)

    def note(now: int, losses: np.ndarray, over: bool) -> None:
        if not over:
            report(count * now, first.parts(losses)[:count, -1].mean(axis=0))

    state = (start, place.whole(_init_each(optimizers, start), "replica", copy=False), watch)
    order, saving = BatchOrder.stacked([plan.order for plan in plans]), None
    if checkpoints is not None:
        state, saving = _kept(checkpoints, state, numbers, count, place)
        order.skip(saving.done)
    if saving is not None and saving.ended is not None:
        losses = saving.ended
    else:
        state, losses = run_slices(advance, state, order, put, first.steps, note, saving, place.agree)
    (trained, opt_state, watch), steps = state, losses.shape[1]
    ended = [steps] * count if watch is None else [int(of_one) or steps for of_one in fetch(watch.ended)[:count]]
    trained = place.home(averaged(opt_state, trained) if watch is None else watch.params)
    if len(numbers) > count:
        trained = jax.tree.map(lambda leaf: leaf[:count], trained)
    return trained, np.array(losses[:count]), ended


@lru_cache
def vectorised_loop(
    model: Pure, precision: str, shared: tuple[tuple[str, bool], ...], watched: bool
) -> Callable[..., Any]:
    """Returns the compiled loop over all replicas; `shared` says of each array whether all replicas read the same."""
    table = {name: None if of_all else 0 for name, of_all in shared}
    held_out_axes = HeldOut(0, None, None) if watched else None  # pyright: ignore[reportArgumentType] (axes, no numbers)

    def run(state: Any, optimizer: Any, tables: Any, index: Any, mask: Any, span: Any, loss: Any, held_out: Any) -> Any:
        return loop_steps(model, state, optimizer, tables, index, mask, span, loss, precision, held_out, "replica")

    axes = (0, 0, table, 0, None, None, 0, held_out_axes)
    return jax.jit(jax.vmap(run, axes, axis_name="replica"), donate_argnums=0)


def _kept(
    checkpoints: KeepsCheckpoints, state: Any, numbers: Sequence[int], count: int, place: Placement
) -> tuple[Any, Saving]:
    """Returns the state to go on from, and what makes checkpoints: each of the first `count` replicas, once.

    What a mesh trains more than once is no part of them, so that they go on over another mesh.
    """
    losses = None
    if checkpoints.found is not None:
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), state)
        state, losses = jax.tree.map(lambda leaf: leaf[numbers], unpack(like, checkpoints.found.arrays))
        state = place.whole(state, "replica")

    def packed(state: Any, losses: np.ndarray) -> dict[str, np.ndarray]:
        return pack(jax.tree.map(lambda leaf: fetch(leaf)[:count], state), losses[:count])

    return state, make_saving(checkpoints, losses, packed)


@jax.jit
def _init_each(optimizers: Optimizer, params: Params) -> Any:
    return jax.vmap(init_state)(optimizers, params)
