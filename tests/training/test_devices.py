"""One training over many devices and processes is the training on one, and ends where a process is gone."""

import csv
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
import torch_ref
from flax_impl.commands import train
from flax_impl.parity import largest_difference
from tests.support.processes import Running, free_port, run

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOLERANCE = 1e-12
LOST = "expected all processes to stay until the training ends, but one of them is gone"

# Trains every case in each way that its arguments ask for, and writes down everything: way/case/run/array. Two treated
# rows of 203 leave most parts of most batches without one; 45 rows divide by no number of devices; the last batch of an
# epoch has 23, so that the second of two processes has none of its rows.
PROGRAM = """
import sys

import numpy as np

from flax_impl.commands.backends import import_backend, join_processes
from flax_impl.commands.sides import SIDES

backend, out, coordinator, processes, rank, devices = sys.argv[1:]
package = import_backend(backend, "float64")
found = {}
net = {"in_features": 7, "representation_features": [16], "head_features": [12], "final_activation": "identity"}
data = package.data.synthetic(rows=203, features=7).arrays()
uneven = data | {"t": np.isin(np.arange(203), (3, 150)).astype(np.int32)}
cases = {
    "per_head": ("TwoHead", net, uneven, package.FactualLoss()),
    "batch": ("TwoHead", net, uneven | {"w": np.linspace(0.5, 2, 203)}, package.FactualLoss(reduction="batch")),
    "targeted": ("TwoHead", net | {"propensity_head": True}, uneven, package.TargetedLoss()),
    "joint": ("TwoInTwoOut", {"hidden_features": [8]}, package.data.curves(203), package.JointLoss()),
}
runs = {
    "gradient": {"optimizer": package.SGD(lr=1), "steps": 1},  # the parameters move by minus the gradient
    "adam": {"optimizer": package.Adam(lr=1e-2), "steps": 20, "batch_size": 45},
}


def train(way, shared, *only):
    for case in only or cases:
        model, config, data, loss = cases[case]
        for run, settings in runs.items():
            side = SIDES[backend](model, config, dtype="float64")
            before = side.weights()
            found[f"{way}/{case}/{run}/losses"] = side.fit(data, loss=loss, progress=False, **settings, **shared)
            after = side.weights()
            moved = {name: before[name] - after[name] for name in before} if run == "gradient" else after
            found.update({f"{way}/{case}/{run}/{name}": array for name, array in moved.items()})


def together():
    shared, _ = join_processes(package, coordinator, int(processes), int(rank))
    return {name: value for name, value in shared.items() if name != "progress"}
"""

TORCH = """
import torch

from torch_ref.training.processes import SharedLosses

torch.set_num_threads(1)
shared = together()
train("alone", {})
train("together", shared)
SharedLosses.forward = lambda self, batch: self.loss(self.model, **batch)  # each divides by the rows it has itself
train("local counts", shared)
np.savez(out, **found)
"""

FLAX = """
import jax

jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_disable_most_optimizations", True)  # programs run for a blink here, and take a second to compile
if int(processes) > 1:
    train("together", together(), "per_head")
else:
    train("alone", {})
    train("mesh 1x8", {"mesh": package.training.make_mesh()})
    train("mesh 2x4", {"mesh": package.training.make_mesh(2)}, "batch")
found["devices"] = jax.device_count()
np.savez(out, **found)
"""

