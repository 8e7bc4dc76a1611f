"""`twohead export`: what it writes, and how it fails."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import flax_impl
from flax_impl.commands import export
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
    assert (folder / "out" / "model.zip").is_file()


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
