"""Trainings on tables of files: the same as in memory, bit for bit; damage is named, and no thread stays."""

import re
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow.parquet import write_table

import flax_impl
from flax_impl.commands.sides import SIDES
from tests.support.interrupted import interrupting
from tests.support.parquet import COLUMNS, opened, rows_of, write
from torch_ref.data import ParquetTable

CONFIG = {"in_features": 3, "representation_features": [5], "head_features": [4], "final_activation": "identity"}
HELD_OUT = [*range(0, 203, 7), 5, 202]
GROUPS = {"many": ((23, 31), 60), "a window each": ((50, 50), 50), "uneven": ((7, 40, 90), 90), "one": ((203,), None)}


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Whatever a test does, the threads that read are gone after it."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-parquet")]


def train(backend: str, data: Any, dtype: str = "float32", **settings: Any) -> dict[str, np.ndarray]:
    """Returns weights and losses."""
    side = SIDES[backend](settings.pop("model", "TwoHead"), settings.pop("config", CONFIG), seed=1, dtype=dtype)
    chosen = {"batch_size": 20, "seed": 2, "progress": False} | settings
    losses = side.fit(data, **chosen)
    return side.weights() | {"losses": losses}


def in_memory(backend: str, table: ParquetTable, dtype: str = "float32", **settings: Any) -> dict[str, np.ndarray]:
    return train(backend, table.arrays(dtype), dtype, **({"shuffle": table.order()} | settings))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.parametrize("groups", GROUPS)
def test_it_is_the_training_in_memory(backend: str, groups: str, tmp_path: Path) -> None:
    """Batches of 20 span windows of all these; the last batch of an epoch is short."""
    sizes, window = GROUPS[groups]
    table = opened(tmp_path, *sizes, window=window)
    same(train(backend, table, epochs=3), in_memory(backend, table, epochs=3))


SETTINGS: dict[str, dict[str, Any]] = {
    "held out": {"validation_rows": HELD_OUT, "epochs": 4},
    "patience": {"validation_rows": HELD_OUT, "epochs": 9, "patience": 1, "optimizer": flax_impl.Adam(lr=0.3)},
    "as they lie": {"shuffle": False, "steps": 25},
    "one batch": {"batch_size": 1000, "epochs": 2},
}


# In flax one batch is a shape of its own, which takes long to compile.
@pytest.mark.parametrize(("backend", "settings"), sorted({*product(SIDES, SETTINGS)} - {("flax", "one batch")}))
def test_all_settings_do_the_same(backend: str, settings: str, tmp_path: Path) -> None:
    table = opened(tmp_path, 23, 31, window=60)
    found = train(backend, table, **SETTINGS[settings])
    same(found, in_memory(backend, table, **SETTINGS[settings]))
    assert (len(found["losses"]) < 9 * 9) or settings != "patience"


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.usefixtures("x64")
def test_two_inputs_and_two_outputs_in_float64(backend: str, tmp_path: Path) -> None:
    columns = {"x1": "a", "x2": "b", "y1": "y", "y2": "w"}
    table = ParquetTable(write(tmp_path, rows_of(), 40, 30), columns, window=70)
    settings: dict[str, Any] = {"model": "TwoInTwoOut", "config": {"hidden_features": [4]}, "epochs": 2}
    settings["loss"] = (flax_impl if backend == "flax" else __import__("torch_ref")).JointLoss()
    same(train(backend, table, "float64", **settings), in_memory(backend, table, "float64", **settings))


def test_a_mesh_of_one_is_the_same(tmp_path: Path) -> None:
    table, settings = opened(tmp_path, 23, 31, window=60), {"epochs": 2, "validation_rows": HELD_OUT}
    same(train("flax", table, **settings, mesh=flax_impl.training.make_mesh()),
         train("flax", table, **settings))  # fmt: skip


def scaled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Moves and scales the features, as `Scales` does."""
    return arrays | {"x": (arrays["x"] - 0.5) / 3}


def doubled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {"y": 2 * arrays["y"]}


@pytest.mark.parametrize("backend", SIDES)
def test_a_change_of_the_rows(backend: str, tmp_path: Path) -> None:
    table = opened(tmp_path, 23, 31)
    changed = table.changed(scaled).changed(doubled)
    expected = {name: array.astype("float32") for name, array in doubled(scaled(table.arrays())).items() if name != "t"}
    found = changed.arrays("float32")
    same({name: found[name] for name in expected}, expected)
    settings: dict[str, Any] = {"epochs": 1, "shuffle": False}
    same(train(backend, changed, **settings), train(backend, found, **settings))
    assert changed.fingerprint() != table.fingerprint() != table.fingerprint(2)


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.parametrize("settings", [{}, {"validation_rows": HELD_OUT}])
def test_a_training_goes_on_in_the_middle(
    backend: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 28 steps, in the third epoch; no group that came before is read again."""
    table = opened(tmp_path / "rows", 23, 31, window=60)
    asked = {"epochs": 3, **settings}
    whole = train(backend, table, **asked)
    read = ParquetTable.read
    kept = {"checkpoint": tmp_path / "kept", "every": 28}
    with interrupting(after=1):
        train(backend, table, **asked, **kept)
    seen: list[int] = []

    def noted(self: ParquetTable, number: int, *rest: Any) -> dict[str, np.ndarray]:
        seen.append(number)
        return read(self, number, *rest)

    monkeypatch.setattr(ParquetTable, "read", noted)
    same(train(backend, table, **asked, **kept), whole)
    assert settings or len(seen) < len(table.groups)
    seen.clear()
    same(train(backend, table, **asked, **kept), whole)
    assert not seen  # it was finished
    write_table(rows_of(100, seed=9), tmp_path / "rows" / "part-0.parquet", row_group_size=23)
    with pytest.raises(ValueError, match=r"^checkpoint: expected the training .* data: expected .*footers"):
        train(backend, opened(tmp_path / "rows", 23, 30, window=60), **asked, **kept)


