"""The commands, run as a user runs them."""

import csv
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
import torch_ref
from torch_ref.common.files.array_file import read_arrays, write_arrays

SCRIPTS = Path(__file__).parents[2] / "scripts"


def fails(script: str, arguments: list[str], folder: Path, code: int, message: str) -> None:
    """Runs a script in this process, which saves the seconds that a fresh one starts in, and sees it fail."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")  # as users have them
        patch.chdir(folder)
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "stdout", Stream(out))
        patch.setattr(sys, "stderr", Stream(err))
        try:
            returned = importlib.import_module(script.removesuffix(".py")).main()
        except SystemExit as ended:  # argparse's way
            returned = ended.code
    assert returned == code, err.getvalue()
    assert message in err.getvalue()


class Stream:
    """A text stream that scripts may set up as they set up a terminal."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def reconfigure(self, errors: str) -> None:
        assert errors == "replace"


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
    data = torch_ref.data.synthetic(rows=60, features=4)
    rows = np.hstack([data.x, data.t[:, None], data.y])
    np.savetxt(folder / "my.csv", rows, delimiter=",", header="a,b,c,d,treated,outcome", comments="")
    return "my.csv"


@pytest.mark.parametrize("backend", ["flax", pytest.param("torch", marks=pytest.mark.slow)])
def test_train_two_head(tmp_path: Path, backend: str) -> None:
    """With the other framework not installed."""
    done = run(
        "train.py", "--backend", backend, "--data", table(tmp_path), "--treatment", "treated", "--outcome", "outcome",
        "--steps", "20", "--batch-size", "16", "--head-features", "8", "--optimizer", "adamw", "--lr", "0.01",
        "--schedule", "cosine", "--T-max", "20", "--clip-norm", "1", "--cfr-weights", "--reduction", "per_head",
        "--members", "3", "--balance", "rbf_mmd", folder=tmp_path, blocked="torch" if backend == "flax" else "jax",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 rows" in done.stdout
    out = tmp_path / "out" / "train"
    assert sorted(path.name for path in out.iterdir()) == [
        "effects.csv", "effects.png", "losses.csv", "losses.png", "model.safetensors", "outcomes.png", "overlap.png",
        "qini.png", "summary.txt",
    ]  # fmt: skip
    with (out / "effects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    effects = np.array([[float(row[name]) for name in ("y0", "y1", "effect", "low", "high")] for row in rows])
    assert (effects[:, 3] < effects[:, 2]).all()
    assert (effects[:, 2] < effects[:, 4]).all()
    np.testing.assert_allclose(effects[:, 1] - effects[:, 0], effects[:, 2], atol=1e-12)
    assert re.search(rf"average treatment effect +{effects[:, 2].mean():.4g}  \(95% interval ", done.stdout)
    assert (out / "summary.txt").read_text() in done.stdout
    for other in ("flax", "torch"):  # new rows, in either framework, with the columns in another order
        data = flax_impl.data.load_data(tmp_path / "my.csv", treatment="treated", outcome="outcome")
        np.savetxt(tmp_path / "new.csv", data.x[:5, ::-1], delimiter=",", header="d,c,b,a", comments="", fmt="%.17g")
        told = run(
            "predict.py", "--model", "out/train/model.safetensors", "--data", "new.csv", "--backend", other,
            folder=tmp_path,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        predicted = np.loadtxt(tmp_path / "out" / "effects.csv", delimiter=",", skiprows=1)[:, 1:]
        np.testing.assert_allclose(predicted, effects[:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_train_two_in_two_out(tmp_path: Path, backend: str) -> None:
    done = run(
        "train.py", "--model", "two-in-two-out", "--backend", backend, "--steps", "5", "--dtype", "float64",
        "--hidden-features", "4", "3", "--out", "here", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = torch_ref.load_model(tmp_path / "here" / "model.safetensors")
    assert loaded.config["hidden_features"] == [4, 3]
    assert torch_ref.models.to_numpy(loaded)["predict2.weight"].dtype == np.float64
    with (tmp_path / "here" / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


@pytest.mark.slow
def test_binary_outcomes_become_probabilities(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = np.column_stack([generator.normal(size=(40, 2)), generator.integers(0, 2, (40, 2))])
    np.savetxt(tmp_path / "my.csv", rows, delimiter=",", header="a,b,t,y", comments="")
    done = run(
        "train.py", "--data", "my.csv", "--criterion", "sigmoid_binary_cross_entropy", "--steps", "5", "--members", "2",
        folder=tmp_path,
    )  # fmt: skip
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
        (["--criterion", "sigmoid_binary_cross_entropy"], 2, "error: y: expected 0 or 1 in every row, got"),
        (["--optimizer", "sgd", "--lr", "1e9", "--steps", "50"], 1, "error: net 0 diverged, and again with lr=1e+08: "),
        (
            ["--optimizer", "sgd", "--lr", "1e38", "--validation-share", "0", "--steps", "1"],
            1,
            "error: output 0: expected",
        ),
        (["--steps", "1"], 2, "error: steps: expected an epoch at least, 8 of them, as rows are held out, got 1"),
        (["--members", "0"], 2, "error: members: expected a whole number of at least 1, got 0"),
        (["--model", "two-in-two-out", "--members", "3"], 2, "error: --members: expected with --model two-head"),
        (["--balance", "mmd"], 2, "error: balance: expected one of 'linear_mmd', 'rbf_mmd', 'wasserstein', got 'mmd'"),
        (["--seed", "-1"], 2, "error: seed: expected a whole number of at least 0, got -1"),
        (["--steps", "100000000000000"], 2, "error: steps: expected a whole number of at most 2147483647"),
        (["--hidden-features", "3"], 2, "error: --hidden-features: expected with --model two-in-two-out, got two-head"),
        (["--model", "two-in-two-out", "--cfr-weights"], 2, "error: --cfr-weights: expected with --model two-head"),
        (
            ["--criterion", "sigmoid_binary_cross_entropy", "--final-activation", "sigmoid"],
            2,
            "as sigmoid_binary_cross_entropy takes logits",
        ),
        (["--data", "one_arm.csv"], 2, "error: one_arm.csv: expected treated and untreated rows, got 0 treated of 3"),
        (["--out", "one_arm.csv"], 2, "File exists"),
        (["--data", "gap.csv"], 2, "error: gap.csv, line 3, column x: expected a finite number, got an empty cell"),
        (["--data", "words.csv"], 2, "error: words.csv, line 2, column city: expected a finite number, got 'Rome'"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "one_arm.csv").write_text("t,y,x\n0,1,2\n0,2,1\n0,3,1\n")
    (tmp_path / "gap.csv").write_text("t,y,x\n0,1,2\n1,2,\n0,3,1\n")
    (tmp_path / "words.csv").write_text("t,y,city\n0,1,Rome\n1,2,Oslo\n")
    fails("train.py", arguments, tmp_path, code, message)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path]


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


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_outcomes_in_any_unit(tmp_path: Path, unit: float) -> None:
    """And a file whose name no plot may take for mathematics."""
    data = torch_ref.data.synthetic(rows=200, features=4)
    rows = np.hstack([data.x * unit, data.t[:, None], data.y * unit])
    np.savetxt(tmp_path / "my $\\b$.csv", rows, delimiter=",", header="a,b,c,d,t,y", comments="")
    done = run("train.py", "--data", "my $\\b$.csv", "--steps", "300", "--members", "2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "train" / "effects.csv").open() as file:
        effects = [float(row["effect"]) / unit for row in csv.DictReader(file)]
    assert np.mean(effects) == pytest.approx(1, abs=0.5)


def test_plots_are_left_out_where_matplotlib_is(tmp_path: Path) -> None:
    done = run("train.py", "--steps", "20", "--members", "1", folder=tmp_path, blocked="matplotlib")
    assert done.returncode == 0, done.stderr
    assert "no pictures: plots need matplotlib: pip install 'twohead[plots]'" in done.stdout
    assert (tmp_path / "out" / "train" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "new.csv"], "error: out/train/model.safetensors: expected a safetensors file, found none"),
        (
            ["--data", "new.csv", "--model", "weights"],
            "error: weights: format: expected one of 'effects/1', got 'model",
        ),
        (
            ["--data", "few.csv", "--model", "model"],
            "expected the columns that the model was trained on, but x4 are missing",
        ),
        (["--data", "none.csv", "--model", "model"], "error: none.csv: expected a file, found none"),
        (["--data", "new.csv", "--model", "model", "--alpha", "2"], "error: alpha: expected a finite number above 0"),
    ],
)
def test_predict_with_unusable_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    data = flax_impl.data.synthetic(rows=60, features=4)
    tiny: dict[str, Any] = {"representation_features": [4], "head_features": [4], "epochs": 2, "progress": False}
    flax_impl.effects.fit_effects(data, members=2, bootstrap=True, **tiny).save(tmp_path / "model")
    net = flax_impl.TwoHead(4)
    flax_impl.save_model(tmp_path / "weights", net, net.init_params())
    for name, header in (("new", "x1,x2,x3,x4"), ("few", "x1,x2,x3,x5")):
        np.savetxt(tmp_path / f"{name}.csv", data.x, delimiter=",", header=header, comments="")
    fails("predict.py", arguments, tmp_path, 2, message)
    assert not (tmp_path / "out" / "effects.csv").exists()


def ihdp_folder(folder: Path) -> None:
    """Writes two replications in IHDP's layout, and which rows are for the test."""
    for number in (1, 2):
        data = flax_impl.data.synthetic(rows=90 + number, features=5, seed=number)
        assert data.mu0 is not None
        assert data.mu1 is not None
        columns = np.hstack([data.t[:, None], data.y, data.y, data.mu0, data.mu1, data.x])
        np.savetxt(folder / f"ihdp_npci_{number}.csv", columns, delimiter=",")
    (folder / "test_rows.json").write_text(json.dumps({"1": list(range(9)), "2": list(range(10))}))


@pytest.mark.slow
def test_ihdp(tmp_path: Path) -> None:
    ihdp_folder(tmp_path)
    done = run(
        "ihdp.py", ".", "--members", "2", "--no-peers", "--json", "r.json", "--plot", "r.png", folder=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [one["replication"] for one in report["replications"]] == [1, 2]
    for measure in ("sqrt_pehe_in", "sqrt_pehe_out", "ate_error_in", "ate_error_out", "seconds"):
        values = [one[measure] for one in report["replications"]]
        assert report["summary"][measure]["mean"] == pytest.approx(np.mean(values))
        assert report["summary"][measure]["median"] == pytest.approx(np.median(values))
        assert report["summary"][measure]["standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))
    assert "ours is better than ours, single nets on" in done.stdout
    assert (tmp_path / "r.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "No such file or directory"),
        (["empty"], "error: empty: expected files ihdp_npci_1.csv, ihdp_npci_2.csv, …, got none"),
        ([".", "--replications", "2-3"], "error: --replications: expected some of 1-2, got 2-3"),
        ([".", "--replications", "some"], "error: --replications: expected some of 1-2, got some"),
        ([".", "--members", "0"], "error: members: expected a whole number of at least 1, got 0"),
        (["broken"], "test_rows.json: expected the row numbers of replication 1, got KeyError"),
    ],
)
def test_ihdp_with_unusable_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    ihdp_folder(tmp_path)
    ihdp_folder(tmp_path / "broken")
    (tmp_path / "broken" / "test_rows.json").write_text("{}")
    fails("ihdp.py", [*arguments, "--no-peers"], tmp_path, 2, message)


@pytest.mark.slow
def test_coverage(tmp_path: Path) -> None:
    done = run(
        "interval_coverage.py", "--rows", "300", "--tables", "1", "--members", "3", "--json", "c.json", folder=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0.5 < json.loads((tmp_path / "c.json").read_text())["coverage"] <= 1


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
            torch_ref.models.to_numpy(torch_ref.load_model(tmp_path / "out" / f"{name}_{side}.safetensors"))
            for side in ("torch", "flax")
        ]
        assert max(float(np.abs(weights[0][key] - weights[1][key]).max()) for key in weights[0]) <= 1e-9


def test_parity_on_two_machines(tmp_path: Path) -> None:
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
    for part in ("scripts", "flax_impl"):
        shutil.copytree(SCRIPTS.parent / part, planted / part)
    layers = planted / "flax_impl" / "layers.py"
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
def test_parity_of_both_sides(tmp_path: Path) -> None:
    done = run(
        "parity.py", "--model", "two-head", "--steps", "2", "--json", "here/report.json", "--html", "here/page.html",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
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
        assert f"{pair['model']}  {pair['dtype']}  {pair['optimizer']}" in done.stdout
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
        (["--record", "folder"], "error: "),
    ],
)
def test_parity_with_unusable_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    golden = Path(__file__).parent / "golden"
    shutil.copy(golden / "trace.safetensors", tmp_path / "golden.safetensors")
    shutil.copy(golden / "TwoHead.safetensors", tmp_path / "weights.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    arrays, metadata = read_arrays(golden / "trace.safetensors")
    recipe = metadata["recipe"]
    write_arrays(tmp_path / "foreign.safetensors", arrays, {**metadata, "recipe": {}})
    write_arrays(tmp_path / "strange.safetensors", arrays, {**metadata, "recipe": {**recipe, "seed": "one"}})
    done = run("parity.py", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "agrees" not in done.stdout
