"""Exported models give the numbers of `predict`, in processes that have none of our packages."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from flax_impl.effects import EffectModel, fit_effects
from flax_impl.models.layers import ACTIVATIONS
from flax_impl.serving import export_model
from tests.support.served_cases import NAMES, SMALL, Case, cases, table
from tests.support.serving import BLOCK, answers, on_onnx

SIZES = (1, 7, 10_000)
KINDS = (
    "plain", "nets", "calibrated", "trees", "binary", "binary, trees", "targeted", "three arms", "mixed",
    "mixed, plain", "mixed, three arms",
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of the constant column, and of levels not seen
        return cases()


@pytest.fixture(scope="module", params=["onnx", "stablehlo"])
def served(
    request: pytest.FixtureRequest, made: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """What a fresh process says of each case, for batches of each size."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, case in made.items():
        export_model(case.model, folder / f"{name}.file", format=request.param, alpha=case.alpha)
        np.save(folder / f"{name}.npy", case.x)
    return answers(folder, request.param, SIZES)


def expected(case: Case, rows: int) -> dict[str, np.ndarray]:
    """Returns what `twohead predict` writes, by its names."""
    x, model = case.x[:rows], case.model
    outcomes = model.potential_outcomes(x)
    two, (first, *others) = len(model.arms) == 2, model.arms
    found = {
        f"y{arm}" if two else f"y_{label}": y for arm, (label, y) in enumerate(zip(model.arms, outcomes, strict=True))
    }
    for arm, label in enumerate(others, start=1):
        end = "" if two else f"_{label}"
        found[f"effect{end}"] = outcomes[arm] - outcomes[0]
        if model.has_intervals:
            ends = model.effect_interval(x, case.alpha, control=first, treatment=label)
            found[f"low{end}"], found[f"high{end}"] = ends
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_process_says_what_predict_says(
    name: str, made: dict[str, Case], served: dict[str, dict[int, dict[str, np.ndarray]]]
) -> None:
    case = made[name]
    for rows in SIZES:
        wanted, found = expected(case, rows), served[name][rows]
        assert sorted(found) == sorted(wanted)
        for output, values in wanted.items():
            assert found[output].dtype == np.float64
            bound = 1e-6 * (1 if case.model.scales.binary else float(case.model.scales.y_std[0]))
            np.testing.assert_allclose(found[output], values, rtol=0, atol=bound, err_msg=f"{output}, {rows} rows")


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_rows_that_predict_refuses_are_nan_and_no_others(format: str, made: dict[str, Case], tmp_path: Path) -> None:
    case = made["trees"]
    x = case.x[:6].copy()
    x[1, 0], x[2, 4], x[3, 1], x[5, 5] = np.nan, np.inf, -np.inf, 1e300
    for row in (1, 2, 3, 5):
        with pytest.raises((ValueError, FloatingPointError)):
            case.model.effect(x[row : row + 1])
    export_model(case.model, tmp_path / "bad.file", format=format)
    np.save(tmp_path / "bad.npy", x)
    found = answers(tmp_path, format, [6])["bad"][6]
    wanted = expected(Case(case.model, x[[0, 4]]), 2)
    for output, values in wanted.items():
        assert np.isnan(found[output][[1, 2, 3, 5]]).all(), output
        np.testing.assert_allclose(found[output][[0, 4]], values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["elu", "gelu", "identity", "leaky_relu", "relu", "sigmoid", "silu", "tanh"])
def test_each_activation_of_onnx_is_that_of_the_nets(activation: str) -> None:
    x = np.linspace(-30, 30, 4001, dtype=np.float32)[:, None]
    found = on_onnx(
        lambda ops, value: ops.activation(activation, ops.astype(value, np.dtype(np.float32))), x.astype(float)
    )
    np.testing.assert_allclose(found, ACTIVATIONS[activation](x), rtol=3e-7, atol=3e-7)


def test_nets_in_float64_stay_so_in_stablehlo(x64: None, tmp_path: Path) -> None:
    data = table()
    model = fit_effects(data, replace(SMALL, dtype="float64"), progress=False)
    export_model(model, tmp_path / "exact.file", format="stablehlo")
    np.save(tmp_path / "exact.npy", data.x)
    found = answers(tmp_path, "stablehlo", [50])["exact"][50]
    np.testing.assert_allclose(found["effect"], model.effect(data.x[:50]), rtol=0, atol=1e-12 * float(data.y.std()))


def test_the_file_says_what_it_takes(made: dict[str, Case], tmp_path: Path) -> None:
    case = made["calibrated"]
    export_model(case.model, tmp_path / "new" / "model.onnx", alpha=0.2)
    export_model(case.model, tmp_path / "model.zip", format="stablehlo", alpha=0.2)
    graph = onnx.load(tmp_path / "new" / "model.onnx")
    names = list(NAMES)
    assert [one.name for one in graph.graph.input] == names
    assert [one.name for one in graph.graph.output] == ["y0", "y1", "effect", "low", "high"]
    about = json.loads({one.key: one.value for one in graph.metadata_props}["twohead"])
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        assert json.loads(file.read("about.json")) == about
    assert [column["name"] for column in about["columns"]] == names
    assert (about["format"], about["alpha"], about["members"]) == ("twohead-serving/1", 0.2, 3)


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_the_same_model_gives_the_same_bytes(format: str, made: dict[str, Case], tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_model(made["plain"].model, tmp_path / name, format=format)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pickle"}, "format: expected one of 'stablehlo', 'onnx', got 'pickle'"),
        ({"alpha": 1.0}, "alpha: expected a finite number above 0 and below 1, got 1.0"),
        ({"format": "stablehlo", "alpha": 0}, "alpha: expected a finite number above 0 and below 1, got 0"),
    ],
)
def test_unusable_arguments_leave_the_file_as_it_was(
    changes: dict[str, Any], message: str, made: dict[str, Case], tmp_path: Path
) -> None:
    (tmp_path / "model").write_text("older")
    with pytest.raises(ValueError, match=message):
        export_model(made["plain"].model, tmp_path / "model", **changes)
    assert (tmp_path / "model").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "got"), [("y1", "'y1'"), ("", "''"), ("owner", "'owner'")])
def test_columns_whose_names_onnx_cannot_tell_apart(name: str, got: str, made: dict[str, Case], tmp_path: Path) -> None:
    ensemble = made["plain"].model.ensemble
    ensemble = ensemble._replace(feature_names=(name, *ensemble.feature_names[1:]))
    message = f"feature_names: expected different names, none of them y0, y1, effect, got {got}$"
    with pytest.raises(ValueError, match=message):
        export_model(EffectModel(ensemble, made["plain"].model.outputs), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_without_onnx_the_error_names_the_extra(
    made: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"files for ONNX need onnx: pip install 'twohead\[onnx\]'"):
        export_model(made["plain"].model, tmp_path / "model.onnx")
    export_model(made["plain"].model, tmp_path / "model.zip", format="stablehlo")  # needs none
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_the_block_has_teeth(tmp_path: Path) -> None:
    (tmp_path / "model.file").write_bytes(b"")
    with pytest.raises(AssertionError, match="Error"):
        answers(tmp_path, "onnx", [1])
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=("flax_impl",)) + "import flax_impl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ModuleNotFoundError" in done.stderr or "import of flax_impl halted" in done.stderr
