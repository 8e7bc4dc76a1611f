"""Runs a trained model over all rows, part by part."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from torch_ref.common.checks.arguments import check_integer, listed
from torch_ref.common.checks.arrays import arms_of, check_data, check_inputs, check_outputs
from torch_ref.common.stream.predictions import write_predictions
from torch_ref.common.stream.table import ParquetTable

from ..models.layers import Params
from ..models.pure import Module, Pure, as_pure
from .loop import dtype_of


def predict(model: Module, params: Params, *inputs: Any, batch_size: int = 65_536) -> tuple[np.ndarray, ...]:
    """Returns the model's outputs for all rows of its inputs: for a two-head model an outcome for each arm.

    Twin: `torch_ref.predict`, whose model holds its parameters.

    Args:
        model: the model.
        params: its parameters.
        inputs: what the model is called with, each [rows, features].
        batch_size: how many rows go through at a time.

    Returns:
        The outputs as numpy arrays, each [rows, out]; a model that gives one array gives a tuple of one.

    Raises:
        ValueError: an input is empty, holds NaN or infinity, or does not fit the model.
        FloatingPointError: an output is not finite.

    Example:
        >>> import flax_impl
        >>> model = flax_impl.TwoHead(3, [4], [4])
        >>> y0, y1 = predict(model, model.init_params(seed=0), np.zeros((20, 3)))
        >>> y0.shape, y1.shape
        ((20, 1), (20, 1))
    """
    return _predict_in_parts(_apply, model, params, inputs, check_integer("batch_size", batch_size, at_least=1))


def predict_table(
    model: Module,
    params: Params,
    table: ParquetTable,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 65_536,
    names: Sequence[str] | None = None,
) -> Path:
    """Writes the model's outputs for all rows of a table larger than memory to a Parquet file, in the table's order.

    The file is written beside its target and renamed at the end.

    Twin: `torch_ref.training.predict_table`, whose model holds its parameters.

    Args:
        model: the model.
        params: its parameters.
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
        >>> import pyarrow, flax_impl
        >>> from tempfile import TemporaryDirectory
        >>> from pyarrow.parquet import read_table, write_table
        >>> model = flax_impl.TwoHead(1, [4], [4])
        >>> with TemporaryDirectory() as folder:
        ...     write_table(pyarrow.table({"age": [31.0, 45, 52]}), Path(folder, "rows.parquet"))
        ...     table = flax_impl.data.ParquetTable(folder, {"x": "age"})
        ...     found = read_table(predict_table(model, model.init_params(), table, Path(folder, "out", "y.parquet")))
        >>> found.column_names, len(found)
        (['y0', 'y1'], 3)
    """
    return write_predictions(
        model.__call__,
        lambda inputs: predict(model, params, *inputs, batch_size=batch_size),
        table,
        path,
        dtype=dtype_of(params),
        batch_size=batch_size,
        names=names,
    )


def predict_replicas(model: Module, params: Params, *inputs: Any, batch_size: int = 65_536) -> tuple[np.ndarray, ...]:
    """Returns the outputs of every replica for all rows: for a two-head model one for each arm [replicas, rows, out].

    Args:
        model: the model.
        params: its parameters, stacked, as `fit_replicas` returns them.
        inputs: what the model is called with, each [rows, features].
        batch_size: how many rows go through at a time, all replicas together.

    Returns:
        The outputs as numpy arrays, each [replicas, rows, out].

    Raises:
        ValueError: an input is empty, holds NaN or infinity, or does not fit the model; or the parameters are not
            stacked.
        FloatingPointError: an output is not finite.

    Example:
        >>> import flax_impl
        >>> model = flax_impl.TwoHead(3, [4], [4])
        >>> y0, y1 = predict_replicas(model, model.init_params(range(2)), np.zeros((20, 3)))
        >>> y0.shape, y1.shape
        ((2, 20, 1), (2, 20, 1))
    """
    part = max(1, check_integer("batch_size", batch_size, at_least=1) // count_replicas(params))
    return _predict_in_parts(_apply_each, model, params, inputs, part)


def count_replicas(params: Params) -> int:
    """Returns how many replicas stacked parameters are of; raises ValueError where they are not stacked."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        got = listed(sorted({str(list(shape)) for shape in shapes}))
        raise ValueError(f"params: expected stacked parameters, [replicas, …] each, got {got}")
    return counts.pop()


def _predict_in_parts(
    call: Callable[..., Any], model: Module, params: Params, inputs: Sequence[Any], part: int
) -> tuple[np.ndarray, ...]:
    """Returns `call(model, params, *inputs)`, taking `part` rows of the inputs at a time: outputs [..., rows, out]."""
    names = check_inputs(model.__call__, inputs)
    named = dict(zip(names, inputs, strict=True))
    arrays = check_data(named, names, dtype=dtype_of(params), arms=arms_of(model) or 2)
    parts, held = [], as_pure(model)
    for start in range(0, len(arrays[names[0]]), part):
        outputs = call(held, params, *(arrays[name][start : start + part] for name in names))
        parts.append((outputs,) if isinstance(outputs, Array) else outputs)
    return check_outputs([np.concatenate(outputs, axis=-2) for outputs in zip(*parts, strict=True)])


@partial(jax.jit, static_argnames="model")
def _apply(model: Pure, params: Params, *inputs: Array) -> Any:
    return model.apply({"params": params}, *inputs)


@partial(jax.jit, static_argnames="model")
def _apply_each(model: Pure, params: Params, *inputs: Any) -> Any:
    return jax.vmap(partial(_apply, model), (0, *[None] * len(inputs)))(params, *inputs)
