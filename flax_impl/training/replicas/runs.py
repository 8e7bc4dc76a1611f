"""Two ways to run many trainings at once: a core for each, or one program for all."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from torch_ref.common.batches import BatchOrder, HeldOut
from torch_ref.common.progress import Progress
from torch_ref.common.settings.optimizers import Optimizer

from ...effects.estimates import padded
from ...models.layers import Params
from ...models.pure import Pure
from ..devices import Placement, aligned, fetch
from ..early_stopping import begin
from ..loop import loop, run_slices
from ..step import Loss, init


@dataclass(frozen=True)
class Work:
    """Trainings that are alike but for the numbers in them; a list has an entry for each.

    Args:
        model: the model.
        precision: of its products.
        params: to start from, stacked: [replicas, …] each.
        tables: the data; an array that is one object in all of them is shared.
        optimizers: of one structure.
        losses: likewise, pytrees.
        orders: of the rows.
        held_out: what each is judged by, of as many rows in each; or None for all.
        steps: of each training.
        place: where arrays are put.
    """

    model: Pure
    precision: str
    params: Params
    tables: list[dict[str, np.ndarray]]
    optimizers: list[Optimizer]
    losses: list[Loss]
    orders: list[BatchOrder]
    held_out: list[HeldOut | None]
    steps: int
    place: Placement

    @property
    def shared(self) -> list[str]:
        """The names of the arrays that all trainings read."""
        first = self.tables[0]
        return [name for name in first if all(table[name] is first[name] for table in self.tables)]

    def parts(self, losses: np.ndarray) -> int:
        """Returns how many columns of the losses are parts of the loss; held-out rows add one of their own."""
        return losses.shape[-1] - (self.held_out[0] is not None)


def run_on_cores(work: Work, report: Progress) -> tuple[Params, np.ndarray, list[int]]:
    """Trains the replicas one by one, as many at a time as there are cores, each in a thread of its own.

    Returns:
        The parameters, stacked, the losses [replicas, steps, outputs], and after how many steps each ended; what the
        losses are from there on means nothing. One that diverges ends with the slice that it is in.
    """
    place, params_of = work.place, jax.tree.map(np.asarray, work.params)
    shared = {name: place.table(work.tables[0][name]) for name in work.shared}
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    lock, compiled, stopped = threading.Lock(), threading.Event(), threading.Event()
    done = [0] * len(work.tables)
    found = jax.tree.map(lambda leaf: aligned(leaf.shape, leaf.dtype), params_of)  # each thread fills its part

    def train(number: int) -> tuple[np.ndarray, int]:
        if number:
            compiled.wait()  # the others would compile the same program beside the first
        try:
            with jax.enable_x64(x64):  # what the caller's thread has, no other thread has
                return run(number)
        finally:
            compiled.set()

    def run(number: int) -> tuple[np.ndarray, int]:
        own = {name: place.table(array) for name, array in work.tables[number].items() if name not in shared}
        params = place.whole(jax.tree.map(lambda leaf: leaf[number], params_of))
        optimizer, loss, held_out = work.optimizers[number], work.losses[number], work.held_out[number]

        def advance(state: Any, index: np.ndarray, mask: np.ndarray, span: Any) -> Any:
            chosen = (place.batches(index), place.batches(mask))
            return loop(work.model, state, optimizer, shared | own, *chosen, span, loss, work.precision, held_out)

        def note(now: int, losses: np.ndarray, over: bool) -> None:
            compiled.set()
            if stopped.is_set():
                raise InterruptedError
            with lock:
                done[number] = work.steps if over else now
                if not over:  # after a stop there are no losses
                    report(sum(done), losses[-1, : work.parts(losses)].tolist())

        state = (params, init(optimizer, params), None if held_out is None else begin(params))
        (params, _, watch), losses = run_slices(advance, state, work.orders[number], work.steps, note)
        best = params if watch is None else watch.params
        jax.tree.map(lambda whole, leaf: whole.__setitem__(number, leaf), found, best)
        return losses, (0 if watch is None else int(watch.ended)) or len(losses)

    with ThreadPoolExecutor(count_cores()) as pool:
        running = [pool.submit(train, number) for number in range(len(work.tables))]
        try:
            ended = [future.result() for future in running]
        except BaseException:  # Ctrl-C too: the others end with the slice that they are in
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    losses = padded([history[:steps] for history, steps in ended])
    params = jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=True), found)
    return params, losses, [steps for _, steps in ended]


def run_vectorized(work: Work, report: Progress) -> tuple[Params, np.ndarray, list[int]]:
    """Trains all replicas in one program; where they do not divide by the mesh, the last is trained more than once.

    Returns:
        As `run_on_cores` does. One that ends early is computed on until all have ended.
    """
    place, shared, count = work.place, work.shared, len(work.tables)
    numbers = [*range(count), *[count - 1] * (-count % place.parts("replica"))]
    dtype = jax.tree.leaves(work.params)[0].dtype

    def stacked(values: Sequence[Any]) -> Any:
        """Returns the numbers of all, in the parameters' dtype, which a Python number would take on."""
        chosen = [values[number] for number in numbers]
        return place.whole(jax.tree.map(lambda *leaves: np.asarray(leaves, dtype), *chosen), "replica")

    def table(name: str) -> Any:
        if name in shared:
            return place.table(work.tables[0][name])
        return place.table(np.stack([work.tables[number][name] for number in numbers]), "replica")

    tables = {name: table(name) for name in work.tables[0]}
    optimizers, losses_of = stacked(work.optimizers), stacked(work.losses)
    whole = work.params if len(numbers) == count else jax.tree.map(lambda x: np.asarray(x)[numbers], work.params)
    params = place.whole(whole, "replica")
    held_out, watch = None, None
    if work.held_out[0] is not None:
        rows = np.stack([work.held_out[number].rows for number in numbers])  # pyright: ignore[reportOptionalMemberAccess]
        held_out = work.held_out[0]._replace(rows=place.whole(rows, "replica"))
        watch = place.whole(jax.vmap(begin)(params), "replica", copy=False)
    step = _vectorized(work.model, work.precision, tuple((name, name in shared) for name in tables), watch is not None)

    def advance(state: Any, index: np.ndarray, mask: np.ndarray, span: Any) -> Any:
        chosen = (place.batches(index, "replica"), place.batches(mask, "replica"))
        return step(state, optimizers, tables, *chosen, span, losses_of, held_out)

    def note(now: int, losses: np.ndarray, over: bool) -> None:
        if not over:
            report(count * now, losses[:count, -1, : work.parts(losses)].mean(axis=0))

    order = _Orders(work.orders, numbers)
    state = (params, place.whole(_init_each(optimizers, params), "replica", copy=False), watch)
    (params, _, watch), losses = run_slices(advance, state, order, work.steps, note)
    steps = losses.shape[1]
    ended = [steps] * count if watch is None else [int(of_one) or steps for of_one in fetch(watch.ended)[:count]]
    params = place.home(params if watch is None else watch.params)
    if len(numbers) > count:
        params = jax.tree.map(lambda leaf: leaf[:count], params)
    return params, np.array(losses[:count]), ended