REPLICAS = """
import jax

from flax_impl.training.devices import Placement
from flax_impl.training.loop import init_state, loop_steps

jax.config.update("jax_num_cpu_devices", int(devices))


def train_replicas():
    count, model = 5, package.TwoHead(**net)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.init_params(range(count)))
    optimizers = [package.Adam(lr=10.0 ** -(1 + i / 2)) for i in range(count)]
    w = np.random.default_rng(0).uniform(0.5, 2, (count, 203))
    settings = {"steps": 6, "batch_size": 45, "progress": False}
    datas = {"own": [uneven | {"w": w[i]} for i in range(count)], "shared": [uneven | {"w": w[0]}] * count}

    def keep(way, i, params, losses):
        found.update({f"{way}/{i}/{name}": array for name, array in package.models.to_numpy(params).items()})
        found[f"{way}/{i}/losses"] = losses

    for i, settings_of in enumerate(optimizers):
        for name, data in datas.items():
            start = jax.tree.map(lambda leaf: leaf[i], params)
            keep(f"single {name}", i, *package.fit(model, start, data[i], optimizer=settings_of, seed=i, **settings))
    for mesh, name in ((1, "shared"), (4, "own"), (8, "shared")):
        fitted, losses = package.fit_replicas(
            model, params, datas[name] if name == "own" else datas[name][0], optimizer=optimizers, seed=range(count),
            mesh=package.training.make_mesh(mesh), **settings,
        )
        for i in range(count):
            keep(f"replicas {mesh}", i, jax.tree.map(lambda leaf: np.asarray(leaf)[i], fitted), losses[i])


def program():
    # The loop as it is compiled for a batch of 48 rows over the 8 devices.
    place, model, optimizer = Placement(package.training.make_mesh()), package.TwoHead(**net), package.SGD()
    params = place.whole(model.init_params())
    table = {name: place.table(array) for name, array in data.items()}
    index = np.zeros((4, 48), np.int32)
    lowered = loop_steps.lower(
        model, (params, init_state(optimizer, params), None), optimizer, table, place.batches(index),
        place.batches(index == 0), (0, 4), package.FactualLoss(), "float32",
    )
    return lowered.compile().as_text()


found["program"] = program()
jax.config.update("jax_disable_most_optimizations", True)
train_replicas()
np.savez(out, **found)
"""


def started(
    backend: str, programs: Sequence[str], devices: int, folder: Path, *, together: bool
) -> list[dict[str, np.ndarray]]:
    """Returns what each program found: each by itself, or all as the processes of one training."""
    coordinator, processes = f"127.0.0.1:{free_port()}", len(programs) if together else 1
    commands = [
        ["-c", PROGRAM + program, backend, f"{i}.npz", coordinator, str(processes), str(i), str(devices)]
        for i, program in enumerate(programs)
    ]
    run(commands, folder)
    return [dict(np.load(folder / f"{i}.npz")) for i in range(len(programs))]


@pytest.fixture(scope="module")
def on_8_devices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    cases, replicas = started("flax", [FLAX, REPLICAS], 8, tmp_path_factory.mktemp("devices"), together=False)
    return cases | replicas


@pytest.fixture(scope="module")
def in_2_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    return started("flax", [FLAX, FLAX], 2, tmp_path_factory.mktemp("flax"), together=True)


@pytest.fixture(scope="module")
def in_2_torch_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    return started("torch", [TORCH, TORCH], 1, tmp_path_factory.mktemp("torch"), together=True)


