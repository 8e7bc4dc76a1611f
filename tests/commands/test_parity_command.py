"""`twohead parity`: both sides, one side and a file, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flax_impl.commands import parity
from tests.support.commands import SCRIPTS, call, fails, run
from torch_ref.common.files.array_file import read_arrays, write_arrays


@pytest.mark.slow
def test_two_machines(tmp_path: Path) -> None:
    """The reference is recorded where there is no JAX, and checked where there is no torch."""
    machines = {name: tmp_path / name for name in ("torch", "jax", "faulty")}
    for folder in machines.values():
        folder.mkdir()
    wanted = ["--model", "two-in-two-out", "--optimizer", "sgd", "--steps", "3"]
    done = run("parity.py", "--record", "../trace.safetensors", *wanted, folder=machines["torch"], blocked="jax")
    assert done.returncode == 0, done.stderr
    assert "recorded two-in-two-out, float64, sgd, 3 steps" in done.stdout
    done = run("parity.py", "--check", "../trace.safetensors", folder=machines["jax"], blocked="torch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agrees" in done.stdout
    planted = machines["faulty"]
    for part in ("scripts", "flax_impl", "torch_ref"):
        shutil.copytree(SCRIPTS.parent / part, planted / part)
    layers = planted / "flax_impl" / "models" / "layers.py"
    layers.write_text(layers.read_text().replace('"sigmoid": jax.nn.sigmoid', '"sigmoid": jnp.tanh'))
    environment = {**os.environ, "PYTHONPATH": f"{planted}{os.pathsep}{machines['jax'] / 'blocked'}"}
    command = [sys.executable, "scripts/parity.py", "--check", "../trace.safetensors", "--json", "report.json"]
    done = subprocess.run(
        command, cwd=planted, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "first divergence at step 0, forward, between `hidden2#1` and `predict1`" in done.stdout
    (pair,) = json.loads((planted / "report.json").read_text())["pairs"]
    assert pair["first_divergence"]["name"] == "hidden2#1"
    assert "the port applies jnp.tanh" in pair["diagnosis"][0]


@pytest.mark.slow
def test_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", "two-head", "--steps", "2", "--json", "here/report.json", "--html", "here/page.html")
    code = call(parity.main, *arguments, folder=tmp_path)
    out, err = capsys.readouterr()
    assert code == 0, out + err
    report = json.loads((tmp_path / "here" / "report.json").read_text())
    assert report["passed"] is True
    named = [(pair["model"], pair["dtype"], pair["optimizer"]) for pair in report["pairs"]]
    assert named == [("two-head", dtype, name) for dtype in ("float64", "float32") for name in ("sgd", "adam", "adamw")]
    for pair in report["pairs"]:
        assert pair["passed"] is True
        assert pair["steps"] == 2
        assert 0 < pair["max_scaled_error"] < (1e-12 if pair["dtype"] == "float64" else 1e-4)
        assert pair["first_divergence"] is None
        assert pair["diagnosis"] == []
        assert f"{pair['model']}  {pair['dtype']}  {pair['optimizer']}" in out
    assert (tmp_path / "here" / "page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "none.safetensors"], "error: none.safetensors: expected a safetensors file, found none"),
        (
            ["--check", "noise.safetensors"],
            "error: noise.safetensors: expected a safetensors file written by this package",
        ),
        (["--check", "weights.safetensors"], "error: weights.safetensors: format: expected one of 'trace/1'"),
        (["--check", "golden.safetensors", "--dtype", "float64"], "error: --dtype: expected float32, as golden"),
        (["--check", "foreign.safetensors"], "error: foreign.safetensors: expected a trace that this command recorded"),
        (["--check", "strange.safetensors"], "error: strange.safetensors: expected a trace that this command recorded"),
        (["--check", "a", "--record", "b"], "error: --check: expected without --record"),
        (["--record", "a", "--json", "b"], "error: --json: expected with a comparison, got --record"),
        (["--steps", "0"], "error: --steps: expected a whole number from 1 to 10000, got 0"),
        (["--model", "three-head"], "invalid choice: 'three-head'"),
        (["--record", "folder", "--model", "two-in-two-out", "--steps", "1"], "error: "),
    ],
)
def test_unusable_arguments(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Path(__file__).parents[1] / "golden"
    shutil.copy(golden / "trace.safetensors", tmp_path / "golden.safetensors")
    shutil.copy(golden / "TwoHead.safetensors", tmp_path / "weights.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    arrays, metadata = read_arrays(golden / "trace.safetensors")
    recipe = metadata["recipe"]
    write_arrays(tmp_path / "foreign.safetensors", arrays, {**metadata, "recipe": {}})
    write_arrays(tmp_path / "strange.safetensors", arrays, {**metadata, "recipe": {**recipe, "seed": "one"}})
    fails(parity.main, arguments, tmp_path, message, capsys)
