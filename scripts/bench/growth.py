"""How time and memory of a training grow, each point in a process of its own, so that its peak memory is its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .contestants import Task

# What grows, and how far: in the short run, and in the full one. The task says what the rest is.
SWEEPS: dict[str, tuple[dict[str, Any], Sequence[int], Sequence[int]]] = {
    "rows": ({}, (1_000, 10_000, 100_000, 300_000, 1_000_000), (3_000_000, 10_000_000)),
    "width": ({"steps": 100}, (64, 128, 256, 512, 1024), (2048,)),
    "batch_size": ({"rows": 200_000, "steps": 30}, (100, 300, 1_000, 3_000, 10_000), (30_000, 100_000)),
    "replicas": ({"steps": 100}, (1, 10, 100, 300), (1_000,)),
}
MEGABYTE = 2**20


def measure(sweep: str, value: int) -> dict[str, Any]:
    """Returns what a training at one point took.

    `seconds` are of an epoch where rows grow, and otherwise of a step (of all replicas). In bytes, `memory` is what the
    process held at most, `added` what of it came with the training, and `data` and `model` are the sizes of the table
    and of the parameters, by hand.
    """
    fixed, *_ = SWEEPS[sweep]
    task = Task(**{**fixed, sweep: value})
    scripts = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (scripts.parent, scripts)))}
    command = [sys.executable, "-m", "bench.growth", sweep, json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{sweep} {value}: {done.stderr.strip().splitlines()[-1]}")
    return {sweep: value, **json.loads(done.stdout.splitlines()[-1])}


def slope(points: Sequence[Mapping[str, Any]], sweep: str, what: str, above: float = 0) -> float | None:
    """Returns the slope in logarithms over the points from `above` on: 1 is growth in proportion."""
    kept = [point for point in points if point[sweep] >= above and point[what] > 0]
    if len(kept) < 2:
        return None
    logs = np.log([[point[sweep], point[what]] for point in kept])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def run(sweep: str, task: Task) -> dict[str, Any]:
    """Trains in this process, and returns what it took."""
    import jax

    import flax_impl

    model = flax_impl.TwoHead(**task.config)
    data = _data(task)
    settings: dict[str, Any] = {"batch_size": task.batch_size, "progress": False}
    many = sweep == "replicas"
    params: Any = model.init_params()
    if many:
        params = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], task.replicas, axis=0), params)
    before = _memory(reset=True)

    def train(steps: int) -> Any:
        if many:
            seeds = range(task.replicas)
            return flax_impl.fit_replicas(model, params, data, steps=steps, seed=seeds, **settings)
        return flax_impl.fit(model, params, data, steps=steps, **settings)

    steps = -(-task.rows // task.batch_size) if sweep == "rows" else task.steps
    train(2)  # compiles
    began = time.perf_counter()
    jax.block_until_ready(train(steps))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds if sweep == "rows" else seconds / steps,
        "memory": _memory(),
        "added": _memory() - before,
        "data": sum(array.nbytes for array in data.values()),
        "model": 4 * task.parameters,
        "steps": steps,
    }


def _data(task: Task) -> dict[str, np.ndarray]:
    """Returns a table in the dtypes of the training; at this size drawing honest outcomes would be the longer part."""
    generator = np.random.default_rng(0)
    return {
        "x": generator.standard_normal((task.rows, task.features), dtype=np.float32),
        "t": (np.arange(task.rows) % 2).astype(np.int32),
        "y": generator.standard_normal((task.rows, 1), dtype=np.float32),
    }


def _memory(reset: bool = False) -> int:
    """Returns the most bytes held since the last reset: by the accelerator, or else by this process (Linux)."""
    import jax

    statistics = jax.local_devices()[0].memory_stats()
    if statistics:
        return int(statistics["bytes_in_use" if reset else "peak_bytes_in_use"])
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], Task(**json.loads(sys.argv[2])))))
