"""The speed table: what is counted by hand, what is compared, and that the command writes what it promises."""

import json
from pathlib import Path
from typing import Any

import jax
import pytest

import benchmark
import flax_impl
from bench import growth, operations, peers
from bench.contestants import Task, flax_contestants, products, torch_contestants
from tests.support.commands import run

SMALL = Task(rows=120, features=5, width=8, batch_size=20, steps=6, replicas=3)
NAMES = (
    "torch_split", "torch_where", "torch_fused", "flax_step_loop", "flax_fit", "flax_replicas", "floor", "cold_start",
    "compile", "refit_overhead",
)  # fmt: skip


def test_sizes_counted_by_hand() -> None:
    assert Task().parameters == sum(leaf.size for leaf in jax.tree.leaves(flax_impl.TwoHead(25).init_params()))
    # Representation 25x200 + 2 * 200x200, each head 200x100 + 100x100 + 100: times 3 but for the data's own gradient.
    assert Task().flops == 2 * 100 * (3 * (85_000 + 60_200) - 5_000)


def test_the_floor_is_the_products_of_a_step() -> None:
    """As many as the compiled training has."""
    of_floor, x, weights = products(SMALL)
    model, optimizer = flax_impl.TwoHead(**SMALL.config), flax_impl.Adam()
    params = model.init_params()
    batch = {name: array[:20] for name, array in SMALL.data.items()}

    def step(params: Any, state: Any, batch: Any) -> Any:
        return flax_impl.train_step(model, params, optimizer, state, batch)

    counts = [
        jax.jit(call).lower(*arguments).as_text().count("stablehlo.dot_general")
        for call, arguments in (
            (of_floor, (x, weights)),
            (step, (params, flax_impl.training.build_optimizer(optimizer).init(params), batch)),
        )
    ]
    assert counts == [26, 26]  # 9 layers forward, 9 by the weights, 8 by their inputs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch.compile's own imports
def test_all_take_their_steps() -> None:
    made = {**flax_contestants(SMALL), **torch_contestants(SMALL)}
    made.pop("torch_compile", None)  # takes half a minute to compile; the slow test has it
    assert {name for name in NAMES if name.startswith(("torch", "flax", "floor"))} <= set(made)
    for name, contestant in made.items():
        assert 0 < contestant() < 60, name


def test_a_point_of_growth() -> None:
    point = growth.measure("rows", 2_000)
    assert point["rows"] == 2_000
    assert point["steps"] == 20
    assert point["data"] == 2_000 * 4 * 27
    assert 0 < point["added"] < point["memory"]


def test_where_the_time_of_a_step_goes() -> None:
    found = operations.seconds_by_group(SMALL)
    assert set(found) >= {"matrix products", "Adam", "ELU", "fetching the batch"}
    assert all(0 < seconds < 1 for seconds in found.values())


def test_slopes() -> None:
    points = [{"rows": n, "seconds": 3e-6 * n**0.5} for n in (10, 100, 1000)]
    assert growth.slope(points, "rows", "seconds") == pytest.approx(0.5)
    assert growth.slope(points, "rows", "seconds", above=1000) is None


def test_the_table_says_what_is_missing() -> None:
    measured = {name: benchmark.measurement([2.0, 1.0, 4.0], "ms per step") for name in (*NAMES, "progress")}
    measured |= {name: benchmark.measurement([100.0], "GB/s") for name in ("matrix_rate", "memory_rate")}
    text = benchmark.table({"measurements": measured, "settings": {"task": Task().__dict__}})
    lines = text.splitlines()
    assert "ours, fit                                   2.000   1.000   4.000    1.00" in lines
    assert "CATENets, JAX TARNet                       not installed" in lines


def test_peers_are_looked_up_without_being_imported() -> None:
    assert set(peers.installed()) <= set(peers.PEERS) == {"catenets_jax", "causalml_jax"}


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--steps", "-1")])
def test_bad_arguments(arguments: tuple[str, str], tmp_path: Path) -> None:
    done = run("benchmark.py", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert f"{arguments[0]}: expected a whole number from 1 to 100000, got {arguments[1]}" in done.stderr


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    done = run("benchmark.py", "--rounds", "1", "--steps", "20", "--json", "b.json", "--plots", "p", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "b.json").read_text())
    for name in (*NAMES, "peak_memory"):
        assert set(result["measurements"][name]) >= {"median", "min", "max", "unit"}
    assert set(result["growth"]) == {"rows", "width", "batch_size", "replicas"}
    assert result["machine"]["versions"]["jax"] == jax.__version__
    assert (tmp_path / "p" / "speed.png").stat().st_size > 10_000
    assert (tmp_path / "p" / "growth.png").stat().st_size > 10_000