def count_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Orders:
    """The rows of all replicas, stacked."""

    def __init__(self, orders: Sequence[BatchOrder], numbers: Sequence[int]) -> None:
        self._orders, self._numbers = orders, numbers
        self.width = len(numbers) * orders[0].width

    def take(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        taken = [order.take(steps) for order in self._orders]
        index, mask = (np.stack([part[which] for part in taken]) for which in (0, 1))
        return index[self._numbers], mask[self._numbers]


@lru_cache
def _vectorized(model: Pure, precision: str, shared: tuple[tuple[str, bool], ...], watched: bool) -> Callable[..., Any]:
    """Returns the loop over all replicas; `shared` says of each array of the table whether all read the same."""
    table = {name: None if of_all else 0 for name, of_all in shared}
    held_out_axes = HeldOut(0, None, None) if watched else None  # pyright: ignore[reportArgumentType] (axes, no numbers)

    def run(state: Any, optimizer: Any, tables: Any, index: Any, mask: Any, span: Any, loss: Any, held_out: Any) -> Any:
        return loop(model, state, optimizer, tables, index, mask, span, loss, precision, held_out, "replica")

    axes = (0, 0, table, 0, 0, None, 0, held_out_axes)
    return jax.jit(jax.vmap(run, axes, axis_name="replica"), donate_argnums=0)


@jax.jit
def _init_each(optimizers: Optimizer, params: Params) -> Any:
    return jax.vmap(init)(optimizers, params)
