"""A thousand trainings of IHDP's size at once: what an accelerator is for, and what its host does beside it."""

import time

from flax_impl.commands.backends import import_backend
from torch_ref.common.batches import BatchOrder

from .contestants import Task

THOUSAND = Task(rows=672, steps=3000, replicas=1000)


def trainings(task: Task = THOUSAND, precision: str = "float32") -> float:
    """Returns the seconds of them all, compiled before."""
    import jax

    package = import_backend("flax")
    model = package.TwoHead(**task.config)
    params = model.init_params(range(task.replicas))

    def train(steps: int) -> float:
        began = time.perf_counter()
        settings = {"batch_size": task.batch_size, "seed": range(task.replicas), "precision": precision}
        found = package.fit_replicas(model, params, task.data, steps=steps, progress=False, **settings)
        jax.block_until_ready(found)
        return time.perf_counter() - began

    train(2)
    return train(task.steps)


def row_orders(task: Task = THOUSAND) -> float:
    """Returns the seconds in which the host draws their rows, in slices as the training takes them."""
    from flax_impl.training.loop import slice_width

    seeds = range(task.replicas)
    orders = [BatchOrder(task.rows, batch_size=task.batch_size, shuffle=True, seed=seed) for seed in seeds]
    order = BatchOrder.stacked(orders)
    width = slice_width(order.width)
    began = time.perf_counter()
    for done in range(0, task.steps, width):
        order.take(min(width, task.steps - done))
    return time.perf_counter() - began
