"""`twohead train`: what it writes, in either framework and without the other, and how it fails."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import flax_impl
import torch_ref
from flax_impl.commands import predict, train
from flax_impl.effects.ensemble_file import read_ensemble
from tests.support.commands import call, fails, run

NARROW = ("--representation-features", "4", "--head-features", "4")


def table(folder: Path) -> str:
    data = torch_ref.data.synthetic(rows=60, features=4)
    rows = np.hstack([data.x, data.t[:, None], data.y])
    np.savetxt(folder / "my.csv", rows, delimiter=",", header="a,b,c,d,treated,outcome", comments="")
    return "my.csv"


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_train_two_head(tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the other framework not installed; torch trains a single net, which has no intervals."""
    more = ["--members", "3"] if backend == "flax" else []
    done = run(
        "train.py", "--backend", backend, "--data", table(tmp_path), "--treatment", "treated", "--outcome", "outcome",
        "--steps", "20", "--batch-size", "16", "--head-features", "8", "--optimizer", "adamw", "--lr", "0.01",
        "--schedule", "cosine", "--T-max", "20", "--clip-norm", "1", "--cfr-weights", "--reduction", "per_head",
        "--balance", "rbf_mmd", *more, folder=tmp_path, blocked="torch" if backend == "flax" else "jax",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 rows" in done.stdout
    assert f"steps of {'3 nets' if backend == 'flax' else '1 net'} in " in done.stdout
    out = tmp_path / "out" / "train"
    assert sorted(path.name for path in out.iterdir()) == [
        "effects.csv", "effects.png", "losses.csv", "losses.png", "model.safetensors", "outcomes.png", "overlap.png",
        "qini.png", "summary.txt",
    ]  # fmt: skip
    with (out / "effects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    columns = ["y0", "y1", "effect"] + (["low", "high"] if backend == "flax" else [])
    assert list(rows[0]) == ["row", *columns]
    effects = np.array([[float(row[name]) for name in columns] for row in rows])
    np.testing.assert_allclose(effects[:, 1] - effects[:, 0], effects[:, 2], atol=1e-12)
    average = rf"mean of the rows' effects +{effects[:, 2].mean():.4g}"
    if backend == "flax":
        assert (effects[:, 3] < effects[:, 2]).all()
        assert (effects[:, 2] < effects[:, 4]).all()
        average += r"  \(95% interval "
    assert re.search(average, done.stdout)
    assert (out / "summary.txt").read_text() in done.stdout
    for other in ("flax", "torch"):  # new rows, in either framework, with the columns in another order
        data = flax_impl.data.load_data(tmp_path / "my.csv", treatment="treated", outcome="outcome")
        np.savetxt(tmp_path / "new.csv", data.x[:5, ::-1], delimiter=",", header="d,c,b,a", comments="", fmt="%.17g")
        told = ("--model", "out/train/model.safetensors", "--data", "new.csv", "--backend", other)
        assert call(predict.main, *told, folder=tmp_path) == 0, capsys.readouterr().err
        assert "new.csv: 5 rows, mean of the rows' effects " in capsys.readouterr().out
        predicted = np.loadtxt(tmp_path / "out" / "effects.csv", delimiter=",", skiprows=1)[:, 1:]
        np.testing.assert_allclose(predicted, effects[:5], rtol=1e-4, atol=1e-5)


def test_torch_trains_one_net_and_keeps_its_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--backend", "torch", "--epochs", "5", *NARROW)
    assert call(train.main, *arguments, "--dtype", "float64", folder=tmp_path) == 0, capsys.readouterr().err
    ensemble = read_ensemble(tmp_path / "out" / "train" / "model.safetensors")
    assert len(ensemble.weights) == 1
    assert not ensemble.bootstrap
    assert {array.dtype for array in ensemble.weights[0].values()} == {np.dtype(np.float64)}
    with (tmp_path / "out" / "train" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    held_out = [float(row["loss on held-out rows"]) for row in rows]
    assert np.isfinite(held_out).sum() == 5  # once an epoch


def test_rows_without_outcome_are_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of effects has the numbers of the table's own rows."""
    data = torch_ref.data.synthetic(rows=60, features=4)
    outcomes = ["" if row in (0, 7) else f"{y:.6f}" for row, y in enumerate(data.y[:, 0])]
    arms = ["drug" if t else "none" for t in data.t]
    lines = [",".join([*map(str, x), *more]) for x, *more in zip(data.x.tolist(), arms, outcomes, strict=True)]
    (tmp_path / "my.csv").write_text("\n".join(["a,b,c,d,arm,y", *lines]))
    arguments = ("--data", "my.csv", "--treatment", "arm", "--control", "none", "--drop-missing", "--ignore", "d")
    arguments += ("--members", "1", "--no-intervals", "--steps", "20", "--batch-size", "16", *NARROW)
    assert call(train.main, *arguments, folder=tmp_path) == 0, capsys.readouterr().err
    treated = int(data.t.sum() - data.t[[0, 7]].sum())
    first = capsys.readouterr().out.splitlines()[0]
    expected = "my.csv: 58 rows (2 without treatment or outcome dropped)"
    assert first == f"{expected}, {58 - treated} of none, {treated} of drug, 3 features"
    rows = np.loadtxt(tmp_path / "out" / "train" / "effects.csv", delimiter=",", skiprows=1)[:, 0]
    assert rows.tolist() == [row for row in range(60) if row not in (0, 7)]


@pytest.mark.parametrize("backend", ["torch", pytest.param("flax", marks=pytest.mark.slow)])
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
    assert (tmp_path / "here" / "losses.png").stat().st_size > 10_000


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
        (
            ["--backend", "torch", "--members", "5"],
            2,
            "error: --members: expected 1 with --backend torch, which trains a single net, got 5",
        ),
        (["--backend", "torch", "--compile-cache", "c"], 2, "error: --compile-cache: expected with --backend flax"),
        (["--backend", "torch", "--optimizer", "sgd", "--lr", "1e9", "--steps", "50"], 1, "expected finite"),
        (["--processes", "2"], 2, "error: --processes: expected with --distributed, got it alone"),
        (["--criterion", "sigmoid_binary_cross_entropy"], 2, "error: y: expected 0 or 1 in every row, got"),
        (
            ["--optimizer", "sgd", "--lr", "1e9", "--steps", "50", "--members", "2", *NARROW],
            1,
            "error: net 0 diverged, and again with lr=1e+08: ",
        ),
        (
            ["--optimizer", "sgd", "--lr", "1e38", "--validation-share", "0", "--steps", "1", *NARROW],
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
        (["--data", "one_arm.csv"], 2, "error: one_arm.csv: treatment: expected at least two arms, got 0 in every row"),
        (["--out", "one_arm.csv"], 2, "error: --out: expected a folder to write to, got one_arm.csv: File exists"),
        (
            ["--data", "gap.csv"],
            2,
            "error: gap.csv: column y: expected a value in every row, got none in row 1; drop such rows by "
            "missing='drop' or --drop-missing",
        ),
        (["--data", "gap.csv", "--control", "b"], 2, "error: gap.csv: column y: expected a value in every row"),
        (
            ["--data", "gap.csv", "--drop-missing", "--control", "b"],
            2,
            "gap.csv: control: expected one of 0, 1, got 'b'",
        ),
        (["--data", "gap.csv", "--ignore", "z"], 2, "gap.csv: ignore: expected names of features, each once, got z"),
        (
            ["--data", "synthetic", "--drop-missing"],
            2,
            "missing: expected 'error', as synthetic has no use for another",
        ),
        (
            ["--data", "words.csv", "--outcome", "city"],
            2,
            "error: words.csv: column city: expected numbers, got 'Oslo' and 'Rome'; code them as 0 and 1",
        ),
    ],
)
def test_bad_arguments(
    tmp_path: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one_arm.csv").write_text("t,y,x\n0,1,2\n0,2,1\n0,3,1\n")
    (tmp_path / "gap.csv").write_text("t,y,x\n0,1,2\n1,,2\n1,2,2\n0,3,1\n")
    (tmp_path / "words.csv").write_text("t,y,city\n0,1,Rome\n1,2,Oslo\n")
    fails(train.main, arguments, tmp_path, message, capsys, code)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path]


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("torch", ["--backend", "torch"], "error: torch_ref needs torch: pip install 'twohead[torch]'"),
        ("jax", ["--backend", "flax"], "error: flax_impl needs jax: pip install 'twohead[jax]'"),
        ("optax", [], "error: flax_impl needs optax: pip install 'twohead[jax]'"),
        ("causallib", ["--data", "acic2016:1"], "pip install 'twohead[data]'"),
        ("pyarrow", ["--data", "my.parquet"], "my.parquet: .parquet needs pyarrow: pip install 'twohead[data]'"),
        ("pyarrow", ["--data", "my.csv"], "my.csv: .csv needs pyarrow: pip install 'twohead[data]'"),
    ],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path,
    missing: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my.parquet").touch()
    (tmp_path / "my.csv").write_text("t,y,x\n0,1,2\n1,2,3\n")
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    fails(train.main, arguments, tmp_path, message, capsys)


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


def test_plots_are_left_out_where_matplotlib_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    arguments = ("--steps", "20", "--members", "1", *NARROW)
    assert call(train.main, *arguments, folder=tmp_path) == 0
    assert "no pictures: plots need matplotlib: pip install 'twohead[plots]'" in capsys.readouterr().out
    assert (tmp_path / "out" / "train" / "model.safetensors").is_file()


def test_ctrl_c_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_two_head", interrupted)
    assert call(train.main, folder=tmp_path) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "more",
    [
        ("--backend", "torch", *NARROW),
        pytest.param(("--model", "two-in-two-out", "--backend", "flax"), marks=pytest.mark.slow),
    ],
)
def test_it_goes_on_from_checkpoints(tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*more, "--steps", "20", "--checkpoint", "kept")
    written = []
    for _ in range(2):
        assert call(train.main, *arguments, "--every", "8", folder=tmp_path) == 0
        written.append((tmp_path / "out" / "train" / "model.safetensors").read_bytes())
        steps = sorted(path.name for path in (tmp_path / "kept").glob("step-*"))
        assert [int(name[5:]) for name in steps] == [8, 16, 20]
    assert written[0] == written[1]
    other = [*arguments, "--lr", "0.5"]
    fails(
        train.main,
        other,
        tmp_path,
        "checkpoint: expected the training that kept holds, got another: optimizer: ",
        capsys,
    )


def test_an_ensemble_goes_on_from_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*NARROW, "--members", "2", "--steps", "20", "--checkpoint", "kept", "--every", "8")
    written = []
    for _ in range(2):
        assert call(train.main, *arguments, folder=tmp_path) == 0
        written.append((tmp_path / "out" / "train" / "model.safetensors").read_bytes())
    assert written[0] == written[1]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["calibration", "lock", "nets"]
    message = "checkpoint: expected the training that kept/nets holds, got another: seed: expected "
    fails(train.main, [*arguments, "--seed", "1"], tmp_path, message, capsys)
    fails(train.main, ["--every", "5"], tmp_path, "every: expected checkpoint with it", capsys)
    fails(train.main, ["--backend", "torch", "--every", "5"], tmp_path, "every: expected checkpoint with it", capsys)
