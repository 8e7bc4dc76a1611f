"""Predictions for a table of files: read, computed and written part by part, in the order of the table."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.arguments import check_integer, listed, shown
from ..checks.arrays import required_inputs
from ..data.tables import import_pyarrow
from ..files.array_file import replacing
from .table import Arrays, ParquetTable, joined


def write_predictions(
    call: Any,
    predict: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    table: ParquetTable,
    path: str | os.PathLike[str],
    *,
    dtype: str,
    batch_size: int,
    names: Sequence[str] | None,
) -> Path:
    """Writes a model's outputs for all rows of a table to a Parquet file; the file is whole or not there.

    Args:
        call: the model's call, whose required inputs are arrays of the table.
        predict: returns the outputs for the inputs of some rows.
        table: the rows.
        path: the file to write.
        dtype: of the inputs.
        batch_size: how many rows go through at a time.
        names: a name for each output; None takes y0, y1, ….

    Raises:
        ValueError: it is no table, or lacks an input; there are other names than outputs, or one comes twice.
    """
    if not isinstance(table, ParquetTable):
        raise ValueError(f"table: expected a ParquetTable, got {shown(table)}")
    rows = check_integer("batch_size", batch_size, at_least=1)
    inputs = required_inputs(call)
    if missing := [name for name in inputs if name not in table.columns]:
        raise ValueError(f"table: expected the model's inputs {listed(inputs)}, got no {listed(missing)}")
    parts = of_size(table.only(inputs).parts(dtype), rows)
    return write_parquet(path, (_columns(predict([arrays[name] for name in inputs]), names) for arrays in parts))


def write_parquet(path: str | os.PathLike[str], parts: Iterator[Arrays]) -> Path:
    """Writes columns to a Parquet file part by part; the file is whole or not there.

    Args:
        path: the file to write.
        parts: columns by name [rows], at least one part.
    """
    arrow = import_pyarrow(Path(path))
    from pyarrow.parquet import ParquetWriter

    with replacing(path) as beside:
        writer = None
        try:
            for columns in parts:
                written = arrow.table(columns)
                writer = ParquetWriter(beside, written.schema) if writer is None else writer
                writer.write_table(written)
        finally:
            if writer is not None:
                writer.close()
    return Path(path)


def of_size(parts: Iterator[Arrays], rows: int) -> Iterator[Arrays]:
    """Yields the rows of parts again, so many at a time, so that a model is compiled for two sizes at most.

    Args:
        parts: arrays by name [rows, …].
        rows: of each part that is yielded; the last one has the rest.
    """
    waiting: list[Arrays] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(next(iter(part.values())))
        if count >= rows:
            whole = joined(waiting)
            for start in range(0, count - rows + 1, rows):
                yield {name: array[start : start + rows] for name, array in whole.items()}
            count %= rows
            waiting = [{name: array[len(array) - count :] for name, array in whole.items()}] if count else []
    if count:
        yield joined(waiting)


def _columns(outputs: Sequence[np.ndarray], names: Sequence[str] | None) -> Arrays:
    """Returns a column for each number of each output."""
    names = [f"y{i}" for i in range(len(outputs))] if names is None else names
    if isinstance(names, str) or len(set(names)) != len(outputs) or len(names) != len(outputs):
        raise ValueError(f"names: expected a name for each of {len(outputs)} outputs, got {names!r}")
    columns = {}
    for name, output in zip(names, outputs, strict=True):
        width = output.shape[1]
        columns |= {name if width == 1 else f"{name}_{i}": np.ascontiguousarray(output[:, i]) for i in range(width)}
    return columns
