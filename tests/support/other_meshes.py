"""A process with 8 virtual devices that goes on, over one mesh, from what it did over another.

Its arguments: a folder, and a file to write to. It writes, for each case, how far it ends from an uninterrupted run
on one device.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

import flax_impl
from tests.support.interrupted import interrupting

MODEL = flax_impl.TwoHead(4, [5], [4], final_activation="identity")
HELD_OUT = list(range(0, 53, 4))  # 39 rows are left to train on, which no mesh divides
COUNT = 5  # replicas, which no mesh divides either
# The devices [replica, data] before the interruption and after it; None is no mesh at all.
MESHES: list[tuple[tuple[int, int] | None, tuple[int, int] | None]] = [
    ((1, 1), (1, 4)), ((1, 4), (1, 2)), ((2, 1), (4, 1)), ((4, 2), (1, 1)), ((1, 2), (2, 2)), (None, (1, 4)),
    ((1, 2), None),
]  # fmt: skip


def mesh_of(shape: tuple[int, int] | None) -> Mesh | None:
    if shape is None:
        return None
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("replica", "data"), (AxisType.Auto, AxisType.Auto), devices=devices)


def single(**given: Any) -> tuple[Any, np.ndarray]:
    start = jax.tree.map(lambda leaf: leaf.astype("float64"), MODEL.init_params(0))
    return flax_impl.fit(MODEL, start, **given)


def replicas(**given: Any) -> tuple[Any, np.ndarray]:
    start = jax.tree.map(lambda leaf: leaf.astype("float64"), MODEL.init_params(range(COUNT)))
    return flax_impl.fit_replicas(MODEL, start, **given, seed=range(COUNT))


def main(folder: Path, out: Path) -> None:
    data = flax_impl.data.synthetic(rows=53, features=4).arrays()
    settings: dict[str, Any] = {
        "data": data, "steps": 21, "batch_size": 15, "validation_rows": HELD_OUT, "progress": False,
        "optimizer": flax_impl.Adam(lr=0.01, average=0.9),
    }  # fmt: skip
    found = {}
    for name, train in (("fit", single), ("replicas", replicas)):
        whole = leaves(train(**settings, mesh=mesh_of((1, 1))))
        for before, after in MESHES:
            if name == "replicas" and None in (before, after):
                continue  # on a CPU these are trained one by one, which is another state
            kept = {"checkpoint": folder / f"{name} {before} {after}", "every": 4}
            with interrupting(after=2):
                train(**settings, **kept, mesh=mesh_of(before))
            ended = leaves(train(**settings, **kept, mesh=mesh_of(after)))
            apart = [np.nanmax(np.abs(one - other)) for one, other in zip(ended, whole, strict=True)]
            found[f"{name}, {before} to {after}"] = float(max(apart))
    out.write_text(json.dumps(found))


def leaves(trained: tuple[Any, np.ndarray]) -> list[np.ndarray]:
    return [*map(np.asarray, jax.tree.leaves(trained[0])), trained[1]]


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # as in test_devices
    main(Path(sys.argv[1]), Path(sys.argv[2]))
