"""Ensembles on tables that are read in parts, against those in memory; statistics, checkpoints, errors."""

import re
import warnings
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pyarrow
import pytest

import flax_impl
from flax_impl.data import load_data
from flax_impl.effects import EffectSettings, fit_effects, fit_effects_streamed, load_effect_model
from flax_impl.effects.fit import LOSSES
from flax_impl.effects.prepare import net_config, net_loss, prepare_alike
from flax_impl.effects.streams.prepare import prepare_streamed
from tests.support.interrupted import interrupting
from tests.support.mixed_rows import NAMED, mixed_rows, small
from tests.support.parquet import write
from torch_ref.data import ParquetTable

pytestmark = pytest.mark.filterwarnings("ignore:only .* rows are:UserWarning")


@pytest.mark.parametrize("settings", [{}, {"cfr_weights": True, "bins": 0, "validation_share": 0.0}])
@pytest.mark.usefixtures("x64")
def test_a_table_of_one_window_is_as_in_memory(settings: dict[str, Any], tmp_path: Path) -> None:
    """What is learned from the rows before the training."""
    made = mixed_rows()
    asked = small(dtype="float64", epochs=3, **settings)
    found = prepare_streamed(write(tmp_path, made, 200), asked, **NAMED)
    data = load_data(made, **NAMED)
    [expected] = prepare_alike([data], asked)
    for name in ("x_mean", "x_std", "y_mean", "y_std"):
        of_table, in_memory = getattr(found.prepared.scales, name), getattr(expected.scales, name)
        np.testing.assert_allclose(of_table, in_memory, rtol=1e-12, atol=1e-13)
    assert found.measured.columns == data.columns
    np.testing.assert_allclose(found.table.arrays()["x"], data.x)
    rows = {name: array for name, array in found.table.arrays().items() if name != "t"}
    encoded = found.table.for_batches({**rows, "t": data.t}, "float64")
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(encoded[name], array, rtol=1e-12, atol=1e-12)
    if expected.rows.validation is not None:
        np.testing.assert_array_equal(found.held_out, expected.rows.validation)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_its_nets_are_those_in_memory(tmp_path: Path) -> None:
    """Given the rows in the order of the table."""
    made = mixed_rows()
    asked, data = small(dtype="float64", epochs=3), load_data(made, **NAMED)
    [expected] = prepare_alike([data], asked)
    held_out = expected.rows.validation
    assert held_out is not None
    model = flax_impl.TwoHead(**net_config(expected, asked))
    left = np.arange(len(data))
    params, losses = flax_impl.fit_replicas(
        model, jax.tree.map(lambda leaf: leaf.astype("float64"), model.init_params(range(2))), expected.arrays,
        optimizer=asked.optimizer, loss=LOSSES["FactualLoss"](**net_loss(asked)[1]), seed=[0, 1], progress=False,
        rows=[np.setdiff1d(left, own) for own in held_out],
        validation_rows=held_out, **expected.lengths,
    )  # fmt: skip
    trained = fit_effects_streamed(write(tmp_path, made, 200), asked, progress=False, **NAMED)
    assert trained.training is not None
    np.testing.assert_allclose(trained.training.losses, losses, rtol=1e-12, atol=1e-12)
    outcomes = flax_impl.training.predict_replicas(model, params, expected.arrays["x"])
    np.testing.assert_allclose(
        trained.member_outcomes(data.x), expected.scales.outcome(np.stack(outcomes))[..., 0], rtol=1e-12, atol=1e-12
    )


@pytest.mark.usefixtures("x64")
def test_many_levels_and_several_arms(tmp_path: Path) -> None:
    """A category that nets embed, of which the rarest levels share a column, and codes that look like numbers."""
    draw = np.random.default_rng(0)
    place = [f"place {i}" for i in draw.integers(0, 40, 400)]
    columns = {"place": place, "code": draw.integers(0, 3, 400), "x": draw.normal(size=400)}
    made = pyarrow.table(columns | {"t": draw.integers(0, 3, 400), "y": draw.normal(size=400)})
    asked = small(dtype="float64")
    found = prepare_streamed(write(tmp_path, made, 150), asked, categories=["code"])
    data = load_data(made, categories=["code"])
    [expected] = prepare_alike([data], asked)
    assert found.arms == (0, 1, 2)
    assert net_config(found.prepared, asked, 3) == net_config(expected, asked, 3)
    encoded = found.table.for_batches(found.table.arrays(), "float64")
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(encoded[name], array, rtol=1e-12, atol=1e-12)


