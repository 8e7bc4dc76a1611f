"""Files of models whose content was changed and signed again: one line that names the place, and no wrong number."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flax_impl.effects import TwoHeadEstimator, load_effect_model
from torch_ref.common.files.array_file import read_arrays, write_arrays

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the words of a model of a number with gaps, a number, and a category."""
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"age": generator.normal(size=80), "dose": generator.normal(size=80), "city": ["a", "b"] * 40})
    table.loc[::7, "age"] = np.nan
    t, y = generator.integers(0, 2, 80), generator.normal(size=80)
    settings: dict[str, Any] = {"members": 2, "steps": 2, "bootstrap": True, "calibrate": True}
    settings |= {"representation_features": (4,), "head_features": (4,), "bins": 3}
    path = tmp_path_factory.mktemp("models") / "model"
    TwoHeadEstimator(**settings).fit(table, y, treatment=t).save(path)
    return read_arrays(path)


def refusal(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> str:
    """What reading the file says, without the file's name."""
    write_arrays(path, arrays, metadata)
    with pytest.raises(ValueError, match="expected") as caught:
        load_effect_model(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


FLOATS = ("scales.x_mean", "scales.x_std", "scales.y_mean", "scales.y_std", "encoding.values", "encoding.normals")
FLOATS += ("encoding.knots", "design.mean", "design.std", "calibration")
COUNTS = ("encoding.points", "encoding.ends", "encoding.widths", "design.source", "design.meaning")


@pytest.mark.parametrize("name", FLOATS)
def test_numbers_that_are_none(tmp_path: Path, stored: Any, name: str) -> None:
    arrays, metadata = stored
    for changed in (np.full_like(arrays[name], np.nan), np.ones(arrays[name].shape, np.int64)):
        assert name.removeprefix("scales.") in refusal(tmp_path / "model", arrays | {name: changed}, metadata)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_do_not_fit(tmp_path: Path, stored: Any, name: str) -> None:
    arrays, metadata = stored
    for changed in (
        arrays[name] + 0.5,
        arrays[name] - 9,
        arrays[name][:-1],
        arrays[name][None],
        arrays[name] * 1000 + 7,
    ):
        assert "expected" in refusal(tmp_path / "model", arrays | {name: changed}, metadata)


@pytest.mark.parametrize("name", ["encoding.values", "encoding.knots", "design.source", "design.meaning"])
def test_arrays_in_another_order(tmp_path: Path, stored: Any, name: str) -> None:
    arrays, metadata = stored
    assert name.split(".")[0] in refusal(tmp_path / "model", arrays | {name: arrays[name][::-1].copy()}, metadata)


@pytest.mark.parametrize("name", ["scales.x_std", "scales.y_std", "design.std"])
def test_scales_of_zero(tmp_path: Path, stored: Any, name: str) -> None:
    arrays, metadata = stored
    found = refusal(tmp_path / "model", arrays | {name: 0 * arrays[name]}, metadata)
    assert found == f"{name.removeprefix('scales.')}: expected float64 above 0, got float64 down to 0"


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([0], "[0]"),
        ([1, 1], "[1, 1]"),
        ([[0], [1]], "[[0], [1]]"),
        ([None, 1], "[None, 1]"),
        ("ab", "'ab'"),
        (None, "None"),
    ],
)
def test_arms_that_are_none(tmp_path: Path, stored: Any, labels: Any, got: str) -> None:
    arrays, metadata = stored
    found = refusal(tmp_path / "model", arrays, metadata | {"arms": labels})
    assert found == f"arms: expected at least two different labels, got {got}"


def test_more_arms_than_heads(tmp_path: Path, stored: Any) -> None:
    arrays, metadata = stored
    arrays = {name: array for name, array in arrays.items() if name != "calibration"}
    found = refusal(tmp_path / "model", arrays, metadata | {"arms": [0, 1, 2]})
    assert found == "arms: expected 2 of them, as the nets have heads, got 3"


@pytest.mark.parametrize(
    ("column", "changed", "message"),
    [
        (2, {"levels": ["a", "a"]}, "columns: expected different texts or numbers for levels of city, got ['a', 'a']"),
        (2, {"levels": ["a", 1]}, "columns: expected different texts or numbers for levels of city, got ['a', 1]"),
        (2, {"levels": []}, "columns: expected different texts or numbers for levels of city, got []"),
        (2, {"levels": ["a", "b", "c"]}, "design.meaning: expected entries of column city, got 0, 1"),
        (2, {"levels": ["a"]}, "design.meaning: expected entries of column city, got 0, 1"),
        (2, {"levels": None}, "design.meaning: expected entries of column city, got 0, 1"),
        (0, {"levels": ["a"]}, "design.meaning: expected entries of column age, got -1, -2"),
        (0, {"gaps": False}, "design.meaning: expected entries of column age, got -1, -2"),
        (1, {"gaps": True}, "design.meaning: expected entries of column dose, got -1"),
        (1, {"gaps": "no"}, "columns: expected a name, and whether it has gaps, got 'dose' and 'no'"),
        (1, {"name": "weight"}, "columns: expected age, dose, city, got age, weight, city"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, stored: Any, column: int, changed: Any, message: str) -> None:
    arrays, metadata = stored
    columns = [dict(one) for one in metadata["columns"]]
    columns[column] |= changed
    assert refusal(tmp_path / "model", arrays, metadata | {"columns": columns}) == message


def test_words_that_are_missing(tmp_path: Path, stored: Any) -> None:
    arrays, metadata = stored
    for word in ("in_features", "activation", "final_activation"):
        config = {name: value for name, value in metadata["config"].items() if name != word}
        found = refusal(tmp_path / "model", arrays, metadata | {"config": config})
        assert found == f"expected {word!r} in it, found none"
