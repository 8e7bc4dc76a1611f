"""A process that trains with checkpoints, to be killed: prints the sha256 of what it ends with.

Its arguments: one of `KINDS`, the folder, how many steps it takes, and perhaps `wait`, see `tests.support.killed`.
"""

import hashlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from flax_impl.commands.backends import import_backend, join_processes
from flax_impl.commands.sides import SIDES
from tests.support.killed import end
from tests.support.ports import free_port
from torch_ref.common.data.simulation import synthetic
from torch_ref.common.settings.optimizers import SGD, Adam

CONFIG = {"in_features": 4, "representation_features": [8], "head_features": [4], "final_activation": "identity"}
HELD_OUT = list(range(0, 60, 3))


def settings(steps: int) -> dict[str, Any]:
    return {"optimizer": Adam(lr=1e-3, average=0.9), "steps": steps, "batch_size": 16, "every": 50, "progress": False}


def digest(weights: dict[str, np.ndarray], *more: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in (*more, *(weights[name] for name in sorted(weights))):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def single(backend: str, folder: str, steps: int, **shared: Any) -> str:
    side = SIDES[backend]("TwoHead", CONFIG, seed=1)
    chosen = settings(steps) | {"seed": 3, "validation_rows": HELD_OUT} | shared
    ready()
    losses = side.fit(synthetic(rows=60, features=4).arrays(), checkpoint=folder, **chosen)
    return digest(side.weights(), losses)


def replicas(folder: str, steps: int) -> str:
    """Several for each core, with rows of their own; some stop early."""
    import flax_impl

    model, numbers = flax_impl.TwoHead(**CONFIG), range(5)
    data = synthetic(rows=60, features=4).arrays()
    datas = [data | {"w": np.random.default_rng(n).uniform(0.5, 2, 60).astype(np.float32)} for n in numbers]
    held_out = {"validation_rows": HELD_OUT, "patience": max(1, steps // 20)}
    ready()
    params, losses = flax_impl.fit_replicas(
        model, model.init_params(numbers), datas, seed=numbers, checkpoint=folder, **settings(steps), **held_out
    )
    leaves = {str(n): np.stack(array) for n, array in enumerate(_leaves(params))}
    return digest(leaves, losses)


def effects(folder: str, steps: int) -> str:
    """With nets that diverge and start again, and a second ensemble for the calibration."""
    from flax_impl.effects import EffectSettings, fit_effects

    chosen = EffectSettings(
        representation_features=[4], head_features=[4], members=3, steps=steps, batch_size=20, bootstrap=True,
        calibrate=True, optimizer=SGD(lr=1.0), patience=steps,
    )  # fmt: skip
    data = synthetic(rows=120, features=4)
    ready()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = fit_effects(data, chosen, checkpoint=folder, every=50, progress=False)
    assert model.training is not None
    assert model.ensemble.calibration is not None
    weights = {f"{n}/{name}": array for n, of in enumerate(model.ensemble.weights) for name, array in of.items()}
    return digest(weights, model.training.losses, model.ensemble.calibration)


def two_processes(backend: str, folder: str, steps: int) -> str:
    """Process 0 starts the other one, which ends with it."""
    package, joined = import_backend(backend), sys.argv[4:6] if sys.argv[4:5] == ["--join"] else []
    if joined:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    port = joined[1] if joined else str(free_port())
    if not joined:
        module = [sys.executable, "-m", "tests.support.killed_fit"]
        subprocess.Popen([*module, *sys.argv[1:4], "--join", port], stdout=subprocess.DEVNULL)
    shared, _ = join_processes(package, f"127.0.0.1:{port}", 2, int(bool(joined)))
    return single(backend, folder, steps, **shared | {"progress": False})


def _end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(1)


def _leaves(params: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(params)


def ready() -> None:
    print("ready", flush=True)


KINDS: dict[str, Callable[[str, int], str]] = {
    "torch": lambda folder, steps: single("torch", folder, steps),
    "flax": lambda folder, steps: single("flax", folder, steps),
    "replicas": replicas,
    "effects": effects,
    "two-torch": lambda folder, steps: two_processes("torch", folder, steps),
    "two-flax": lambda folder, steps: two_processes("flax", folder, steps),
}

if __name__ == "__main__":
    end(KINDS[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
