"""Two processes that share a training read row groups of their own, and take the steps that one would take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
import torch_ref
from flax_impl.parity import largest_difference
from tests.support.parquet import opened
from tests.support.processes import free_port, run
from torch_ref.common.stream.feed import open_stream

PROGRAM = """
import sys
import numpy as np
from flax_impl.commands.backends import import_backend, join_processes
from flax_impl.commands.sides import SIDES
from tests.support.parquet import COLUMNS
from torch_ref.data import ParquetTable

backend, out, folder, coordinator, rank = sys.argv[1:]
package = import_backend(backend, "float64")
if backend == "flax":
    import jax

    jax.config.update("jax_num_cpu_devices", 2)  # 11 rows of a process do not divide by them
shared, _ = join_processes(package, coordinator, 2, int(rank))
read, seen = ParquetTable.read, []
ParquetTable.read = lambda self, number, *rest: (seen.append(number), read(self, number, *rest))[1]
side = SIDES[backend]("TwoHead", {"in_features": 3, "representation_features": [5], "head_features": [4]}, seed=1,
                      dtype="float64")
table = ParquetTable(folder, COLUMNS, window=60)
shared.pop("progress", None)
settings = {"batch_size": 21, "epochs": 3, "seed": 2, "progress": False}
losses = side.fit(table, **settings, **shared)
mine = sorted(set(seen))
watched = side.fit(table, validation_rows=range(0, 203, 7), **settings, **shared)
np.savez(out, losses=losses, watched=watched, mine=mine, **side.weights())
"""


def batches_of(table: Any, loss: Any, model: Any) -> list[dict[str, np.ndarray]]:
    """Returns the batches of both processes, side by side."""
    asked: dict[str, Any] = {"rows": None, "validation_rows": None, "patience": None, "steps": None, "shuffle": True}
    taken = []
    for number in range(2):
        stream = open_stream(
            table, loss, model, dtype="float64", batch_size=21, epochs=3, seed=2, process=(number, 2), **asked
        )
        with stream.feed as feed:
            arrays, mask = feed.take(stream.steps)
        taken.append(arrays | {"mask": mask})
    return [
        {name: np.concatenate([of[name][step] for of in taken]) for name in taken[0]}
        for step in range(len(taken[0]["mask"]))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["flax", "torch"])
@pytest.mark.usefixtures("x64")
def test_two_processes_share_a_stream(backend: str, tmp_path: Path, measured: list[str]) -> None:
    table = opened(tmp_path / "rows", 23, 31, window=60)
    coordinator, root = f"127.0.0.1:{free_port()}", Path(__file__).parents[2]
    program = f"import sys; sys.path.insert(0, {str(root)!r})\n{PROGRAM}"
    commands = [
        ["-c", program, backend, f"{rank}.npz", str(tmp_path / "rows"), coordinator, str(rank)] for rank in range(2)
    ]
    run(commands, tmp_path)
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2))
    assert sorted([*first.pop("mine"), *second.pop("mine")]) == list(range(len(table.groups)))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    package = flax_impl if backend == "flax" else torch_ref
    model = package.TwoHead(3, [5], [4])
    loss = package.FactualLoss()
    batches = batches_of(table, loss, model)
    rows = [np.sort(batch["x"][batch["mask"], 0]) for batch in batches]
    for epoch in np.split(np.array(rows, object), 3):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(203) / 203)
    losses = by_hand(backend, batches)
    difference = largest_difference({"losses": first["losses"]}, {"losses": losses})
    measured.append(f"{backend}, a stream in 2 processes, float64: losses {difference:.1e} apart (at most 1e-12)")
    assert difference <= 1e-12
    assert np.isfinite(first["watched"][:, -1]).sum() == 3


def by_hand(backend: str, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Returns the losses of steps on these batches, one after the other, in one process."""
    from flax_impl.commands.sides import SIDES

    config = {"in_features": 3, "representation_features": [5], "head_features": [4]}
    side: Any = SIDES[backend]("TwoHead", config, seed=1, dtype="float64")
    if backend == "torch":
        optimizer = torch_ref.training.build_optimizer(torch_ref.Adam(), side.model.parameters())
        return np.array([torch_ref.train_step(side.model, optimizer, batch).numpy() for batch in batches])
    params, optimizer = side.params, flax_impl.Adam()
    state = flax_impl.training.build_optimizer(optimizer).init(params)
    losses = []
    for batch in batches:
        params, state, found = flax_impl.train_step(side.model, params, optimizer, state, batch)
        losses.append(np.asarray(found))
    return np.array(losses)