@pytest.mark.parametrize("backend", SIDES)
def test_memory_holds_two_windows(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads read the next window and no further, however many groups there are."""
    table = opened(tmp_path, 4, 4, window=8)
    read, used = ParquetTable.read, []
    alive = [0]

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive[0] -= 1

    def counting(self: ParquetTable, *arguments: Any) -> dict[str, np.ndarray]:
        arrays = read(self, *arguments)
        alive[0] += 1
        used.append(alive[0])
        return arrays | {"x": arrays["x"].view(Counted)}

    monkeypatch.setattr(ParquetTable, "read", counting)
    train(backend, table, epochs=2, batch_size=4)
    assert len(used) >= 2 * len(table.groups)
    assert max(used) <= 5  # two groups a window, two windows, and one in work


@pytest.mark.parametrize("backend", SIDES)
def test_an_error_of_the_caller_ends_the_threads(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does."""
    import flax_impl.training.fit as flax_fit
    import torch_ref.training.fit as torch_fit

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for module in (flax_fit, torch_fit):
        monkeypatch.setattr(module.Progress, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(backend, opened(tmp_path, 4, 4, window=8), epochs=100)


def spoilt(folder: Path, cell: Any, column: str = "b") -> ParquetTable:
    """Returns a table with a cell in the second file's second row group."""
    write(folder, rows_of(), 30, 30)
    made = rows_of()
    cells = made[column].to_pylist()
    cells[140] = cell
    changed = made.set_column(made.column_names.index(column), column, pyarrow.array(cells, made[column].type))
    write_table(changed.slice(101), folder / "part-1.parquet", row_group_size=30)
    return ParquetTable(folder, COLUMNS)


CELLS = [
    ("b", None, "column b: expected a number in every row, got null in row 9"),
    ("b", np.nan, "column b: expected a finite number in every row, got nan in row 9"),
    ("a", 1e300, "column a: expected a number that float32 holds in every row, got 1e+300 in row 9"),
    ("t", 2, "t: expected 0 or 1 in every row, got 2 in row 9"),
    ("w", -1.0, "w: expected weights of at least 0, got -1.0 in row 9"),
]


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.parametrize(("column", "cell", "message"), CELLS)
def test_a_bad_cell_is_named(backend: str, column: str, cell: Any, message: str, tmp_path: Path) -> None:
    table = spoilt(tmp_path, cell, column)
    place = f"{tmp_path / 'part-1.parquet'}, row group 1: "
    with pytest.raises(ValueError, match=f"^{re.escape(place + message)}$"):
        train(backend, table, epochs=1)


@pytest.mark.parametrize("backend", SIDES)
def test_files_that_go_while_a_training_runs(backend: str, tmp_path: Path) -> None:
    table = opened(tmp_path, 30, 30)
    path = tmp_path / "part-1.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))}, row group \d: expected a whole Parquet file, got "
    ):
        train(backend, table, epochs=1)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(path))}: expected a Parquet file, found none$"):
        train(backend, table, epochs=1)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rows": [0, 1]}, "rows: expected None with a table of Parquet files, whose rows are all trained on, got some"),
    ({"batch_size": None}, "batch_size: expected a number of rows with a table of Parquet files, got None"),
    ({"shuffle": "yes"}, "shuffle: expected True or False, got 'yes'"),
    ({"patience": 1}, "patience: expected validation_rows with it, got 1 alone"),
    ({"validation_rows": [203]}, "validation_rows: expected row numbers from 0 to 202, got 203"),
    ({"validation_rows": range(203)}, "validation_rows: expected rows left to train on, got all 203"),
    ({"steps": 5}, "epochs, steps: expected exactly one of the two, got epochs=1 and steps=5"),
]


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_a_stream_cannot_do(backend: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"epochs": 1} | settings
    table = opened(tmp_path, 60)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(backend, table, **asked)


@pytest.mark.parametrize("backend", SIDES)
def test_arrays_that_the_loss_does_not_take(backend: str, tmp_path: Path) -> None:
    table = ParquetTable(write(tmp_path, rows_of(), 50), {"x": "a", "t": "t"})
    with pytest.raises(ValueError, match=r"^data: expected the arrays x, t, y, w \(optional\), got x, t$"):
        train(backend, table, epochs=1)


def test_a_second_stream_compiles_nothing(tmp_path: Path, compilations: list[str]) -> None:
    tables = [opened(tmp_path / f"{i}", 23 + i, 31, window=60, rows=203 - i) for i in range(2)]
    train("flax", tables[0], epochs=1)
    compilations.clear()
    train("flax", tables[1], epochs=2)
    assert not compilations
