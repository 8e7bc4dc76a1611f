"""Effects of a table that is written part by part: the numbers of a table in memory, in its order."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow.parquet import read_table, write_table

from flax_impl.data import load_data
from flax_impl.effects import EffectModel, fit_effects
from flax_impl.effects.streams import outcomes
from flax_impl.effects.streams.outcomes import effect_columns, write_effects
from tests.support.mixed_rows import NAMED, mixed_rows, small
from tests.support.parquet import write


@pytest.fixture(scope="module")
def model() -> EffectModel:
    return fit_effects(load_data(mixed_rows(), **NAMED), small(epochs=1, bootstrap=True), progress=False)


@pytest.mark.parametrize("part", [16, 65_536])
def test_the_numbers_of_a_table_in_memory(
    model: EffectModel, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "PART", part)
    made = mixed_rows(75, seed=1)
    expected, effects = effect_columns(model, made)
    folder = write(tmp_path / "rows", made, 20, 7)
    written = write_effects(model, folder, tmp_path / "out.parquet")
    assert (written.rows, list(written.means)) == (75, ["drug"])
    np.testing.assert_allclose(written.means["drug"], effects["drug"].mean(), rtol=1e-6)
    assert written.lines(model.arms) == [f"75 rows, mean of the rows' effects {written.means['drug']:.4g}"]
    found = read_table(tmp_path / "out.parquet")
    assert found.column_names == ["row", "y0", "y1", "effect", "low", "high"]
    assert found.column("row").to_pylist() == list(range(75))
    for name, array in expected.items():
        np.testing.assert_allclose(found.column(name).to_numpy(), array, rtol=1e-5, atol=1e-6)
    write_effects(model, folder, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in found.column_names:
        assert [float(row[name]) for row in rows] == found.column(name).to_pylist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.parquet", "rows"]


def test_levels_that_training_did_not_see_are_said_once(model: EffectModel, tmp_path: Path) -> None:
    made = mixed_rows(60)
    city = pyarrow.array([*made.column("city").to_pylist()[:-2], "Ur", "Ur"])
    folder = write(tmp_path / "rows", made.set_column(2, "city", city), 20)
    with pytest.warns(UserWarning, match=r"which count as an average one: city in 2 of 60 rows$") as said:
        write_effects(model, folder, tmp_path / "out.parquet")
    assert len(said) == 1


CELLS: list[tuple[str, Any, str]] = [
    ("age", None, "rows/part-0.parquet, row group 2: column age: expected a number in every row, as in training, got "),
    ("city", 1.5, "rows/part-0.parquet, row group 0: column city: expected categories of text, as in training, got "),
]


@pytest.mark.parametrize(("name", "cell", "message"), CELLS)
def test_a_failure_leaves_the_file_as_it_was(
    model: EffectModel, name: str, cell: Any, message: str, tmp_path: Path
) -> None:
    made = mixed_rows(60)
    cells = [1.0] * 60 if cell else made.column(name).to_pylist()
    cells[45] = cell
    folder = write(tmp_path / "rows", made.set_column(made.column_names.index(name), name, pyarrow.array(cells)), 20)
    (tmp_path / "out.parquet").write_text("before")
    with pytest.raises(ValueError, match=message):
        write_effects(model, folder, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "rows"]


def test_a_column_that_is_missing(model: EffectModel, tmp_path: Path) -> None:
    write_table(mixed_rows().drop_columns(["dose"]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet: expected the column dose once, got age, city"):
        write_effects(model, tmp_path / "rows.parquet", tmp_path / "out.parquet")
