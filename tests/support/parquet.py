"""Tables of Parquet files that tests of streams share."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow.parquet import write_table

from torch_ref.data import ParquetTable

COLUMNS: dict[str, Any] = {"x": ["a", "b", "c"], "t": "t", "y": "y", "w": "w"}


def rows_of(rows: int = 203, seed: int = 0) -> Any:
    """Returns a pyarrow table whose columns have several types; `a` is the number of the row."""
    draw = np.random.default_rng(seed)
    columns = {
        "a": np.arange(rows, dtype=np.float64) / rows,
        "b": draw.normal(size=rows).astype(np.float32),
        "c": draw.integers(0, 2, rows).astype(bool),
        "t": draw.integers(0, 2, rows),
        "y": draw.normal(size=rows),
        "w": draw.uniform(0.5, 2, rows),
        "unread": draw.normal(size=rows),
    }
    return pyarrow.table(columns)


def write(folder: Path, made: Any, *groups: int) -> Path:
    """Writes a table to a folder: a file for each number, which is how many rows its row groups have."""
    folder.mkdir(exist_ok=True)
    bounds = np.linspace(0, len(made), len(groups) + 1).astype(int)
    for i, (size, start, stop) in enumerate(zip(groups, bounds[:-1], bounds[1:], strict=True)):
        write_table(made.slice(start, stop - start), folder / f"part-{i}.parquet", row_group_size=size)
    return folder


def opened(folder: Path, *groups: int, window: int | None = None, rows: int = 203) -> ParquetTable:
    """Returns a table of files in a folder, which are written first."""
    return ParquetTable(write(folder, rows_of(rows), *groups), COLUMNS, window=window)
