"""Many trainings that are interrupted go on to the same bits, however they are run."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flax_impl
import flax_impl.training.replicas.fit as replicas
from flax_impl.training.plan import Plan
from flax_impl.training.replicas.per_core import run_per_core
from flax_impl.training.replicas.vectorised import run_vectorised
from tests.support.interrupted import interrupting, steps_in
from torch_ref.common.files.checkpoints import Checkpoints

MODEL = flax_impl.TwoHead(4, [5], [4], final_activation="identity")
COUNT, STEPS = 5, 24
DATA = flax_impl.data.synthetic(rows=40, features=4).arrays()
HELD_OUT = np.arange(0, 40, 4)
LEFT = np.setdiff1d(np.arange(40), HELD_OUT)
# Each of them changes what a state holds, or when a replica ends.
KINDS: dict[str, dict[str, Any]] = {
    "each its own": {
        "data": [DATA | {"w": np.random.default_rng(i).uniform(0.5, 2, 40)} for i in range(COUNT)],
        "optimizer": [flax_impl.AdamW(lr=0.1 * (i + 1), average=0.9) for i in range(COUNT)],
        "loss": [flax_impl.FactualLoss(head_weights=(1, i + 1)) for i in range(COUNT)],
        "rows": [np.random.default_rng(i).choice(LEFT, 30) for i in range(COUNT)],
        "validation_rows": HELD_OUT,
        "batch_size": 8,
        "patience": 1,
    },
    "diverged": {"optimizer": [flax_impl.SGD(lr=lr) for lr in (0.01, 1e9, 0.01, 1e9, 0.1)], "keep_diverged": True},
}


@pytest.fixture(params=[run_per_core, run_vectorised])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Either way to run them, whatever the device."""
    for name in ("run_per_core", "run_vectorised"):
        monkeypatch.setattr(replicas, name, request.param)
    return request.param


def train(**settings: Any) -> list[np.ndarray]:
    """Returns the trained parameters and the losses."""
    chosen: dict[str, Any] = {"data": DATA, "steps": STEPS, "batch_size": 16, "seed": range(COUNT), "progress": False}
    chosen |= {"optimizer": flax_impl.SGD(lr=0.1)} | settings
    params, losses = flax_impl.fit_replicas(MODEL, MODEL.init_params(range(COUNT)), **chosen)
    return [*map(np.asarray, jax.tree.leaves(params)), losses]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("way")
def test_they_go_on_to_the_same_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(**KINDS[kind])
    assert_same(train(checkpoint=tmp_path / "whole", every=4, **KINDS[kind]), whole)
    for after in (1, 1):
        with interrupting(after):
            train(checkpoint=tmp_path / "half", every=4, **KINDS[kind])
    last = steps_in(tmp_path / "half")[-1]
    assert_same(train(checkpoint=tmp_path / "half", every=5, **KINDS[kind]), whole)
    assert steps_in(tmp_path / "half")[-1] >= last  # the same where the last replica ended as it was interrupted
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*")}
    for module in ("plan", "replicas.vectorised"):
        monkeypatch.setattr(f"flax_impl.training.{module}.run_slices", None)  # finished ones take no step
    assert_same(train(checkpoint=tmp_path / "half", **KINDS[kind]), whole)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*")} == before


def test_replicas_that_ended_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_impl.training.replicas.per_core.count_cores", lambda: 1)
    whole = train()
    with interrupting(after=13):  # five of each replica that ended, two of them, and three of the next
        train(checkpoint=tmp_path, every=4)
    seen = []
    run = Plan.run

    def watching(self: Any, *arguments: Any) -> Any:
        seen.append(self.settings["seed"])
        return run(self, *arguments)

    monkeypatch.setattr(Plan, "run", watching)
    assert_same(train(checkpoint=tmp_path, every=4), whole)
    assert seen == [2, 3, 4]


@pytest.mark.usefixtures("way")
def test_others_are_told_apart(tmp_path: Path) -> None:
    train(checkpoint=tmp_path)
    other = [DATA] * (COUNT - 1) + [DATA | {"y": np.zeros_like(DATA["y"])}]
    others = {"seed": range(1, COUNT + 1), "data": other, "rows": [[0, 1]] * COUNT, "steps": 25}
    others |= {"optimizer": [flax_impl.Adam(lr=0.1 + i) for i in range(COUNT)]}
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"got another: {name}: expected .*, got "):
            train(checkpoint=tmp_path, **{name: value})
    train(checkpoint=tmp_path, data=[{**DATA} for _ in range(COUNT)], seed=list(range(COUNT)))  # the same


def test_either_way_to_run_keeps_its_own(tmp_path: Path) -> None:
    train(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="got another: runner: expected run_per_core, got run_vectorised"):
        train(checkpoint=tmp_path, mesh=flax_impl.training.make_mesh())


@pytest.mark.usefixtures("way")
def test_a_damaged_latest_is_named_and_the_one_before_taken(tmp_path: Path) -> None:
    whole = train()
    with interrupting(after=3):
        train(checkpoint=tmp_path, every=4)
    last = steps_in(tmp_path)[-1]
    shutil.copy(__file__, tmp_path / f"step-{last:010d}" / "state.safetensors")
    with pytest.warns(UserWarning, match=rf"step-{last:010d}/state.safetensors: .* is taken"):
        assert_same(train(checkpoint=tmp_path, every=4), whole)


@pytest.mark.usefixtures("way")
def test_a_full_disk_is_one_line_and_leaves_the_last_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train()
    with interrupting(after=3):
        train(checkpoint=tmp_path, every=4)
    before = steps_in(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        message = rf"write the checkpoint of step \d+, got No space left on device; that of step {before[-1]} is whole"
        with pytest.raises(OSError, match=message):
            train(checkpoint=tmp_path, every=4)
    assert steps_in(tmp_path) == before
    assert not list(tmp_path.glob(".beside-*"))
    assert_same(train(checkpoint=tmp_path, every=4), whole)


def test_checkpoints_come_so_seldom_that_they_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("torch_ref.common.files.checkpoints.time.monotonic", lambda: now[0])

    def pack(seconds: float) -> dict[str, np.ndarray]:
        now[0] += seconds
        return {"state": np.zeros(3)}

    with Checkpoints(tmp_path, {}, {}, None) as checkpoints:
        for cost, computed, wait in (
            (0.1, 0.0, 10.0),
            (1.0, 0.0, 50.0),
            (3.0, 1.0, 200.0),
            (0.0, 0.5, 25.0),
            (0.0, 0.0, 10.0),
        ):
            checkpoints.save(1, lambda cost=cost: pack(cost))
            checkpoints._writing.result()
            checkpoints._computed = computed  # of the background, which a clock of its own measures
            began = now[0]
            now[0] = began + wait * 0.99
            assert not checkpoints.due(2)
            now[0] = began + wait * 1.01
            assert checkpoints.due(2)
