"""Checkpoints: a training that is interrupted goes on to the same bits; others and damaged ones are refused."""

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torch_ref
from flax_impl.commands.sides import SIDES
from flax_impl.training import make_mesh
from tests.support.interrupted import interrupting, steps_in
from tests.support.killed import run_killed
from tests.support.killed_fit import digest
from torch_ref.common.files.checkpoint_folder import read_checkpoint
from torch_ref.common.files.checkpoints import Checkpoints
from torch_ref.common.settings.optimizers import SGD, Adam, AdamW, RMSprop
from torch_ref.common.settings.schedules import Cosine, Exponential, StepDecay
from torch_ref.training.processes import Share

ROWS, STEPS = 40, 24
CONFIG = {"in_features": 4, "representation_features": [5], "head_features": [4], "final_activation": "identity"}
HELD_OUT = {"validation_rows": range(0, ROWS, 4), "batch_size": 8}
# Alone each of them changes what a state holds, or when the training ends.
KINDS: dict[str, dict[str, Any]] = {
    "adam": {},
    "momentum, cosine": {"optimizer": SGD(lr=0.01, momentum=0.9, schedule=Cosine(T_max=7)), "batch_size": 8},
    "plain SGD, exponential": {"optimizer": SGD(lr=0.01, schedule=Exponential(gamma=0.97))},
    "centred RMSprop, steps": {
        "optimizer": RMSprop(lr=1e-3, centered=True, momentum=0.5, schedule=StepDecay(step_size=5))
    },
    "average, held out": {"optimizer": AdamW(lr=0.01, average=0.9, clip_norm=1.0), **HELD_OUT},
    "patience": {"optimizer": Adam(lr=0.3), "patience": 1, **HELD_OUT},
    "rows": {"rows": [5, 1, 1, 9, 30, 2], "batch_size": 4},
}


def weighted(dtype: str = "float32") -> dict[str, np.ndarray]:
    data = torch_ref.data.synthetic(rows=ROWS, features=4).arrays()
    return data | {"w": np.random.default_rng(0).uniform(0.5, 2, ROWS).astype(dtype)}


def train(backend: str, dtype: str = "float32", data: Any = None, **settings: Any) -> str:
    """Returns the sha256 of the trained weights and the losses."""
    side = SIDES[backend]("TwoHead", CONFIG, seed=settings.pop("first", 1), dtype=dtype)
    chosen = {"steps": STEPS, "batch_size": 16, "seed": 2, "progress": False} | settings
    losses = side.fit(weighted() if data is None else data, **chosen)
    return digest(side.weights(), losses)


def interrupted(backend: str, folder: Path, after: int = 3, **settings: Any) -> None:
    with interrupting(after):
        train(backend, checkpoint=folder, every=4, **settings)


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(kind, dtype, marks=[pytest.mark.slow] if dtype == "float64" and i else [])
        for i, kind in enumerate(KINDS)
        for dtype in ("float64", "float32")
    ],
)
@pytest.mark.usefixtures("x64")
def test_it_goes_on_to_the_same_bits(kind: str, dtype: str, backend: str, tmp_path: Path) -> None:
    whole = train(backend, dtype, **KINDS[kind])
    assert train(backend, dtype, checkpoint=tmp_path / "whole", every=4, **KINDS[kind]) == whole
    assert (steps_in(tmp_path / "whole")[-1] < STEPS) == (kind == "patience")
    interrupted(backend, tmp_path / "half", after=1, dtype=dtype, **KINDS[kind])
    last = steps_in(tmp_path / "half")[-1]
    assert train(backend, dtype, checkpoint=tmp_path / "half", every=5, **KINDS[kind]) == whole
    assert steps_in(tmp_path / "half")[-1] > last
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*")}
    assert train(backend, dtype, checkpoint=tmp_path / "half", **KINDS[kind]) == whole  # finished: at once
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*")} == before


def test_a_finished_training_takes_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flax_impl.training.plan as plan
    import torch_ref.training.fit as fit

    first = {backend: train(backend, checkpoint=tmp_path / backend) for backend in SIDES}
    monkeypatch.setattr(plan, "loop_steps", None)
    monkeypatch.setattr(fit, "_step", None)
    assert {backend: train(backend, checkpoint=tmp_path / backend) for backend in SIDES} == first


def test_a_mesh_of_one_goes_on(tmp_path: Path) -> None:
    whole = train("flax", mesh=make_mesh(), **HELD_OUT)
    interrupted("flax", tmp_path, mesh=make_mesh(), **HELD_OUT)
    assert train("flax", checkpoint=tmp_path, mesh=make_mesh(), **HELD_OUT) == whole


def test_a_clock_makes_them_where_nobody_says_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_ref.common.files.checkpoints._SECONDS", 0.0)
    monkeypatch.setattr("torch_ref.common.files.checkpoints._SHARE", np.inf)
    for backend in SIDES:
        train(backend, checkpoint=tmp_path / backend)
        assert len(steps_in(tmp_path / backend)) >= 2  # a slow disk makes fewer
        assert steps_in(tmp_path / backend)[-1] == STEPS


