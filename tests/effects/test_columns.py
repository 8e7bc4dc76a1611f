"""Tables as they are: text, categories, truth values and gaps, from training to a file and to new rows."""

import csv
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import flax_impl
from flax_impl.commands.predict import main
from flax_impl.commands.torch_effects import load_nets
from flax_impl.effects import EffectReport, EffectSettings, TwoHeadEstimator, fit_effects, load_effect_model
from flax_impl.effects.judging.fresh_rows import score_effects
from flax_impl.effects.learners import trees as of_trees
from flax_impl.effects.overlap import examine
from flax_impl.effects.prepare import prepare
from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import finite_features
from torch_ref.common.files.array_file import read_arrays, write_arrays
from torch_ref.data import TreatmentData

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "representation_features": (8,), "head_features": (8,), "members": 2, "epochs": 3, "batch_size": 30,
}  # fmt: skip
SMALL = EffectSettings(**TINY)


def frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """Ages with gaps, cities as text, a grade of three, whether somebody owns a dog, and a town of 25."""
    generator = np.random.default_rng(seed)
    town = generator.integers(0, 25, rows)
    town[:25] = np.arange(25)
    return pd.DataFrame(
        {
            "age": np.where(generator.random(rows) < 0.3, np.nan, generator.normal(50, 10, rows)),
            "city": np.array(["Bonn", "Oslo", "Rome"])[generator.integers(0, 3, rows)],
            "grade": pd.Categorical(
                [None if drawn < 0.1 else "low" for drawn in generator.random(rows)], categories=["low", "high"]
            ),
            "dog": generator.random(rows) < 0.5,
            "town": [f"town {number}" for number in town],
            "height": generator.normal(170, 10, rows),
        }
    )


