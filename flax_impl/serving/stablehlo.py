"""Writes a model as StableHLO, which jax alone loads and runs."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from torch_ref.common.files.array_file import replacing

from ..models.layers import ACTIVATIONS
from .forest import Forest
from .plan import Plan
from .program import run

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, ABOUT = "model.stablehlo", "about.json"
_TREES = 64  # that are asked at a time: all at once would take much memory


class JaxOperations:
    """The operations of `FormatOperations`, on arrays that JAX traces."""

    def astype(self, value: Array, dtype: np.dtype) -> Array:
        """See `FormatOperations`."""
        return value.astype(dtype)

    def expand_dims(self, value: Array, axis: int) -> Array:
        """See `FormatOperations`."""
        return jnp.expand_dims(value, axis)

    def squeeze(self, value: Array, axis: int) -> Array:
        """See `FormatOperations`."""
        return jnp.squeeze(value, axis)

    def concatenate(self, values: Sequence[Array]) -> Array:
        """See `FormatOperations`."""
        return jnp.concatenate(values, axis=1)

    def take(self, value: Array, columns: np.ndarray) -> Array:
        """See `FormatOperations`."""
        return value[:, columns]

    def lookup(self, table: np.ndarray, places: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.asarray(table)[places]

    def rows(self, table: np.ndarray, places: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.take(jnp.asarray(table), places, axis=1)

    def locate(self, value: Array, ends: Sequence[np.ndarray], starts: np.ndarray) -> Array:
        """See `FormatOperations`."""
        counts = np.array(list(map(len, ends)), np.int32)
        padded = np.full((len(ends), counts.max()), np.inf)
        for row, of_column in zip(padded, ends, strict=True):
            row[: len(of_column)] = of_column
        search = jax.vmap(lambda row, column: jnp.searchsorted(row, column, side="right"), (0, 1), 1)
        found = jnp.minimum(search(jnp.asarray(padded), value), counts[None])  # infinity is not below the padding
        return found + starts.astype(np.int32)[None]

    def forest(self, value: Array, forest: Forest) -> Array:
        """See `FormatOperations`."""
        trees, depth = forest.features.shape
        parts = -(-trees // _TREES)
        more = ((0, parts * _TREES - trees), (0, 0))  # trees that say 0
        tables = [
            np.pad(table, more).reshape(parts, _TREES, -1)
            for table in (forest.features.astype(np.int32), forest.thresholds, forest.leaves)
        ]
        columns, bits = value.T, 2 ** np.arange(depth, dtype=np.int32)[None, :, None]

        def add(total: Array, part: Any) -> tuple[Array, None]:
            features, thresholds, leaves = part
            above = columns[features] > thresholds[:, :, None]  # [trees, depth, rows]
            leaf = jnp.where(above, bits, 0).sum(axis=1, dtype=np.int32)
            return total + jnp.take_along_axis(leaves, leaf, axis=1).sum(axis=0), None

        total, _ = jax.lax.scan(add, jnp.full(value.shape[0], forest.bias), tables)
        return total

    def matmul(self, value: Array, other: np.ndarray) -> Array:
        """See `FormatOperations`."""
        return value @ other

    def activation(self, name: str, value: Array) -> Array:
        """See `FormatOperations`."""
        return ACTIVATIONS[name](value)

    def exp(self, value: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.exp(value)

    def sqrt(self, value: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.sqrt(value)

    def floor(self, value: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.floor(value)

    def clip(self, value: Array, low: float, high: float) -> Array:
        """See `FormatOperations`."""
        return jnp.clip(value, low, high)

    def minimum(self, value: Array, other: Any) -> Array:
        """See `FormatOperations`."""
        return jnp.minimum(value, other)

    def maximum(self, value: Array, other: Any) -> Array:
        """See `FormatOperations`."""
        return jnp.maximum(value, other)

    def mean(self, value: Array, axis: int) -> Array:
        """See `FormatOperations`."""
        return value.mean(axis=axis)

    def is_nan(self, value: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.isnan(value)

    def is_finite(self, value: Array) -> Array:
        """See `FormatOperations`."""
        return jnp.isfinite(value)

    def equal(self, value: Array, other: Any) -> Array:
        """See `FormatOperations`."""
        return value == other

    def all(self, condition: Array, axis: int) -> Array:
        """See `FormatOperations`."""
        return condition.all(axis=axis)

    def where(self, condition: Any, value: Any, other: Any) -> Array:
        """See `FormatOperations`."""
        return jnp.where(condition, value, other)


def write_stablehlo(path: Path, plan: Plan, about: dict[str, Any]) -> None:
    """Writes a zip of the program and of what is known about it.

    Args:
        path: the file; one that is there already is replaced.
        plan: of the model.
        about: of the model, as JSON takes it.

    Raises:
        OSError: the file cannot be written.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), _without_places():
        rows = export.symbolic_shape("batch")[0]
        shape = jax.ShapeDtypeStruct((rows, plan.features), np.float64)
        program = jax.jit(lambda x: run(JaxOperations(), plan, x))
        lowered = export.export(program, platforms=PLATFORMS)(shape)
    content = {PROGRAM: bytes(lowered.serialize()), ABOUT: json.dumps(about, indent=2, ensure_ascii=False)}
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as file:
        for name, data in content.items():  # without the hour, so that the same model gives the same bytes
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


@contextmanager
def _without_places() -> Iterator[None]:
    """Keeps out of programs which lines of which files made them, so that every caller gets the same bytes."""
    name = "jax_traceback_in_locations_limit"
    frames = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, frames)
