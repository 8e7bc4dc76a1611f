"""Exported models give the numbers of `predict`, in processes that have none of our packages."""

import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from flax_impl.data import synthetic
from flax_impl.effects import EffectModel, EffectSettings, fit_effects
from flax_impl.models.layers import ACTIVATIONS
from flax_impl.serving import export_model
from flax_impl.serving.planning import make_plan
from flax_impl.serving.program import run
from tests.support.served_cases import NAMES, NEAR, SMALL, Case, asked, make_case, table
from tests.support.serving import BLOCK, answers, on_jax, on_onnx

SIZES = (1, 10_000)
KINDS = ("binary, trees, calibrated", "mixed, trees, three arms, calibrated")
MORE = (
    "plain", "binary", "calibrated", "targeted", "trees, calibrated", "trees, three arms, calibrated", "mixed",
    "mixed, plain", "mixed, trees",
)  # fmt: skip
Answers = dict[str, dict[int, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def made() -> dict[str, Case]:
    """Models of the kinds that the quick suite looks at."""
    return make(KINDS)


@pytest.fixture(scope="module", params=["onnx", "stablehlo"])
def served(request: pytest.FixtureRequest, made: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What a fresh process says of each case, for batches of each size, and of rows that `predict` refuses."""
    return serve(made | {"refused": refused(made)}, tmp_path_factory.mktemp(request.param), request.param)


def refused(made: dict[str, Case]) -> Case:
    """Returns rows of which only the first and the fifth can be used."""
    model, x, _ = made["binary, trees, calibrated"]
    x = x[:6].copy()
    x[1, 0], x[2, 4], x[3, 1], x[5, 5] = np.nan, np.inf, -np.inf, 1e300
    return Case(model, x)


def make(kinds: Sequence[str]) -> dict[str, Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a constant column, levels that only new rows have
        return {kind: make_case(kind) for kind in kinds}


def serve(made: dict[str, Case], folder: Path, format: str) -> Answers:
    for name, case in made.items():
        export_model(case.model, folder / f"{name}.file", format=format, alpha=case.alpha)
        np.save(folder / f"{name}.npy", case.x)
    return answers(folder, format, SIZES)


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


def compare(case: Case, found: dict[int, dict[str, np.ndarray]]) -> tuple[float, float]:
    """Returns how far outcomes and effects, and ends, lie from those of `predict`, in deviations of the outcome.

    Within a millionth; ends, which are a multiple of the nets' spread, within as many millionths. Far off, within what
    float32 leaves of large numbers.
    """
    scales, worst = case.model.scales, {False: 0.0, True: 0.0}
    multiple = max([1.0, *(margin.factor for margin in make_plan(case.model, case.alpha).margins or ())])
    for rows, said in found.items():
        wanted = expected(case, rows)
        assert sorted(said) == sorted(wanted)
        outcomes = np.stack([values for output, values in wanted.items() if output.startswith("y")])
        away = np.abs((outcomes - scales.y_mean[0]) / scales.y_std[0]).max(axis=0)
        size = np.where(np.arange(rows) < NEAR, 1.0, 10 * np.maximum(away, 1))
        for output, values in wanted.items():
            assert said[output].dtype == np.float64
            is_end = output.startswith(("low", "high"))
            apart = np.abs(said[output] - values) / (1 if scales.binary else scales.y_std[0]) / size
            worst[is_end] = max(worst[is_end], float(apart.max()))
            bound = 1e-6 * (multiple if is_end else 1)
            assert not (apart > bound).any(), (output, rows, float(apart[:NEAR].max()), float(apart.max()))
    return worst[False], worst[True]


def line(kind: str, apart: tuple[float, float]) -> str:
    return f"exported, {kind}: {apart[0]:.1e} of the outcome's deviation, ends {apart[1]:.1e}"


@pytest.mark.filterwarnings("ignore:training did not see some levels")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_process_says_what_predict_says(
    kind: str, made: dict[str, Case], served: Answers, measured: list[str]
) -> None:
    measured.append(line(kind, compare(made[kind], served[kind])))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training did not see some levels")
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_so_it_does_of_models_of_more_kinds(format: str, tmp_path: Path, measured: list[str]) -> None:
    made = make(MORE)
    found = serve(made, tmp_path, format)
    for kind, case in made.items():
        measured.append(line(f"{kind}, {format}", compare(case, found[kind])))


def test_rows_that_predict_refuses_are_nan_and_no_others(made: dict[str, Case], served: Answers) -> None:
    case, found = refused(made), served["refused"][SIZES[-1]]
    for row in (1, 2, 3, 5):
        with pytest.raises((ValueError, FloatingPointError)):
            case.model.effect(case.x[row : row + 1])
    for output, values in expected(Case(case.model, case.x[[0, 4]]), 2).items():
        assert np.isnan(found[output][[1, 2, 3, 5]]).all(), output
        np.testing.assert_allclose(found[output][[0, 4]], values, rtol=0, atol=1e-5)


def test_codes_and_gaps_that_predict_refuses_are_nan(made: dict[str, Case]) -> None:
    """A gap where training had none, infinity where it had gaps, and codes of no level."""
    case = made["mixed, trees, three arms, calibrated"]
    x = np.repeat(case.x[:1], 7, axis=0)
    x[0, 1], x[1, 0], x[2, 2], x[3, 2], x[4, 4], x[5, 5] = np.nan, np.inf, 3.0, 0.5, -2.0, 25.0
    found = on_jax(lambda ops, value: run(ops, make_plan(case.model, 0.05), value)["effect_dose 2"], x)
    np.testing.assert_array_equal(np.isnan(found), [True] * 6 + [False])
    for row in range(6):
        with pytest.raises(ValueError, match=r"^column \w+: expected "):
            case.model.numbers(x[row : row + 1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_of_onnx_is_that_of_the_nets(activation: str) -> None:
    x = np.linspace(-30, 30, 4001, dtype=np.float32)[:, None]
    found = on_onnx(
        lambda ops, value: ops.activation(activation, ops.astype(value, np.dtype(np.float32))), x.astype(float)
    )
    np.testing.assert_allclose(found, ACTIVATIONS[activation](jnp.asarray(x)), rtol=3e-7, atol=3e-7)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_so_it_does_of_nets_and_trees_of_the_usual_size(format: str, tmp_path: Path, measured: list[str]) -> None:
    data = synthetic(rows=500, features=12)
    settings = EffectSettings(members=5, epochs=30, bootstrap=True, calibrate=True, learners=("nets", "trees"))
    model = fit_effects(data, settings, progress=False)
    case = Case(model, asked(data))
    measured.append(line(f"usual size, {format}", compare(case, serve({"usual": case}, tmp_path, format)["usual"])))


@pytest.mark.slow
def test_nets_in_float64_stay_so_in_stablehlo(x64: None, tmp_path: Path) -> None:
    data = table().take(np.arange(60))
    data = replace(data, x=data.x[:, :3], feature_names=NAMES[:3])
    model = fit_effects(data, replace(SMALL, dtype="float64"), progress=False)
    export_model(model, tmp_path / "exact.file", format="stablehlo")
    np.save(tmp_path / "exact.npy", data.x)
    found = answers(tmp_path, "stablehlo", [60])["exact"][60]
    np.testing.assert_allclose(found["effect"], model.effect(data.x), rtol=0, atol=1e-12 * float(data.y.std()))


def test_the_file_says_what_it_takes(made: dict[str, Case], tmp_path: Path) -> None:
    case = made["binary, trees, calibrated"]
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
        export_model(made["binary, trees, calibrated"].model, tmp_path / name, format=format)
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
        export_model(made["binary, trees, calibrated"].model, tmp_path / "model", **changes)
    assert (tmp_path / "model").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "got"), [("y1", "'y1'"), ("", "''"), ("owner", "'owner'")])
def test_columns_whose_names_onnx_cannot_tell_apart(name: str, got: str, made: dict[str, Case], tmp_path: Path) -> None:
    ensemble = made["binary, trees, calibrated"].model.ensemble
    ensemble = ensemble._replace(feature_names=(name, *ensemble.feature_names[1:]))
    message = f"feature_names: expected different names, none of them y0, y1, effect, low, high, got {got}$"
    with pytest.raises(ValueError, match=message):
        export_model(EffectModel(ensemble, made["binary, trees, calibrated"].model.outputs), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_without_onnx_the_error_names_the_extra(
    made: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"files for ONNX need onnx: pip install 'twohead\[onnx\]'"):
        export_model(made["binary, trees, calibrated"].model, tmp_path / "model.onnx")
    export_model(made["binary, trees, calibrated"].model, tmp_path / "model.zip", format="stablehlo")  # needs none
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
