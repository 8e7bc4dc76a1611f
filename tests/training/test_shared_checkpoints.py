"""Checkpoints go on over another number of devices, and are those of process 0 where several share a training."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.killed import ROOT
from torch_ref.common.files.checkpoints import Checkpoints
from torch_ref.common.files.shared_checkpoints import SharedCheckpoints, done_by_first

TOLERANCE = 1e-12


@pytest.mark.slow
def test_it_goes_on_over_another_mesh(tmp_path: Path, measured: list[str]) -> None:
    command = [sys.executable, "-m", "tests.support.other_meshes", str(tmp_path), str(tmp_path / "found.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 12
    measured.append(f"checkpoints over another mesh, float64: {max(found.values()):.1e} apart (at most {TOLERANCE})")
    assert max(found.values()) <= TOLERANCE, found


class Processes:
    """Two threads that stand for processes; what the first tells, the other one hears."""

    def __init__(self) -> None:
        self._barrier, self._held = threading.Barrier(2, timeout=30), b""

    def tell(self, first: bool) -> Callable[[bytes], bytes]:
        def told(held: bytes) -> bytes:
            if first:
                self._held = held
            self._barrier.wait()
            heard = self._held
            self._barrier.wait()
            return heard

        return told

    def run(self, act: Callable[[bool, Callable[[bytes], bytes]], Any]) -> list[Any]:
        """Returns what `act` returned or raised in each of them."""
        found: list[Any] = [None, None]

        def ran(number: int) -> None:
            try:
                found[number] = act(number == 0, self.tell(number == 0))
            except Exception as error:
                found[number] = error

        threads = [threading.Thread(target=ran, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found


@contextmanager
def opened(folder: Path, first: bool, tell: Callable[[bytes], bytes], every: int | None = 2) -> Iterator[Any]:
    own = (lambda: Checkpoints(folder, {}, {}, every)) if first else None
    with SharedCheckpoints(own, every, tell) as checkpoints:
        yield checkpoints


def test_all_get_what_process_0_found(tmp_path: Path) -> None:
    def write(first: bool, tell: Any) -> Any:
        with opened(tmp_path, first, tell) as checkpoints:
            assert checkpoints.found is None
            for step in range(1, 6):
                if checkpoints.due(step):
                    checkpoints.save(step, lambda step=step: {"own": np.array([step, 0 if first else 1])})

    def read(first: bool, tell: Any) -> Any:
        with opened(tmp_path, first, tell) as checkpoints:
            return checkpoints.found

    assert Processes().run(write) == [None, None]
    for found in Processes().run(read):
        assert (found.step, found.finished) == (4, False)
        assert found.arrays["own"].tolist() == [4, 0]


@pytest.mark.parametrize("kind", [OSError, ValueError, KeyError])
def test_the_error_of_process_0_is_that_of_all(kind: type[Exception]) -> None:
    def fails() -> bytes:
        raise kind("a: b")

    own, other = Processes().run(lambda first, tell: done_by_first(fails if first else None, tell))
    assert type(own) is kind
    assert type(other) is (RuntimeError if kind is KeyError else kind)
    assert str(other) == str(own)


def test_a_folder_in_use_is_told_to_all(tmp_path: Path) -> None:
    def use(first: bool, tell: Any) -> Any:
        with opened(tmp_path, first, tell):
            return None

    with Checkpoints(tmp_path, {}, {}, None):
        found = Processes().run(use)
    assert all("no other training uses" in str(error) for error in found)
    assert Processes().run(use) == [None, None]


def test_the_clock_of_process_0_says_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_ref.common.files.checkpoints._SECONDS", 0.0)

    def ask(first: bool, tell: Any) -> bool:
        with opened(tmp_path, first, tell, every=None) as checkpoints:
            return checkpoints.due(1)

    assert Processes().run(ask) == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["two-torch", "two-flax"])
def test_two_processes_go_on(kind: str, tmp_path: Path) -> None:
    """The second one has no folder at all: it hears from the first."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def run(folder: str, steps: int) -> str:
        command = [sys.executable, "-m", "tests.support.killed_fit", kind, str(tmp_path / folder), str(steps)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True, text=True
        )
        return [line for line in done.stdout.splitlines() if not line.startswith("[Gloo] ")][-1]

    expected = run("whole", 120)
    assert run("whole", 120) == expected
    last = sorted((tmp_path / "whole").glob("step-*"))
    for path in last[1:]:
        path.rename(path.with_name(f"removed {path.name}"))
    assert run("whole", 120) == expected  # from the 50th step
