"""Runs many trainings, as many at a time as there are cores, each in a thread."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Float

from torch_ref.common.cores import count_cores
from torch_ref.common.files.checkpoints import KeepsCheckpoints
from torch_ref.common.progress import Progress

from ...models.layers import Params
from ..devices import Placement, aligned
from ..plan import Plan
from .kept import KeptReplicas


def run_per_core(
    plans: Sequence[Plan],
    params: Params,
    shared: Sequence[str],
    place: Placement,
    report: Progress,
    checkpoints: KeepsCheckpoints | None = None,
) -> tuple[Params, np.ndarray, list[int]]:
    """Trains the replicas one by one; a replica that diverges takes all its steps, and others do not notice.

    Args:
        plans: of the trainings.
        params: to start from, stacked.
        shared: names of the arrays that all tables share.
        place: where arrays are put.
        report: shows the progress.
        checkpoints: where the trainings go on from, and what they write to.

    Returns:
        The parameters, stacked; the losses [replicas, steps, columns]; and after how many steps each ended.
    """
    params = jax.tree.map(np.asarray, params)
    placed = {name: place.table(plans[0].table[name]) for name in shared}
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    lock, compiled, stopped = threading.Lock(), threading.Event(), threading.Event()
    trained = jax.tree.map(lambda leaf: aligned(leaf.shape, leaf.dtype), params)  # each thread fills its part
    kept = KeptReplicas(trained, checkpoints)
    left = [number for number in range(len(plans)) if number not in kept.losses]
    done = [plan.steps if n in kept.losses else kept.steps_of(n) for n, plan in enumerate(plans)]

    def train(number: int) -> None:
        if number != left[0]:
            compiled.wait()  # the others would compile the same program beside the first
        plan = plans[number]

        def note(now: int, losses: np.ndarray, over: bool) -> None:
            compiled.set()
            if stopped.is_set():
                raise InterruptedError
            with lock:
                done[number] = plan.steps if over else now
                if not over:  # after a stop there are no losses
                    report(sum(done), plan.parts(losses)[-1].tolist())

        try:
            with jax.enable_x64(x64):  # what the caller's thread has, no other thread has
                start = jax.tree.map(lambda leaf: leaf[number], params)
                own, losses, _ = plan.run(start, note, place, placed, kept.begin(number))
        finally:
            compiled.set()
        jax.tree.map(lambda whole, leaf: whole.__setitem__(number, leaf), trained, own)
        kept.end(number, losses)

    with ThreadPoolExecutor(count_cores()) as pool:
        running = [pool.submit(train, number) for number in left]
        try:
            for future in running:
                future.result()
        except BaseException:  # Ctrl-C too: the others end with the slice that they are in
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    kept.finish()
    histories = [kept.losses[number] for number in range(len(plans))]
    trained = jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=True), trained)
    return trained, stack_losses(histories), [len(history) for history in histories]


def stack_losses(histories: Sequence[Float[np.ndarray, "steps columns"]]) -> Float[np.ndarray, "nets steps columns"]:
    """Returns losses of any length as one array, NaN after their ends."""
    most = max(map(len, histories))
    return np.stack([np.pad(h, ((0, most - len(h)), (0, 0)), constant_values=np.nan) for h in histories])
