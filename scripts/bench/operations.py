"""Where the time of a step on a CPU goes, by what the operations do."""

import re
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

from flax_impl.commands.backends import import_backend

from .contestants import Task

_CALLED = "dot", "ynn"  # what XLA calls its products


def seconds_by_group(task: Task) -> Counter[str]:
    """Returns the seconds of a step of `fit` by what its operations do, each its median over the task's steps.

    Args:
        task: what is trained.
    """
    import jax
    import numpy as np

    package = import_backend("flax")
    from flax_impl.models.pure import as_pure
    from flax_impl.training.loop import init_state, loop_steps
    from flax_impl.training.traced_settings import as_pytree, without_idle_decay

    model, optimizer = package.TwoHead(**task.config), without_idle_decay(package.Adam())
    params = model.init_params(0)
    index = np.random.default_rng(0).integers(0, task.rows, (task.steps, task.batch_size)).astype(np.int32)
    mask, span = np.ones(index.shape, bool), (np.int32(0), np.int32(task.steps))
    loss = as_pytree(package.FactualLoss())

    def state() -> tuple[object, ...]:
        return jax.tree.map(jax.numpy.copy, (params, init_state(optimizer, params), None))

    program = loop_steps.lower(
        as_pure(model), state(), optimizer, task.data, index, mask, span, loss, "float32"
    ).compile()
    groups = _groups(program.as_text() or "")
    spent: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(state(), optimizer, task.data, index, mask, span, loss))
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for line in plane.lines:
                    for event in line.events:
                        if event.name in groups:
                            spent[event.name].append(1e-9 * event.duration_ns)
    found: Counter[str] = Counter()
    for name, durations in spent.items():
        if len(durations) > task.steps / 2:  # in the loop
            found[groups[name]] += median(durations)  # pyright: ignore[reportArgumentType] (a counter of seconds)
    return found


def _groups(program: str) -> dict[str, str]:
    """Returns what each operation of a compiled program does."""
    found = {}
    for name, rest in re.findall(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$", program, re.MULTILINE):
        place = re.search(r'op_name="([^"]*)"', rest)
        where = place[1].partition("while/body/")[2] if place else ""
        if name.startswith(_CALLED):
            found[name] = "sums of biases' gradients" if "reduce_sum" in where else "matrix products"
        elif name.startswith("copy"):
            found[name] = "copies of parameters"
        elif re.fullmatch(r"jit\(take_step\)/[\w.]+", where):
            found[name] = "Adam"
        elif "elu" in where:
            found[name] = "ELU"
        elif "gather" in where or "dynamic_slice" in where:
            found[name] = "fetching the batch"
        else:
            found[name] = "masks, loss and the rest"
    return found