def test_all_rows_say_means_and_gaps(tmp_path: Path) -> None:
    """Of 5 rows in a sample: the others' gaps and their levels are found."""
    made = mixed_rows(200)
    with pytest.warns(UserWarning, match="^(in a sample of 9 rows: |the sample lacks some levels)"):
        found = prepare_streamed(write(tmp_path, made, 30, 20), small(validation_share=0.2), sample=9, **NAMED)
    names = [column.name for column in found.measured.columns]
    assert {column.name for column in found.measured.columns if column.gaps} == {"dose", "city"}
    age = np.asarray(made.column("age"), float)
    place = names.index("age")
    np.testing.assert_allclose(found.prepared.scales.x_mean[place], age.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.prepared.scales.x_std[place], age.std(), rtol=1e-12)
    dose = np.array([value for value in made.column("dose").to_pylist() if value is not None], float)
    np.testing.assert_allclose(found.prepared.scales.x_mean[names.index("dose")], dose.mean(), rtol=1e-12)
    assert found.measured.counts.tolist() == [made.column("arm").to_pylist().count(arm) for arm in ("none", "drug")]


def test_rare_levels_and_rare_arms(tmp_path: Path) -> None:
    made = mixed_rows(200)
    city, arm = made.column("city").to_pylist(), made.column("arm").to_pylist()
    numbers, _ = np.random.default_rng(0).choice(200, 60, replace=False, shuffle=False), None
    row = int(np.setdiff1d(np.arange(200), numbers)[0])
    city[row], arm[row] = "Atlantis", "placebo"
    rare = made.set_column(2, "city", pyarrow.array(city))
    named = {"settings": small(), "sample": 60, **NAMED}
    with pytest.warns(UserWarning, match="^the sample lacks some levels, which count as an average one: city in 1 of"):
        prepare_streamed(write(tmp_path / "levels", rare, 50), **named)
    folder = write(tmp_path / "arms", made.set_column(5, "arm", pyarrow.array(arm)), 50)
    expected = (
        f"{folder}/part-0.parquet, row group {row // 50}: column arm: expected one of 'none', 'drug', as in the sample "
        f"that is read first, got 'placebo' in row {row % 50}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        prepare_streamed(folder, **named)


def test_plain_numbers_have_no_design(tmp_path: Path) -> None:
    made = mixed_rows().select(["age", "flag", "arm", "y"])
    found = prepare_streamed(write(tmp_path, made, 50), small(), treatment="arm")
    assert found.measured.design is None
    assert found.prepared.scales.x_mean.shape == (2,)


def test_how_long_nets_train(tmp_path: Path) -> None:
    folder = write(tmp_path, mixed_rows(), 50)
    assert prepare_streamed(folder, small(), **NAMED).prepared.lengths["epochs"] == 300
    found = prepare_streamed(folder, small(epochs=7, patience=3), **NAMED).prepared.lengths
    assert (found["epochs"], found["patience"]) == (7, 3)


def test_an_ensemble_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", mixed_rows(), 50)
    asked = {"settings": small(steps=6), "progress": False, **NAMED}
    whole = fit_effects_streamed(folder, **asked)
    kept = {"checkpoint": tmp_path / "kept", "every": 2}
    with interrupting(after=4):  # three of the first net, and one of the second
        fit_effects_streamed(folder, **asked, **kept)
    again = fit_effects_streamed(folder, **asked, **kept)
    assert whole.training is not None
    assert again.training is not None
    np.testing.assert_array_equal(again.training.losses, whole.training.losses)
    for one, other in zip(again.ensemble.weights, whole.ensemble.weights, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert sorted(path.name for path in (tmp_path / "kept").iterdir() if path.is_dir()) == ["net-0", "net-1"]


def test_a_net_that_diverges_starts_again(tmp_path: Path) -> None:
    folder = write(tmp_path, mixed_rows(), 50)
    fast = small(optimizer=flax_impl.SGD(lr=1e9), steps=40, members=1)
    again = "net 0 diverged, and again with lr=1e+08: "
    with (
        pytest.warns(UserWarning, match=r"^net 0 diverged and starts again, with lr=1e\+08$"),
        pytest.raises(FloatingPointError, match=f"^{re.escape(again)}"),
    ):
        fit_effects_streamed(folder, fast, progress=False, **NAMED)


def test_a_file_of_it_is_as_any_other(tmp_path: Path) -> None:
    made = mixed_rows()
    model = fit_effects_streamed(write(tmp_path, made, 50), small(steps=6), progress=False, **NAMED)
    model.save(tmp_path / "model")
    loaded = load_effect_model(tmp_path / "model")
    assert loaded.arms == ("none", "drug")
    np.testing.assert_array_equal(loaded.effect(made), model.effect(made))
    assert not loaded.has_intervals


SETTINGS: list[tuple[EffectSettings, str]] = [
    (
        small(bootstrap=True),
        "bootstrap: expected False with a table that is read in parts, got True; train on a sample",
    ),
    (
        small(calibrate=True),
        "calibrate: expected False with a table that is read in parts, got True; train on a sample",
    ),
    (small(learners=("nets", "trees")), "learners: expected nets alone with a table that is read in parts, got "),
    (small(batch_size=0), "batch_size: expected a whole number of at least 1, got 0"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_what_needs_rows_in_memory(settings: EffectSettings, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        fit_effects_streamed(write(tmp_path, mixed_rows(), 50), settings, progress=False, **NAMED)


TABLES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"outcome": "z"}, "FOLDER: expected a column 'z', got age, dose, "),
    ({}, {"ignore": ["z"]}, "FOLDER: ignore: expected names of features, each once, got z"),
    ({}, {"control": "cure"}, "FOLDER: control: expected one of 'drug', 'none', got 'cure'"),
    ({}, {"sample": 0}, "sample: expected a whole number of at least 1, got 0"),
    ({"arm": ["none"] * 120}, {}, "FOLDER: treatment: expected at least two arms, got 'none' in every row"),
    ({"age": ["2024-01-31"] * 120}, {}, "FOLDER: column age: expected numbers, truth values or categories, got dates"),
    ({"age": [f"id {i}" for i in range(120)]}, {}, "FOLDER: column age: expected levels that several rows share, got"),
    ({"w": [0.0] * 120}, {}, "FOLDER: column w: expected at least one weight that is not zero, got none"),
    ({"arm": [*["none", "drug"] * 55, *["none"] * 9, None]}, {},
     "FOLDER/part-0.parquet, row group 3: column arm: expected a value in every row, got none in row 29"),
    ({"age": [*[1.0] * 110, *[np.inf] * 10]}, {}, "FOLDER: column age: expected finite numbers, got inf in row 110"),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "asked", "message"), TABLES)
def test_tables_that_cannot_be_used(cells: dict[str, Any], asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = mixed_rows()
    for name, values in cells.items():
        made = made.set_column(made.column_names.index(name), name, pyarrow.array(values))
    folder = write(tmp_path / "rows", made, 30)
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=f"^{re.escape(message.replace('FOLDER', str(folder)))}"),
    ):
        prepare_streamed(folder, small(), **(NAMED | asked))


def test_training_in_memory_says_what_takes_files(tmp_path: Path) -> None:
    table = ParquetTable(write(tmp_path, mixed_rows(), 200), {"x": "age"})
    expected = "^data: expected a TreatmentData, as load_data gives it, got ParquetTable.*; fit_effects_streamed takes "
    with pytest.raises(ValueError, match=expected):
        fit_effects(cast(Any, table))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(tmp_path))}: expected Parquet files, found none$"):
        fit_effects_streamed(tmp_path)
