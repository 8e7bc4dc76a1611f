"""Columns of any type, read in parts: the numbers of a table in memory, and errors that say where."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, strategies as st
from pyarrow.parquet import write_table

from tests.support.mixed_rows import mixed_rows
from tests.support.parquet import write
from torch_ref.common.data.columns import Column
from torch_ref.common.data.features import describe, to_numbers
from torch_ref.common.stream.mixed.coding import FeatureCoding, RowCoding, code_column
from torch_ref.common.stream.mixed.sample import sample_rows
from torch_ref.common.stream.mixed.table import MixedTable
from torch_ref.common.stream.statistics import RunningStatistics

CELLS: dict[str, Any] = {
    "whole": pyarrow.array([3, None, 7, 7], pyarrow.int16()),
    "large": pyarrow.array([2**60, 5, 6, 7]),
    "single": pyarrow.array([0.5, float("nan"), None, 2], pyarrow.float32()),
    "truth": pyarrow.array([True, None, False, True]),
    "decimal": pyarrow.array([Decimal("1.25"), None, Decimal(3), Decimal(3)]),
    "text": pyarrow.array(["b", "a", None, "b"]),
    "large text": pyarrow.array(["b", "a", None, "b"], pyarrow.large_string()),
    "category": pyarrow.array(["b", "a", None, "b"]).dictionary_encode(),
    "category of numbers": pyarrow.array([5, 3, None, 5]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_column_is_as_in_memory(kind: str) -> None:
    table = pyarrow.table({"c": CELLS[kind]})
    columns = describe(table)
    np.testing.assert_array_equal(FeatureCoding(columns)(table)["x"], to_numbers(table, columns))
    nothing = pyarrow.table({"c": pyarrow.nulls(3)})
    if columns[0].gaps:
        np.testing.assert_array_equal(code_column(columns[0], nothing.column("c")), [np.nan] * 3)


@given(st.lists(st.sampled_from(["a", "b", "c", "new", None]), min_size=1), st.booleans())
def test_levels_that_training_did_not_see(values: list[str | None], gaps: bool) -> None:
    column = Column("c", ("a", "b", "c"), gaps)
    table = pyarrow.table({"c": pyarrow.array(values, pyarrow.string())})
    found = code_column(column, table.column("c"))
    np.testing.assert_array_equal(found, to_numbers(table, [column])[:, 0])


@pytest.mark.parametrize("cells", [pyarrow.array([1, 2, 9]), pyarrow.array([1.0, 2.0, 1.5])])
def test_levels_that_are_numbers(cells: Any) -> None:
    found = code_column(Column("c", (2, 1)), pyarrow.chunked_array([cells]))
    assert found.tolist() == [1, 0, -1]


REFUSED = [
    (Column("c"), [1.5, None], "column c: expected a number in every row, as in training, got none in row 1"),
    (Column("c", None, True), [1.5, np.inf], "column c: expected finite numbers, got inf in row 1"),
    (Column("c"), ["a"], "column c: expected numbers, as in training, got string"),
    (Column("c", ("a",)), [1.5], "column c: expected categories of text, as in training, got double"),
    (Column("c", (1, 2)), ["a"], "column c: expected categories of numbers, as in training, got string"),
]


@pytest.mark.parametrize(("column", "values", "message"), REFUSED)
def test_cells_of_another_kind(column: Column, values: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        code_column(column, pyarrow.chunked_array([values]))


ROWS = [
    ("arm", "other", "column arm: expected one of 'none', 'drug', as in the sample that is read first, got 'other' in "
     "row 1"),
    ("arm", None, "column arm: expected a value in every row, got none in row 1"),
    ("y", np.nan, "column y: expected a value in every row, got none in row 1"),
    ("y", 2.0, "column y: expected 0 or 1 in every row, got 2.0 in row 1"),
    ("w", -1.0, "column w: expected weights of at least 0, got -1.0 in row 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "cell", "message"), ROWS)
def test_a_bad_row_names_file_and_row_group(name: str, cell: Any, message: str, tmp_path: Path) -> None:
    made = pyarrow.table({"arm": ["none", "drug"] * 4, "y": [0.0, 1.0] * 4, "w": [1.0] * 8, "x": [0.5] * 8})
    cells = made.column(name).to_pylist()
    cells[5] = cell
    place = made.column_names.index(name)
    write(tmp_path, made.set_column(place, name, pyarrow.array(cells, made.column(name).type)), 2)
    coding = RowCoding((Column("x"),), "arm", ("none", "drug"), "y", "w", binary=True)
    table = MixedTable(tmp_path, {"x": "x", "t": "arm", "y": "y", "w": "w"}, decode=coding)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/part-0.parquet, row group 2: {message}')}$"):
        list(table.parts())


def test_categories_of_files_may_be_numbered_otherwise(tmp_path: Path) -> None:
    for number, levels in enumerate((["b"], ["a", "b"])):
        kind = pyarrow.dictionary((pyarrow.int8(), pyarrow.int16())[number], pyarrow.string())
        cells = pyarrow.array(levels).dictionary_encode().cast(kind)
        write_table(pyarrow.table({"c": cells}), tmp_path / f"{number}.parquet")
    table = MixedTable(tmp_path, {"x": "c"}, decode=FeatureCoding((Column("c", ("a", "b")),)))
    assert table.arrays()["x"][:, 0].tolist() == [1, 0, 1]
    numbers, found = sample_rows(table, 9, 0, lambda _: None, False)
    assert numbers.tolist() == [0, 1, 2]
    assert found.column("c").to_pylist() == ["b", "a", "b"]


def test_text_may_be_a_category_in_some_files(tmp_path: Path) -> None:
    text = pyarrow.array(["b", "a"])
    ordered = pyarrow.dictionary(pyarrow.int8(), pyarrow.string(), ordered=True)
    for number, cells in enumerate((text, text.dictionary_encode(), text.dictionary_encode().cast(ordered))):
        write_table(pyarrow.table({"c": cells}), tmp_path / f"{number}.parquet")
    table = MixedTable(tmp_path, {"x": "c"}, decode=FeatureCoding((Column("c", ("a", "b")),)))
    assert table.arrays()["x"][:, 0].tolist() == [1, 0] * 3
    _, found = sample_rows(table, 9, 0, lambda _: None, False)
    assert found.column("c").to_pylist() == ["b", "a"] * 3


def test_another_type_in_a_later_file(tmp_path: Path) -> None:
    for number, cells in enumerate((["b"], ["a"], [1.5])):
        write_table(pyarrow.table({"c": cells}), tmp_path / f"{number}.parquet")
    expected = f"{tmp_path}/2.parquet: column c: expected string, as in {tmp_path}/0.parquet, got double"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        MixedTable(tmp_path, {"x": "c"})


@pytest.mark.parametrize("rows", [1, 17, 119])
def test_a_sample(rows: int, tmp_path: Path) -> None:
    made = mixed_rows()
    table = MixedTable(write(tmp_path, made, 50, 7), {"x": ["age", "city"]})
    numbers, found = sample_rows(table, rows, 3, lambda _: None, False)
    assert len(set(numbers.tolist())) == rows
    assert found.column("city").to_pylist() == made.column("city").take(numbers).to_pylist()
    again, _ = sample_rows(table, rows, 3, lambda _: None, False)
    np.testing.assert_array_equal(again, numbers)


def test_fingerprints_tell_how_a_table_is_read(tmp_path: Path) -> None:
    table = MixedTable(write(tmp_path, mixed_rows(), 50), {"x": "city"})
    codings = [FeatureCoding((Column("city", levels),)) for levels in (("Bonn",), ("Oslo",))]
    assert len({table.reading(coding).fingerprint() for coding in codings}) == 2
    assert table.reading(codings[0]).width == 1
    assert table.reading(codings[0], numbers=7).width == 7


@given(st.lists(st.lists(st.sampled_from([np.nan, -1.0, 2.5, 1e9, 1e9 + 1]), min_size=1, max_size=5), min_size=1))
def test_statistics_leave_gaps_out(parts: list[list[float]]) -> None:
    running = RunningStatistics(("c",))
    for part in parts:
        running.add(np.array(part)[:, None])
    values = np.concatenate(parts)
    there = values[~np.isnan(values)]
    found = running.found()
    assert found.count == len(values)
    if len(there):
        np.testing.assert_allclose(found.mean[0], there.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.deviation[0], there.std(), rtol=1e-9, atol=1e-6)
        assert (found.minimum[0], found.maximum[0]) == (there.min(), there.max())
