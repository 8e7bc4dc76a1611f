"""Runs a trained model over all rows, part by part."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.checks.arguments import check_integer
from ..common.checks.arrays import arms_of, check_data, check_inputs, check_outputs
from ..common.stream.predictions import write_predictions
from ..common.stream.table import ParquetTable


def predict(model: nn.Module, *inputs: Any, batch_size: int = 65_536) -> tuple[np.ndarray, ...]:
    """Returns the model's outputs for all rows of its inputs: for a two-head model an outcome for each arm.

    Twin: `flax_impl.predict`, which takes the parameters as well.

    Args:
        model: the model.
        inputs: what the model is called with, each [rows, features].
        batch_size: how many rows go through at a time.

    Returns:
        The outputs as numpy arrays, each [rows, out]; a model that gives one array gives a tuple of one.

    Raises:
        ValueError: an input is empty, holds NaN or infinity, or does not fit the model.
        FloatingPointError: an output is not finite.

    Example:
        >>> import torch_ref
        >>> model = torch_ref.TwoHead(3, [4], [4])
        >>> y0, y1 = predict(model, np.zeros((20, 3)))
        >>> y0.shape, y1.shape
        ((20, 1), (20, 1))
    """
    batch_size = check_integer("batch_size", batch_size, at_least=1)
    names = check_inputs(model.forward, inputs)
    named = dict(zip(names, inputs, strict=True))
    arrays = to_tensors(model, check_data(named, names, dtype=dtype_of(model), arms=arms_of(model) or 2))
    parts = []
    with torch.no_grad():
        for start in range(0, len(arrays[names[0]]), batch_size):
            outputs = model(*(arrays[name][start : start + batch_size] for name in names))
            parts.append((outputs,) if isinstance(outputs, Tensor) else outputs)
    return check_outputs([torch.cat(outputs).cpu().numpy() for outputs in zip(*parts, strict=True)])


def predict_table(
    model: nn.Module,
    table: ParquetTable,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 65_536,
    names: Sequence[str] | None = None,
) -> Path:
    """Writes the model's outputs for all rows of a table larger than memory to a Parquet file, in the table's order.

    The file is written beside its target and renamed at the end.

    Twin: `flax_impl.training.predict_table`, which takes the parameters as well.

    Args:
        model: the model.
        table: the rows; the model's inputs are among its arrays.
        path: the file to write.
        batch_size: how many rows go through at a time.
        names: a column for each output; None takes y0, y1, …. An output of several numbers has columns y0_0, y0_1, ….

    Returns:
        The path of the file.

    Raises:
        ValueError: the table lacks an input or is damaged, or there are other names than outputs.
        FloatingPointError: an output is not finite.

    Example:
        >>> import pyarrow, torch_ref
        >>> from tempfile import TemporaryDirectory
        >>> from pyarrow.parquet import read_table, write_table
        >>> model = torch_ref.TwoHead(1, [4], [4])
        >>> with TemporaryDirectory() as folder:
        ...     write_table(pyarrow.table({"age": [31.0, 45, 52]}), Path(folder, "rows.parquet"))
        ...     table = torch_ref.data.ParquetTable(folder, {"x": "age"})
        ...     found = read_table(predict_table(model, table, Path(folder, "out", "y.parquet")))
        >>> found.column_names, len(found)
        (['y0', 'y1'], 3)
    """
    return write_predictions(
        model.forward,
        lambda inputs: predict(model, *inputs, batch_size=batch_size),
        table,
        path,
        dtype=dtype_of(model),
        batch_size=batch_size,
        names=names,
    )


def to_tensors(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns the arrays where the model's parameters are."""
    device = next(model.parameters()).device
    return {name: torch.tensor(array, device=device) for name, array in arrays.items()}


def dtype_of(model: nn.Module) -> str:
    """Returns the name of the parameters' dtype."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")
