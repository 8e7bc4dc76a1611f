"""Two ways to run many trainings at once: a core for each, or one program for all."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from .compiled import Loss, init, loop
from .hub.batching import BatchOrder
from .hub.progress import Progress
from .layers import Params
from .loops import run_slices
from .optimizers import Optimizer
from .sharding import Placement, aligned


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
        steps: of each training.
        place: where arrays are put.
    """

    model: nn.Module
    precision: str
    params: Params
    tables: list[dict[str, np.ndarray]]
    optimizers: list[Optimizer]
    losses: list[Loss]
    orders: list[BatchOrder]
    steps: int
    place: Placement

    @property
    def shared(self) -> list[str]:
        """The names of the arrays that all trainings read."""
        first = self.tables[0]
        return [name for name in first if all(table[name] is first[name] for table in self.tables)]


def run_on_cores(work: Work, report: Progress) -> tuple[Params, np.ndarray]:
    """Trains the replicas one by one, as many at a time as there are cores, each in a thread of its own."""
    place, params_of = work.place, jax.tree.map(np.asarray, work.params)
    shared = {name: place.table(work.tables[0][name]) for name in work.shared}
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    lock, compiled, stopped = threading.Lock(), threading.Event(), threading.Event()
    done = [0] * len(work.tables)
    found = jax.tree.map(lambda leaf: aligned(leaf.shape, leaf.dtype), params_of)  # each thread fills its part

    def train(number: int) -> np.ndarray:
        if number:
            compiled.wait()  # the others would compile the same program beside the first
        try:
            with jax.enable_x64(x64):  # what the caller's thread has, no other thread has
                return run(number)
        finally:
            compiled.set()

    def run(number: int) -> np.ndarray:
        own = {name: place.table(array) for name, array in work.tables[number].items() if name not in shared}
        params = place.whole(jax.tree.map(lambda leaf: leaf[number], params_of))
        optimizer, loss = work.optimizers[number], work.losses[number]

        def advance(state: Any, index: np.ndarray, mask: np.ndarray, steps: int) -> Any:
            chosen = (place.batches(index), place.batches(mask))
            return loop(work.model, state, optimizer, shared | own, *chosen, steps, loss, work.precision)

        def note(now: int, losses: np.ndarray) -> None:
            compiled.set()
            if stopped.is_set():
                raise InterruptedError
            with lock:
                done[number] = now
                report(sum(done), losses[-1])

        state = (params, init(optimizer, params))
        (params, _), losses = run_slices(advance, state, work.orders[number], work.steps, note)
        jax.tree.map(lambda whole, leaf: whole.__setitem__(number, leaf), found, params)
        return losses

    with ThreadPoolExecutor(count_cores()) as pool:
        running = [pool.submit(train, number) for number in range(len(work.tables))]
        try:
            losses = [future.result() for future in running]
        except BaseException:  # Ctrl-C too: the others end with the slice that they are in
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=True), found), np.stack(losses)


def run_vectorized(work: Work, report: Progress) -> tuple[Params, np.ndarray]:
    """Trains all replicas in one program; where they do not divide by the mesh, the last is trained more than once."""
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
    step = _vectorized(work.model, work.precision, tuple((name, name in shared) for name in tables))

    def advance(state: Any, index: np.ndarray, mask: np.ndarray, steps: int) -> Any:
        chosen = (place.batches(index, "replica"), place.batches(mask, "replica"))
        return step(state, optimizers, tables, *chosen, steps, losses_of)

    def note(now: int, losses: np.ndarray) -> None:
        report(count * now, losses[:count, -1].mean(axis=0))

    order = _Orders(work.orders, numbers)
    state = (params, place.whole(_init_each(optimizers, params), "replica", copy=False))
    (params, _), losses = run_slices(advance, state, order, work.steps, note)
    params = place.home(params)
    return params if len(numbers) == count else jax.tree.map(lambda leaf: leaf[:count], params), losses[:count]


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
def _vectorized(model: nn.Module, precision: str, shared: tuple[tuple[str, bool], ...]) -> Callable[..., Any]:
    """Returns the loop over all replicas; `shared` says of each array of the table whether all read the same."""
    table = {name: None if of_all else 0 for name, of_all in shared}

    def run(state: Any, optimizer: Any, tables: Any, index: Any, mask: Any, count: Any, loss: Any) -> Any:
        return loop(model, state, optimizer, tables, index, mask, count, loss, precision)

    return jax.jit(jax.vmap(run, (0, 0, table, 0, 0, None, 0)), donate_argnums=0)


@jax.jit
def _init_each(optimizers: Optimizer, params: Params) -> Any:
    return jax.vmap(init)(optimizers, params)
