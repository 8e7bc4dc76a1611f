"""Predictions for tables of files: those of `predict`, in the table's order, and a file that is whole or not there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow.parquet import ParquetFile, read_table

import flax_impl
import torch_ref
from tests.support.parquet import opened, rows_of, write
from torch_ref.data import ParquetTable


def predicted(backend: str, table: Any, path: Path, model: str = "TwoHead", **settings: Any) -> tuple[Path, Any]:
    """Writes predictions; returns the path, and those that `predict` gives in memory."""
    config: dict[str, Any] = {"in_features": 3, "representation_features": [5], "head_features": [4], "out_features": 2}
    made = getattr(flax_impl if backend == "flax" else torch_ref, model)(
        **(config if model == "TwoHead" else {"hidden_features": [4]})
    )
    names = ["x"] if model == "TwoHead" else ["x1", "x2"]
    inputs = [table.arrays("float32")[name] for name in names]
    if backend == "flax":
        params = made.init_params(seed=0)
        expected = flax_impl.predict(made, params, *inputs)
        return flax_impl.training.predict_table(made, params, table, path, **settings), expected
    return torch_ref.training.predict_table(made, table, path, **settings), torch_ref.predict(made, *inputs)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_they_are_those_of_predict(backend: str, tmp_path: Path) -> None:
    table = opened(tmp_path / "rows", 23, 31)
    path, expected = predicted(backend, table, tmp_path / "out" / "found.parquet", batch_size=50)
    found = read_table(path)
    assert found.column_names == ["y0_0", "y0_1", "y1_0", "y1_1"]
    for name, column in zip(found.column_names, np.hstack(expected).T, strict=True):
        np.testing.assert_allclose(found[name].to_numpy(), column, rtol=1e-6, atol=1e-6)
    with ParquetFile(path) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(5)] == [50, 50, 50, 50, 3]
    assert [file.name for file in path.parent.iterdir()] == ["found.parquet"]


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_two_inputs_and_names(backend: str, tmp_path: Path) -> None:
    table = ParquetTable(write(tmp_path / "rows", rows_of(), 60), {"x1": "a", "x2": "b"})
    path, (first, second) = predicted(backend, table, tmp_path / "y.parquet", "TwoInTwoOut", names=("first", "second"))
    found = read_table(path)
    for name, output in (("first", first), ("second", second)):
        np.testing.assert_allclose(found[name].to_numpy(), output[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_what_is_refused_leaves_no_file(backend: str, tmp_path: Path) -> None:
    table, target = opened(tmp_path / "rows", 60), tmp_path / "y.parquet"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"names": ("one",)}, "names: expected a name for each of 2 outputs, got ('one',)"),
        ({"names": ("one", "one")}, "names: expected a name for each of 2 outputs, got ('one', 'one')"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
    ]
    for settings, message in refused:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            predicted(backend, table, target, **settings)
    part = tmp_path / "rows" / "part-0.parquet"
    whole = table.arrays("float32")

    class Kept(ParquetTable):
        """The table, whose rows in memory are those before its file was cut off."""

        def arrays(self, dtype: str = "float32") -> dict[str, np.ndarray]:
            return whole

    kept = Kept(table.source, table.columns)
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(ValueError, match="expected a whole Parquet file, got "):
        predicted(backend, kept, target)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_table_without_the_inputs(tmp_path: Path) -> None:
    table = ParquetTable(write(tmp_path, rows_of(), 60), {"y": "a"})
    with pytest.raises(ValueError, match=r"^table: expected the model's inputs x, got no x$"):
        torch_ref.training.predict_table(torch_ref.TwoHead(1, [2], [2]), table, tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"^table: expected a ParquetTable, got "):
        torch_ref.training.predict_table(torch_ref.TwoHead(1, [2], [2]), table.arrays(), tmp_path / "y.parquet")  # pyright: ignore