def test_losses_of_a_checkpoint_are_not_averaged_over_processes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven processes would find another last digit."""
    whole = train("torch")
    interrupted("torch", tmp_path)
    averaged = []

    def mean(self: Share, losses: torch.Tensor) -> torch.Tensor:
        averaged.append(len(losses))
        return losses

    monkeypatch.setattr(Share, "mean", mean)
    assert train("torch", checkpoint=tmp_path, every=8) == whole
    assert averaged == [4, 12, 12]  # of steps 13 to 16, and 13 to 24


@pytest.mark.parametrize("backend", SIDES)
def test_the_last_three_are_kept(backend: str, tmp_path: Path) -> None:
    train(backend, checkpoint=tmp_path, every=4)
    assert steps_in(tmp_path) == [16, 20, 24]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("step-")) == ["lock"]
    for path in tmp_path.glob("step-*"):
        assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "state.safetensors"]


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 3},
    "steps": {"steps": STEPS + 1},
    "batch_size": {"batch_size": 8},
    "optimizer": {"optimizer": Adam(lr=0.5)},
    "precision": {"precision": "bfloat16"},
    "shuffle": {"shuffle": False},
    "rows": {"rows": [1, 2, 3]},
    "data": {"data": weighted() | {"y": np.zeros((ROWS, 1), np.float32)}},
    "first weights": {"first": 7},
}


@pytest.mark.parametrize("backend", SIDES)
def test_another_training_is_told_apart(backend: str, tmp_path: Path) -> None:
    train(backend, checkpoint=tmp_path)
    for name, other in OTHERS.items():
        with pytest.raises(ValueError, match=f"got another: {name}: expected .*, got ") as error:
            train(backend, checkpoint=tmp_path, **other)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"seed: expected 2, got 3"):
        train(backend, checkpoint=tmp_path, seed=3)
    package = SIDES[backend]("TwoHead", CONFIG).package
    with pytest.raises(ValueError, match=r"loss: expected .*per_head.*, got .*batch"):
        train(backend, checkpoint=tmp_path, loss=package.FactualLoss(reduction="batch"))
    side = SIDES[backend]("TwoHead", CONFIG | {"activation": "relu"}, seed=1)
    with pytest.raises(ValueError, match=r"got another: model: .*elu.*relu"):
        side.fit(weighted(), steps=STEPS, batch_size=16, seed=2, checkpoint=tmp_path, progress=False)
    (other,) = set(SIDES) - {backend}
    with pytest.raises(ValueError, match=f"framework: expected '?{backend}"):
        train(other, checkpoint=tmp_path)


@pytest.mark.usefixtures("x64")
def test_another_dtype_is_told(tmp_path: Path) -> None:
    for backend in SIDES:
        train(backend, checkpoint=tmp_path / backend)
        with pytest.raises(ValueError, match="dtype: expected 'float32', got 'float64'"):
            train(backend, "float64", checkpoint=tmp_path / backend)


def test_other_versions_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in SIDES:
        first = train(backend, checkpoint=tmp_path / backend)
        with monkeypatch.context() as patch:
            patch.setattr("importlib.metadata.version", lambda package: "0.0.1")
            with pytest.warns(UserWarning, match=r"other versions.*: expected .*, got 0\.0\.1"):
                assert train(backend, checkpoint=tmp_path / backend) == first


def flip(file: Path, generator: random.Random) -> None:
    held = bytearray(file.read_bytes())
    held[generator.randrange(len(held))] ^= 1 << generator.randrange(8)
    file.write_bytes(held)


@pytest.mark.parametrize("backend", SIDES)
def test_a_damaged_latest_is_named_and_the_one_before_taken(backend: str, tmp_path: Path) -> None:
    whole = train(backend)
    interrupted(backend, tmp_path / "good")
    assert steps_in(tmp_path / "good") == [4, 8, 12]
    generator = random.Random(0)
    damages: list[Callable[[Path], Any]] = [
        lambda file: flip(file, generator),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, 0),
        lambda file: file.unlink(),
        lambda file: shutil.copy(file.parents[1] / "step-0000000008" / file.name, file),
    ]
    for i, damage in enumerate(damages):
        for name in ("state.safetensors", "manifest.json"):
            folder = tmp_path / f"{i} {name}"
            shutil.copytree(tmp_path / "good", folder)
            damage(folder / "step-0000000012" / name)
            # The state of another checkpoint is found by its manifest, and another manifest by its folder's name.
            with pytest.warns(UserWarning, match=rf"step-0000000012/{re.escape(name)}: .*step 8 is taken") as caught:
                assert train(backend, checkpoint=folder, every=4) == whole
            assert len(caught) == 1
            assert steps_in(folder) == [16, 20, 24]


def test_two_that_change_places_are_both_refused(tmp_path: Path) -> None:
    whole = train("torch")
    interrupted("torch", tmp_path)
    early, late = tmp_path / "step-0000000008", tmp_path / "step-0000000012"
    early.rename(tmp_path / "other")
    late.rename(early)
    (tmp_path / "other").rename(late)
    with pytest.warns(UserWarning, match="step 4 is taken") as caught:
        assert train("torch", checkpoint=tmp_path) == whole
    assert len(caught) == 2


def test_where_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    interrupted("torch", tmp_path)
    for file in tmp_path.glob("step-*/state.safetensors"):
        file.write_bytes(b"no arrays")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"expected one that is whole in .*, got 3 damaged: .*delete the folder"):
            train("torch", checkpoint=tmp_path)


@pytest.mark.parametrize("flips", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed(flips: int, tmp_path: Path) -> None:
    interrupted("torch", tmp_path, after=1)
    (path,) = tmp_path.glob("step-*")
    generator = random.Random(1)
    for file in path.iterdir():
        good = file.read_bytes()
        for _ in range(flips):
            flip(file, generator)
            with pytest.raises(ValueError, match=file.name):
                read_checkpoint(path)
            file.write_bytes(good)
    assert read_checkpoint(path).step == 4


def test_one_training_at_a_time(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, {}, {}, None):
        for backend in SIDES:
            with pytest.raises(ValueError, match=f"no other training uses, got .*where process {os.getpid()} trains"):
                train(backend, checkpoint=tmp_path)
    train("torch", checkpoint=tmp_path)


@pytest.mark.parametrize("stage", ["nets", "table-0/nets", "net-0"])
def test_stages_of_an_ensemble_are_another_kind_of_training(stage: str, tmp_path: Path) -> None:
    (tmp_path / stage / "step-0000000001").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"^checkpoint: expected a folder of this training alone, .* holds {stage}/"):
        train("torch", checkpoint=tmp_path)


def test_what_dead_processes_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1\n")
    (tmp_path / ".beside-0123").mkdir()
    (tmp_path / ".beside-0123" / "state.safetensors").write_bytes(b"half")
    train("torch", checkpoint=tmp_path)
    assert not list(tmp_path.glob(".beside-*"))


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    for backend in SIDES:
        with pytest.raises(ValueError, match="every: expected checkpoint with it, got 5 alone"):
            train(backend, every=5)
        with pytest.raises(ValueError, match="every: expected a whole number of at least 1, got 0"):
            train(backend, checkpoint=tmp_path, every=0)
        with pytest.raises(ValueError, match="checkpoint: expected the path of a folder, got 5"):
            train(backend, checkpoint=5)
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match=r"checkpoint: expected a folder to write to, got .*file/folder: ") as error:
            train(backend, checkpoint=tmp_path / "file" / "folder")
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("backend", SIDES)
def test_a_full_disk_is_one_line_and_leaves_the_last_one_whole(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(backend)
    interrupted(backend, tmp_path)
    with monkeypatch.context() as patch:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", full)
        with pytest.raises(
            OSError, match=r"write the checkpoint of step 16, got No space left on device; that of step 12 is whole"
        ):
            train(backend, checkpoint=tmp_path, every=4)
    assert steps_in(tmp_path) == [4, 8, 12]
    assert not list(tmp_path.glob(".beside-*"))
    assert train(backend, checkpoint=tmp_path, every=4) == whole


@pytest.mark.parametrize("backend", SIDES)
def test_a_folder_that_is_read_only_is_one_line(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the disk had become so, since root may write to any folder."""
    whole = train(backend)
    interrupted(backend, tmp_path)
    message = f"checkpoint: expected a folder to write to, got {tmp_path}: Read-only file system"

    def read_only(*arguments: Any, **named: Any) -> None:
        raise OSError(30, "Read-only file system")

    for where in ("torch_ref.common.files.lock.open", "pathlib.Path.mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(where, read_only, raising=False)
            with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
                train(backend, checkpoint=tmp_path, every=4)
    assert steps_in(tmp_path) == [4, 8, 12]
    assert train(backend, checkpoint=tmp_path, every=4) == whole


def test_a_killed_writer_ends_alike(tmp_path: Path) -> None:
    module = "tests.support.killed_writer"
    expected = run_killed([module, str(tmp_path / "whole"), "60"], 0)
    assert run_killed([module, str(tmp_path / "killed"), "60"], 5, 0.05) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "steps", "kills", "longest"),
    [
        ("torch", 4000, 20, 0.6),
        ("flax", 60000, 20, 2.0),
        ("replicas", 6000, 6, 6.0),
        ("effects", 3000, 6, 6.0),
        ("two-torch", 1000, 3, 3.0),
        ("two-flax", 1000, 3, 6.0),
    ],
)
def test_kills_lose_nothing(kind: str, steps: int, kills: int, longest: float, tmp_path: Path) -> None:
    module = "tests.support.killed_fit"
    expected = run_killed([module, kind, str(tmp_path / "whole"), str(steps)], 0)
    assert run_killed([module, kind, str(tmp_path / "killed"), str(steps)], kills, longest) == expected
