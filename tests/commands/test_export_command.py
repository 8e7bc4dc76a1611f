"""`twohead export`: what it writes, and how it fails."""

import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

import flax_impl
from flax_impl.commands import export, predict, train
from flax_impl.effects import EffectSettings, fit_effects
from tests.support.commands import call, fails


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and with files that are none."""
    folder = tmp_path_factory.mktemp("export")
    data = flax_impl.data.synthetic(rows=60, features=4)
    settings = EffectSettings(
        representation_features=[4], head_features=[4], epochs=2, members=2, validation_share=0, bootstrap=True
    )
    fit_effects(data, settings, progress=False).save(folder / "model")
    damaged = bytearray((folder / "model").read_bytes())
    damaged[-5] ^= 1
    (folder / "damaged").write_bytes(damaged)
    net = flax_impl.TwoHead(4)
    flax_impl.save_model(folder / "weights", net, net.init_params())
    return folder


def test_it_writes_what_onnxruntime_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(export.main, "--model", "model", "--out", "new/model.onnx", "--alpha", "0.1", folder=folder) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "model: 4 columns, 2 nets"
    assert last.startswith("written: new/model.onnx (0.")
    model = flax_impl.effects.load_effect_model(folder / "model")
    x = flax_impl.data.synthetic(rows=5, features=4, seed=1).x
    session = onnxruntime.InferenceSession((folder / "new" / "model.onnx").read_bytes())
    found = session.run(["low", "high"], dict(zip(model.feature_names, x.T, strict=True)))
    np.testing.assert_allclose(np.stack(list(map(np.asarray, found))), model.effect_interval(x, 0.1), rtol=0, atol=1e-5)


def test_stablehlo_is_a_zip_by_default(folder: Path) -> None:
    assert call(export.main, "--model", "model", "--format", "stablehlo", folder=folder) == 0
    first = zipfile.ZipFile(folder / "out" / "model.zip").read("model.stablehlo")
    assert b".py" not in first  # which files of this machine made it
    model = flax_impl.effects.load_effect_model(folder / "model")
    flax_impl.serving.export_model(model, folder / "again.zip", format="stablehlo")  # from another place
    assert zipfile.ZipFile(folder / "again.zip").read("model.stablehlo") == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: out/train/model.safetensors: expected a safetensors file, found none"),
        (["--model", "damaged"], "the file is damaged"),
        (["--model", "weights"], "error: weights: format: expected one of 'effects/"),
        (["--model", "model", "--format", "pickle"], "argument --format: invalid choice: 'pickle'"),
        (["--model", "model", "--alpha", "2"], "error: alpha: expected a finite number above 0 and below 1, got 2"),
        (["--model", "model", "--out", "model/below"], "error: "),
    ],
)
def test_unusable_arguments(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    fails(export.main, arguments, folder, message, capsys)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_from_a_raw_table_to_what_another_process_says(tmp_path: Path, measured: list[str]) -> None:
    """Text, gaps, truth values, three arms and an unseen level: by `train`, `predict`, `export` and onnxruntime."""
    for name, rows in (("old", 240), ("new", 60)):
        raw_table(rows, seed=rows, unseen=name == "new").to_csv(tmp_path / f"{name}.csv", index=False)
    small = ["--epochs", "2", "--members", "2", "--bootstrap", "--representation-features", "8", "--head-features", "8"]
    trained = [
        "--data",
        "old.csv",
        "--treatment",
        "drug",
        "--outcome",
        "days",
        "--control",
        "none",
        "--learners",
        "nets",
        "trees",
        *small,
    ]
    assert call(train.main, *trained, folder=tmp_path) == 0
    assert call(predict.main, "--data", "new.csv", folder=tmp_path) == 0
    assert call(export.main, folder=tmp_path) == 0
    wanted, new = pd.read_csv(tmp_path / "out" / "effects.csv"), pd.read_csv(tmp_path / "new.csv")
    session = onnxruntime.InferenceSession((tmp_path / "out" / "model.onnx").read_bytes())
    inputs = {
        one.name: new[one.name].fillna("").to_numpy(object) if "string" in one.type else new[one.name].to_numpy(float)
        for one in session.get_inputs()
    }
    found = dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))
    assert list(found) == [name for name in wanted if name != "row"]
    assert {"y_none", "effect_high", "low_high"} <= set(found)
    sd = pd.read_csv(tmp_path / "old.csv")["days"].std()
    for name, values in found.items():
        worst = float(np.abs(np.asarray(values) - wanted[name]).max()) / sd
        measured.append(f"exported from a raw table, {name}: {worst:.1e} of the outcome's deviation")
        assert worst < (
            1e-5 if name.startswith(("low", "high")) else 1e-6
        )  # two nets: ends are 12.7 times their spread


def raw_table(rows: int, seed: int, unseen: bool) -> pd.DataFrame:
    """Returns a table as people have them; with a town that others do not have."""
    generator = np.random.default_rng(seed)
    towns = generator.choice(["Bonn", "Oslo", "Rome", *(["Lima"] if unseen else [])], rows)
    age = generator.normal(50, 10, rows).round(1)
    made = pd.DataFrame({
        "age": np.where(generator.random(rows) < 0.2, np.nan, age),
        "town": pd.Series(towns, dtype=object).where(generator.random(rows) > 0.1),
        "street": [f"street {number}" for number in generator.integers(0, 30, rows)],
        "owner": generator.random(rows) < 0.5,
        "drug": generator.choice(["none", "low", "high"], rows),
    })  # fmt: skip
    return made.assign(days=30 + 0.1 * age + 2 * (made["drug"] == "high") + generator.normal(size=rows))