def outcomes(table: pd.DataFrame, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The outcome and the treatment, whose effect is 3 where the age is missing, and 0 elsewhere."""
    generator = np.random.default_rng(seed)
    t = generator.integers(0, 2, len(table))
    city = (table["city"] == "Oslo").to_numpy(float) - (table["city"] == "Rome").to_numpy(float)
    effect = np.where(table["age"].isna(), 3.0, 0.0)
    return city + effect * t + generator.normal(0, 0.1, len(table)), t


TABLE = frame()
Y, T = outcomes(TABLE)
NEW = frame(40, seed=1)
NEW.loc[3, "city"], NEW.loc[5, "city"], NEW.loc[5, "town"] = "Paris", None, "town 99"
UNSEEN = "training did not see some levels, which count as an average one: city in 2 of 40 rows, town in 1 of 40 rows"


@pytest.fixture(scope="module")
def fitted() -> Any:
    return TwoHeadEstimator(**TINY).fit(TABLE, Y, treatment=T)


def quiet_effect(model: Any, table: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training did not see some levels")
        return model.effect(table)


def test_what_the_model_knows_of_its_columns(fitted: Any) -> None:
    columns = fitted.effect_model_.columns
    assert [column.name for column in columns] == list(TABLE)
    assert columns[:4] == (
        Column("age", None, True), Column("city", ("Bonn", "Oslo", "Rome")), Column("grade", ("low",), True),
        Column("dog"),
    )  # fmt: skip
    assert len(columns[4].levels) == 25
    [x] = [fitted.effect_model_.numbers(TABLE[:1])]
    assert x.shape == (1, 6)


def test_pandas_polars_and_pyarrow_give_the_same_numbers(fitted: Any) -> None:
    expected = quiet_effect(fitted, NEW)
    tables = [pl.from_pandas(NEW), pa.Table.from_pandas(NEW, preserve_index=False)]
    for table in tables:
        np.testing.assert_array_equal(quiet_effect(fitted, table), expected)
        np.testing.assert_array_equal(quiet_effect(fitted.effect_model_, table), expected)
    shuffled = NEW[["town", "dog", "height", "grade", "city", "age"]].assign(more=1)
    np.testing.assert_array_equal(quiet_effect(fitted.effect_model_, shuffled), expected)  # found by name
    again = TwoHeadEstimator(**TINY).fit(pl.from_pandas(TABLE), Y, treatment=T)
    np.testing.assert_array_equal(quiet_effect(again, NEW), expected)


def test_an_unseen_level_is_said_once() -> None:
    model = TwoHeadEstimator(**TINY).fit(TABLE, Y, treatment=T).effect_model_
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for method in (model.effect, model.ate, model.potential_outcomes):
            method(NEW)
    assert [str(warning.message) for warning in caught] == [UNSEEN]
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="city in 1 of 4 rows$"):
        model.effect(NEW[:4])


def test_an_unseen_level_tells_nothing(fitted: Any) -> None:
    """Two of them are alike, and like no other level."""
    row = TABLE.dropna(subset="age")[:1]
    kinds = pd.concat([row.assign(city=city) for city in ("Paris", "London", "Bonn", "Oslo", "Rome")])
    paris, london, *seen = quiet_effect(fitted, kinds)
    assert paris == london
    assert min(abs(np.array(seen) - paris)) > 0


CHANGES = [
    ({"dog": None}, "expected the columns that the model was trained on, but dog are missing"),
    ({"height": np.nan}, "column height: expected a number in every row, as in training, got none"),
    ({"height": "tall"}, "column height: expected numbers, as in training, got text: 'tall' in row 0"),
    ({"city": 1.0}, "column city: expected categories of text, as in training, got numbers: 1.0 in"),
    ({"age": np.inf}, "column age: expected finite numbers, got inf in row 0"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=range(len(CHANGES)))
def test_tables_unlike_those_of_the_training(fitted: Any, change: Any, message: str) -> None:
    table = TABLE.assign(**change).dropna(axis=1, how="all") if None in change.values() else TABLE.assign(**change)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        fitted.effect_model_.effect(table)


def test_the_order_of_columns_is_scikit_learns(fitted: Any) -> None:
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        fitted.predict(TABLE[["city", "age", "grade", "dog", "town", "height"]])


# Arrays


def test_arrays_with_gaps(fitted: Any) -> None:
    x = TABLE[["age", "height"]].to_numpy()
    estimator = TwoHeadEstimator(**TINY).fit(x, Y, treatment=T)
    assert estimator.effect_model_.columns == (Column("x1", None, True), Column("x2"))
    named = TwoHeadEstimator(**TINY).fit(TABLE[["age", "height"]], Y, treatment=T)
    np.testing.assert_array_equal(named.effect(TABLE[["age", "height"]]), estimator.effect(x))
    x[2, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"^column x2: expected a number in every row, as in training, got nan in row 2$"
    ):
        estimator.effect(x)
    x[2] = np.inf
    for call in (estimator.effect, lambda x: TwoHeadEstimator(**TINY).fit(x, Y, treatment=T)):
        with pytest.raises(ValueError, match="infinity"):
            call(x)


def test_no_gaps_in_training_and_none_later() -> None:
    x = TABLE[["height"]].to_numpy()
    estimator = TwoHeadEstimator(**TINY).fit(x, Y, treatment=T)
    assert estimator.effect_model_.columns is None
    with pytest.raises(ValueError, match=r"^X: expected finite numbers, got nan in row 0, column 0 \(2 in all\)$"):
        estimator.effect(np.full((2, 1), np.nan))


def test_numbers_of_the_table_are_the_array(fitted: Any) -> None:
    model = fitted.effect_model_
    np.testing.assert_array_equal(model.effect(model.numbers(TABLE)), model.effect(TABLE))


def test_a_table_of_numbers_alone_is_as_its_array() -> None:
    numbers = TABLE[["height", "dog"]]
    expected = TwoHeadEstimator(**TINY).fit(numbers.to_numpy(float), Y, treatment=T)
    found = TwoHeadEstimator(**TINY).fit(numbers, Y, treatment=T)
    assert found.effect_model_.columns is None
    np.testing.assert_array_equal(found.effect(numbers), expected.effect(numbers.to_numpy(float)))
    np.testing.assert_array_equal(found.effect_model_.effect(pl.from_pandas(numbers)), found.effect(numbers))


# What nets, trees and propensities see


def test_the_columns_of_nets() -> None:
    x = np.array([[0, np.nan], [1, 5.0], [2, 7.0], [0, 6.0]] * 10)
    columns = (Column("city", ("a", "b", "c")), Column("age", gaps=True))
    data = TreatmentData(x, np.arange(40) // 20, np.arange(40.0)[:, None], columns=columns)
    made = prepare(data, EffectSettings(members=2, dtype="float64"))
    assert made.design is not None
    assert made.encoding is not None
    assert made.encoding.widths.tolist() == [4, 1, 1, 1]
    assert made.scales.x_mean.tolist() == [6.0, 0.25, 0.25, 0.25]
    np.testing.assert_array_equal(np.isnan(made.arrays["x"]).any(axis=0), [True, False, False, False])


def test_a_table_of_nothing_but_towns() -> None:
    estimator = TwoHeadEstimator(**TINY).fit(TABLE[["town"]], Y, treatment=T)
    assert estimator.effect(TABLE[["town"]]).shape == (len(TABLE),)
    assert len(set(estimator.effect(TABLE[["town"]]).tolist())) == 25


def test_gaps_and_categories_that_determine_the_treatment() -> None:
    t, y = np.array([0, 0, 1, 1] * 10), np.arange(40.0)[:, None]
    columns = (Column("a", gaps=True), Column("b", (0, 1, 2, 3)))
    gaps, levels = np.where(t == 1, np.nan, np.arange(40.0)), np.tile([0.0, 2, 1, 3], 10)
    said = "the treatment is determined by {}: no row says what it would have had in the other arm"
    data = TreatmentData(np.stack([gaps, levels], 1), t, y, columns=columns)
    assert examine(data) == [said.format("a, b")]
    data.x[0] = np.nan, 1.0
    assert examine(data) == []
    data.x[:, 0], data.x[:, 1] = np.nan, 2
    assert examine(data) == ["constant columns tell nothing: a, b"]


def test_missing_values_that_move_the_effect_are_found() -> None:
    settings = {**TINY, "epochs": 40, "optimizer": flax_impl.AdamW(lr=0.02), "bins": 4}
    estimator = TwoHeadEstimator(**settings).fit(TABLE, Y, treatment=T)
    effect, gone = estimator.effect(TABLE), TABLE["age"].isna().to_numpy()
    assert effect[gone].mean() == pytest.approx(3, abs=0.5)
    assert effect[~gone].mean() == pytest.approx(0, abs=0.3)


@pytest.mark.filterwarnings("ignore:poor overlap:UserWarning")  # a town has few rows
def test_trees_and_averages_see_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(of_trees._SETTINGS, "iterations", 5)
    settings = {**TINY, "members": 5, "learners": ("nets", "trees")}
    estimator = TwoHeadEstimator(**settings).fit(TABLE, Y, treatment=T)
    found = estimator.average_effects()
    assert found.ate.value == pytest.approx(3 * TABLE["age"].isna().mean(), abs=0.3)
    assert "RATE of the effects' ranking" in str(estimator.report())
    table, model = estimator._table_of_fit, estimator.effect_model_
    low, high = model.difference_interval(table, TABLE[:5])
    assert (low < high).all()
    effect = model.effect(TABLE)[None]
    assert score_effects(effect, table, "dr_loss") > score_effects(-effect, table, "dr_loss")
    estimator.save(tmp_path / "estimator")
    again = TwoHeadEstimator.load(tmp_path / "estimator")
    np.testing.assert_array_equal(quiet_effect(again, NEW), quiet_effect(estimator, NEW))
    assert again.effect_model_.columns == model.columns


def test_half_the_rows_lack_levels() -> None:
    """Intervals are calibrated on them: of the towns, the last is in a single row."""
    table = TABLE.assign(town=np.where(np.arange(len(TABLE)) == 7, "far away", TABLE["town"]))
    estimator = TwoHeadEstimator(**{**TINY, "members": 5, "calibrate": True}).fit(table, Y, treatment=T)
    low, high = estimator.effect_interval(table)
    assert (low < high).all()


def test_data_with_columns() -> None:
    """As `load_data` gives it."""
    data = flax_impl.data.load_data(TABLE.assign(t=T, y=Y))
    model = fit_effects(data, SMALL, progress=False)
    expected = TwoHeadEstimator(**TINY).fit(TABLE, Y, treatment=T)
    np.testing.assert_array_equal(model.effect(TABLE), expected.effect(TABLE))
    np.testing.assert_array_equal(model.effect(data.x), expected.effect(TABLE))
    assert EffectReport.of(model, data).held_out.size


# Files


PROGRAM = """
import sys
import numpy as np
import pandas as pd
from flax_impl.effects import load_effect_model
model = load_effect_model(sys.argv[1])
print(*model.effect(pd.read_parquet(sys.argv[2])))
"""


def test_another_process_predicts_from_a_raw_table(fitted: Any, tmp_path: Path) -> None:
    path, expected = tmp_path / "effects.safetensors", quiet_effect(fitted, NEW)
    fitted.save(path)
    np.testing.assert_array_equal(quiet_effect(load_effect_model(path), NEW), expected)
    np.testing.assert_allclose(quiet_effect(load_nets(path), NEW), expected, rtol=1e-5, atol=1e-5)
    NEW.to_parquet(tmp_path / "new.parquet")
    command = [sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "new.parquet")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.array(done.stdout.split(), float), expected, rtol=1e-6)
    assert UNSEEN in done.stderr


@pytest.mark.filterwarnings("always:training did not see some levels")
def test_the_command_predicts_from_a_raw_table(fitted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted.save(tmp_path / "model")
    NEW.to_csv(tmp_path / "new.csv", index=False)
    files = {"model": "model", "data": "new.csv", "out": "out.csv"}
    assert main([f"--{name}={tmp_path / path}" for name, path in files.items()]) == 0
    assert capsys.readouterr().err == f"warning: {UNSEEN}\n"
    with (tmp_path / "out.csv").open() as file:
        effects = [float(row["effect"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(effects, quiet_effect(fitted, NEW), rtol=1e-6)


def test_older_files(tmp_path: Path) -> None:
    x = TABLE[["height"]].to_numpy()
    made = TwoHeadEstimator(**TINY).fit(x, Y, treatment=T)
    made.save(path := tmp_path / "estimator")
    arrays, metadata = read_arrays(path)
    for name in ("columns", "arms"):
        del metadata[name]
    write_arrays(path, arrays, metadata | {"format": "effects/2"})
    np.testing.assert_array_equal(load_effect_model(path).effect(x), made.effect(x))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("design.source", np.zeros(3, np.int64), "design.meaning: expected shape"),
        ("design.meaning", None, "expected 'design.meaning' in it, found none"),
        ("design.mean", "nan", "design.mean: expected finite numbers, got nan in row 0"),
    ],
)
def test_a_damaged_file(fitted: Any, tmp_path: Path, name: str, value: Any, message: str) -> None:
    fitted.save(path := tmp_path / "estimator")
    arrays, metadata = read_arrays(path)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = np.full_like(arrays[name], np.nan) if isinstance(value, str) else value
    write_arrays(path, arrays, metadata)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_effect_model(path)


def test_nets_see_acic2016_as_columns_made_by_hand() -> None:
    datasets = pytest.importorskip("causallib.datasets")
    made = datasets.load_acic16(instance=1)  # pandas' dummies, without the first level
    data = flax_impl.data.load_data("acic2016:1")
    by_hand = TreatmentData(made.X.to_numpy(float), data.t, data.y)
    settings = EffectSettings(members=1)
    found, expected = prepare(data, settings), prepare(by_hand, settings)
    for name in ("x_mean", "x_std"):
        np.testing.assert_array_equal(getattr(found.scales, name), getattr(expected.scales, name))
    np.testing.assert_array_equal(found.arrays["x"], expected.arrays["x"])
    assert found.encoding is not None
    assert expected.encoding is not None
    np.testing.assert_array_equal(found.encoding.widths, expected.encoding.widths)
    np.testing.assert_array_equal(finite_features(data), by_hand.x)