def part(found: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    """Returns the arrays under these names."""
    start = "/".join(names) + "/"
    arrays = {name.removeprefix(start): array for name, array in found.items() if name.startswith(start)}
    assert arrays
    return arrays


def apart(found: dict[str, np.ndarray], way: str, reference: dict[str, np.ndarray], run: str) -> float:
    """Returns how far all cases of a run are from those on one device."""
    cases = {name.split("/")[0] for name in part(found, way)}
    return max(largest_difference(part(found, way, case, run), part(reference, "alone", case, run)) for case in cases)


@pytest.mark.parametrize("way", ["mesh 1x8", "mesh 2x4"])
def test_8_devices_train_as_one(on_8_devices: dict[str, np.ndarray], way: str, measured: list[str]) -> None:
    """Gradients, 20 steps of Adam, their losses: with short batches, and where most devices have no treated row."""
    assert on_8_devices["devices"] == 8
    gradients, steps = (apart(on_8_devices, way, on_8_devices, run) for run in ("gradient", "adam"))
    measured.append(f"flax, {way} devices against one, float64: gradients {gradients:.1e}, 20 Adam steps {steps:.1e} "
                    f"apart (at most {TOLERANCE})")  # fmt: skip
    assert gradients <= TOLERANCE
    assert steps <= TOLERANCE


@pytest.mark.parametrize(("mesh", "data"), [(1, "shared"), (4, "own"), (8, "shared")])
def test_replicas_over_devices_are_single_fits(
    on_8_devices: dict[str, np.ndarray], mesh: int, data: str, measured: list[str]
) -> None:
    """Five of them, which 4 and 8 devices do not divide evenly among them."""
    found, expected = part(on_8_devices, f"replicas {mesh}"), part(on_8_devices, f"single {data}")
    assert found["4/losses"].shape == (6, 2)
    assert largest_difference({"": found["4/losses"]}, {"": expected["3/losses"]}) > 1e-3  # they do differ
    difference = largest_difference(found, expected)
    measured.append(f"5 replicas over {mesh} of 8 devices, {data} data, against single fits, float64: "
                    f"{difference:.1e} apart (at most {TOLERANCE})")  # fmt: skip
    assert difference <= TOLERANCE


def test_each_device_computes_its_part_of_a_batch_only(on_8_devices: dict[str, np.ndarray]) -> None:
    """48 rows over 8 devices: products of 6 rows, whose sums go round; none has all the rows."""
    lines = str(on_8_devices["program"]).splitlines()
    sizes = [re.search(r"= \w+\[([\d,]+)\]", line) for line in lines if " dot(" in line]
    rows = [int(size[1].split(",")[0]) for size in sizes if size]
    assert rows.count(6) >= 5  # forward from x and into both heads; backward into the representation from each
    assert 48 not in rows
    assert any("all-reduce" in line for line in lines)


def test_2_processes_train_as_one_device(
    in_2_processes: list[dict[str, np.ndarray]], on_8_devices: dict[str, np.ndarray], measured: list[str]
) -> None:
    first, second = in_2_processes
    assert first["devices"] == second["devices"] == 4
    gradients, steps = (apart(first, "together", on_8_devices, run) for run in ("gradient", "adam"))
    measured.append(f"flax, 2 processes of 2 devices against one, float64: gradients {gradients:.1e}, 20 Adam steps "
                    f"{steps:.1e} apart (at most {TOLERANCE})")  # fmt: skip
    assert gradients <= TOLERANCE
    assert steps <= TOLERANCE


def test_2_torch_processes_train_as_one(in_2_torch_processes: list[dict[str, np.ndarray]], measured: list[str]) -> None:
    first = in_2_torch_processes[0]
    gradients, steps = (apart(first, "together", first, run) for run in ("gradient", "adam"))
    measured.append(f"torch, 2 processes against one, float64: gradients {gradients:.1e}, 20 Adam steps {steps:.1e} "
                    f"apart (at most {TOLERANCE})")  # fmt: skip
    assert gradients <= TOLERANCE
    assert steps <= TOLERANCE


@pytest.mark.parametrize("backend", ["in_2_processes", "in_2_torch_processes"])
def test_all_processes_get_the_same_bits(backend: str, request: pytest.FixtureRequest) -> None:
    first, second = (part(found, "together") for found in request.getfixturevalue(backend))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_counts_of_a_process_alone_would_be_noticed(
    in_2_torch_processes: list[dict[str, np.ndarray]], measured: list[str]
) -> None:
    """What DDP does with a loss that divides by its own rows: the tests above would not let it pass."""
    found = in_2_torch_processes[0]
    differences = {
        case: largest_difference(part(found, "local counts", case, "gradient"), part(found, "alone", case, "gradient"))
        for case in ("per_head", "batch", "joint")
    }
    measured.append("torch, 2 processes that divide by their own rows: gradients "
                    + ", ".join(f"{difference:.1e} ({case})" for case, difference in differences.items()))  # fmt: skip
    assert min(differences.values()) > 1e-3


def arguments(folder: str, *more: str) -> list[str]:
    return [
        str(SCRIPTS / "train.py"), "--representation-features", "16", "--head-features", "8", "--batch-size", "45",
        "--members", "1", "--no-intervals", "--out", folder, *more,
    ]  # fmt: skip


def of_processes(number: int, port: int) -> list[str]:
    return [
        "--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process-id", str(number)
    ]  # fmt: skip


def losses(folder: Path) -> np.ndarray:
    with (folder / "losses.csv").open() as file:
        return np.array([[float(number) for number in row.values()] for row in csv.DictReader(file)])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_the_command_in_2_processes(tmp_path: Path, backend: str, measured: list[str]) -> None:
    port = free_port()
    chosen = ["--steps", "30", "--dtype", "float64", "--backend", backend]
    first, second, _ = run(
        [
            *(arguments(f"out{i}", *chosen, *of_processes(i, port)) for i in range(2)),
            arguments("alone", *chosen),
        ],
        tmp_path,
    )
    assert "written: out0/effects.csv" in first.out
    assert [line for line in second.out.splitlines() if not line.startswith("[Gloo] ")] == []
    assert not (tmp_path / "out1").exists() or not list((tmp_path / "out1").iterdir())
    found, expected = losses(tmp_path / "out0"), losses(tmp_path / "alone")
    assert found.shape == (30, 6)
    assert np.isfinite(found[:, 5]).sum() == 1  # a look at the held-out rows
    difference = largest_difference({"losses": np.nan_to_num(found)}, {"losses": np.nan_to_num(expected)})
    measured.append(f"scripts/train.py, {backend}, 2 processes against one, float64: losses {difference:.1e} apart "
                    f"(at most {TOLERANCE})")  # fmt: skip
    assert difference <= TOLERANCE


@pytest.mark.parametrize("package", [flax_impl, torch_ref])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("127.0.0.1:1", None, None), "processes, process_id: expected all of coordinator, processes, process_id, or "
            "none, got None"),
        ((None, 2, None), "coordinator, process_id: expected all of coordinator, processes, process_id, or none, got "
            "None"),
        (("127.0.0.1:1", 2, 2), "process_id: expected a number below 2, the number of processes, got 2"),
        (("127.0.0.1:1", 2, -1), "process_id: expected a whole number of at least 0, got -1"),
        (("127.0.0.1:1", 0, 0), "processes: expected a whole number of at least 1, got 0"),
        (("127.0.0.1", 2, 0), "coordinator: expected host:port, got '127.0.0.1'"),
        ((":1", 2, 0), "coordinator: expected host:port, got ':1'"),
        ((5700, 2, 0), "coordinator: expected host:port, got 5700"),
    ],
)  # fmt: skip
def test_processes_that_make_no_sense(package: Any, given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        package.training.initialize_distributed(*given)


@pytest.mark.parametrize("backend", ["flax", "torch"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--coordinator", "127.0.0.1:1"], "--coordinator: expected with --distributed, got it alone"),
        (["--process-id", "0"], "--process-id: expected with --distributed, got it alone"),
        (["--distributed", "--processes", "2"], "coordinator, process_id: expected all of coordinator, processes, "
            "process_id, or none, got None"),
        (["--distributed", "--coordinator", "127.0.0.1:1", "--processes", "2", "--process-id", "2"], "process_id: "
            "expected a number below 2, the number of processes, got 2"),
        (["--distributed", "--coordinator", "localhost", "--processes", "2", "--process-id", "0"], "coordinator: "
            "expected host:port, got 'localhost'"),
    ],
)  # fmt: skip
def test_bad_arguments_of_the_command(
    backend: str, given: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)  # how a process among others ends
    with pytest.raises(SystemExit) as ended:
        sys.exit(train.main(["--backend", backend, *given]))
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def wait_for_progress(running: Running, seconds: float = 120) -> None:
    """Returns once process 0 says that it trains, which it cannot do alone."""
    until = time.monotonic() + seconds
    while not re.search(r"^step \d+ of \d+", running.err(0), re.MULTILINE):
        for number, process in enumerate(running.processes):
            assert process.poll() is None, running.err(number)
        assert time.monotonic() < until, running.err(0)
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_a_process_whose_peer_is_killed_ends(tmp_path: Path, backend: str, victim: int, measured: list[str]) -> None:
    """By itself, within a minute, and says why."""
    port = free_port()
    chosen = ["--steps", "2000000000", "--backend", backend]
    with Running([arguments(f"out{i}", *chosen, *of_processes(i, port)) for i in range(2)], tmp_path) as running:
        wait_for_progress(running)
        running.processes[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        survivor = running.wait(1 - victim, 60)
        seconds = time.monotonic() - killed
    assert survivor.code != 0
    said = f"error: {'mesh' if backend == 'flax' else 'process_group'}: {LOST}: "
    # Where the coordinator itself is gone, JAX may end the process before the training hears of it.
    of_jax = "Terminating process because the JAX distributed service detected fatal errors"
    assert said in survivor.err or (backend == "flax" and victim == 0 and of_jax in survivor.err), survivor.err
    how = "our message" if said in survivor.err else "JAX's abort"
    measured.append(f"{backend}, process {victim} killed: the other ended after {seconds:.1f} s (at most 60) with exit "
                    f"code {survivor.code} and {how}")  # fmt: skip
    assert not list(tmp_path.rglob("losses.csv"))
