"""The commands, run as a user runs them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flax_impl
import torch_ref

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(script: str, *arguments: str, folder: Path, blocked: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder; a framework that is blocked looks as if it were not installed."""
    environment = dict(os.environ)
    if blocked:
        (folder / "blocked").mkdir()
        (folder / "blocked" / f"{blocked}.py").write_text("raise ImportError(f'No module named {__name__}')\n")
        environment["PYTHONPATH"] = str(folder / "blocked")
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def table(folder: Path) -> str:
    data = torch_ref.synthetic(rows=60, features=4)
    rows = np.hstack([data.x, data.t[:, None], data.y])
    np.savetxt(folder / "my.csv", rows, delimiter=",", header="a,b,c,d,treated,outcome", comments="")
    return "my.csv"


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_train_two_head(tmp_path: Path, backend: str) -> None:
    """With the other framework not installed."""
    done = run(
        "train.py", "--backend", backend, "--data", table(tmp_path), "--treatment", "treated", "--outcome", "outcome",
        "--steps", "20", "--batch-size", "16", "--head-features", "8", "--optimizer", "adamw", "--lr", "0.01",
        "--schedule", "cosine", "--T-max", "20", "--clip-norm", "1", "--cfr-weights", "--reduction", "batch",
        folder=tmp_path, blocked="torch" if backend == "flax" else "jax",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 rows" in done.stdout
    out = tmp_path / "out" / "train"
    assert sorted(path.name for path in out.iterdir()) == [
        "effects.csv", "losses.csv", "losses.png", "model.safetensors"
    ]  # fmt: skip
    with (out / "effects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    effects = np.array([[float(row[name]) for name in ("y0", "y1", "effect")] for row in rows])
    np.testing.assert_allclose(effects[:, 1] - effects[:, 0], effects[:, 2], atol=1e-12)
    assert f"average treatment effect {effects[:, 2].mean():.4f}" in done.stdout
    model, params = flax_impl.load_model(out / "model.safetensors")
    scaled = flax_impl.Scales.of(
        data := flax_impl.load_data(tmp_path / "my.csv", treatment="treated", outcome="outcome")
    )
    y0, _ = flax_impl.predict(model, params, scaled.standardize(data).x)
    np.testing.assert_allclose(scaled.outcome(y0)[:, 0], effects[:, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_train_two_in_two_out(tmp_path: Path, backend: str) -> None:
    done = run(
        "train.py", "--model", "two-in-two-out", "--backend", backend, "--steps", "5", "--dtype", "float64",
        "--hidden-features", "4", "3", "--out", "here", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = torch_ref.load_model(tmp_path / "here" / "model.safetensors")
    assert loaded.config["hidden_features"] == [4, 3]
    assert torch_ref.to_numpy(loaded)["predict2.weight"].dtype == np.float64
    with (tmp_path / "here" / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_binary_outcomes_become_probabilities(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = np.column_stack([generator.normal(size=(40, 2)), generator.integers(0, 2, (40, 2))])
    np.savetxt(tmp_path / "my.csv", rows, delimiter=",", header="a,b,t,y", comments="")
    done = run(
        "train.py", "--data", "my.csv", "--criterion", "sigmoid_binary_cross_entropy", "--steps", "5", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "train" / "effects.csv").open() as file:
        assert all(0 < float(row["y1"]) < 1 for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "none.csv"], 2, "error: none.csv: expected a file, found none"),
        (["--optimizer", "lion"], 2, "error: optimizer: expected one of 'adam', 'adamw', 'rmsprop', 'sgd', got 'lion'"),
        (["--activation", "swish"], 2, "error: activation: expected one of"),
        (["--optimizer", "adam", "--momentum", "0.9"], 2, "error: argument of adam: expected one of"),
        (["--epochs", "1", "--steps", "1"], 2, "error: epochs, steps: expected exactly one of the two"),
        (["--backend", "tensorflow"], 2, "invalid choice: 'tensorflow' (choose from"),
        (["--criterion", "sigmoid_binary_cross_entropy"], 2, "error: outcome: expected 0 or 1 in every row, got"),
        (["--optimizer", "sgd", "--lr", "1e9", "--steps", "50"], 1, "error: loss: expected finite numbers, got"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = run("train.py", *arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("blocked", "arguments", "message"),
    [
        ("torch", ["--backend", "torch"], "pip install 'twohead[torch]'"),
        ("jax", ["--backend", "flax"], "pip install 'twohead'"),
        ("causallib", ["--data", "acic2016:1"], "pip install 'twohead[data]'"),
        ("pyarrow", ["--data", "my.parquet"], "pip install 'twohead[data]'"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path: Path, blocked: str, arguments: list[str], message: str) -> None:
    (tmp_path / "my.parquet").touch()
    done = run("train.py", *arguments, folder=tmp_path, blocked=blocked)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_plots_are_left_out_where_matplotlib_is(tmp_path: Path) -> None:
    done = run("train.py", "--steps", "2", folder=tmp_path, blocked="matplotlib")
    assert done.returncode == 0, done.stderr
    assert "no picture of the losses: plots need matplotlib: pip install 'twohead[plots]'" in done.stdout
    assert (tmp_path / "out" / "train" / "model.safetensors").is_file()


def test_demo(tmp_path: Path) -> None:
    pytest.importorskip("causallib")
    done = run("demo.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "Loss1 = " in line]) == 50
    results = json.loads((tmp_path / "out" / "demo.json").read_text())
    for differences in results["differences"].values():
        assert len(differences) == 6
        assert max(differences.values()) <= 1e-9
    torch, flax = results["effects"]["torch"], results["effects"]["flax"]
    assert flax == pytest.approx(torch, rel=1e-6)
    assert torch["sqrt PEHE, held out"] < 2  # the effects vary by 4
    assert (tmp_path / "out" / "demo.txt").read_text().strip() in done.stdout
    assert (tmp_path / "out" / "two_head_losses.png").stat().st_size > 10_000
    for name in ("two_head", "two_in_two_out"):
        weights = [
            torch_ref.to_numpy(torch_ref.load_model(tmp_path / "out" / f"{name}_{side}.safetensors"))
            for side in ("torch", "flax")
        ]
        assert max(float(np.abs(weights[0][key] - weights[1][key]).max()) for key in weights[0]) <= 1e-9
