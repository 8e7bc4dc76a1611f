"""The script for the day with a GPU runs, small, on any machine, and writes what it promises."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run


@pytest.mark.slow
def test_the_script_runs_small(tmp_path: Path) -> None:
    done = run("gpu.py", "out", "--replicas", "2", "--steps", "5", "--rounds", "2", "--no-parity", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [of["precision"] for of in result["trainings"]] == ["float32", "tf32"]
    assert all(len(of["seconds"]) == 2 and 0 < of["share_of_flops"] < 1 for of in result["trainings"])
    assert result["row_orders"] > 0
    assert (tmp_path / "out" / "gpu.txt").read_text() == done.stdout


def test_bad_arguments(tmp_path: Path) -> None:
    done = run("gpu.py", "out", "--steps", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "--steps: expected a whole number of at least 1, got 0" in done.stderr
