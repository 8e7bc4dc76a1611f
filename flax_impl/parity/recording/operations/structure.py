"""Writes down the operations of a step without running them: only the shapes of its values are known then."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from .lifting import LOW
from .walk import Walk

Shape = jax.ShapeDtypeStruct


class Structure(Walk):
    """Writes a jaxpr down; only what comes from inputs and constants is computed.

    A branch or a loop whose course hangs on other values raises TypeError: it has to be run.
    """

    def value(self, array: Any, dtype: str, moved: tuple[int, Sequence[int]] | None = None) -> tuple[Any, int]:
        """Writes a value down; returns it and its number."""
        if not isinstance(array, Shape):
            return super().value(array, dtype, moved)
        return array, self.writer.unseen(array.shape, _kind(array.dtype), dtype)

    def leaf(self, name: str, array: Any, dtype: str) -> tuple[Any, int]:
        """Writes a weight down and returns its shape and its number; inputs and whole numbers are what they are."""
        if name.startswith("input/") or _kind(array.dtype) != "f":
            return super().leaf(name, array, dtype)
        number = self.writer.leaves[name] = self.writer.unseen(np.shape(array), _kind(array.dtype), dtype)
        return _shape(np.shape(array), array.dtype), number

    def outputs(self, equation: JaxprEqn, arrays: list[Any]) -> list[Any]:
        """Returns the shapes of what an operation gives."""
        if not any(isinstance(array, Shape) for array in arrays):
            return super().outputs(equation, arrays)
        avals: list[Any] = [variable.aval for variable in equation.outvars]
        return [_shape(aval.shape, aval.dtype) for aval in avals]

    def row(self, array: Any, i: int) -> Any:
        """Returns the shape of what a scan takes of an array."""
        return _shape(array.shape[1:], array.dtype) if isinstance(array, Shape) else super().row(array, i)

    def stacked(self, rows: list[Any], aval: Any) -> Any:
        """Returns the shape of what a scan makes of the rows of its steps."""
        unseen = any(isinstance(row, Shape) for row in rows)
        return _shape(aval.shape, aval.dtype) if unseen else super().stacked(rows, aval)

    def _while(self, equation: JaxprEqn, given: list[Any], stack: str) -> list[Any]:
        raise TypeError(f"{stack}: expected no loop whose end hangs on values")


def _shape(shape: Sequence[int], dtype: Any) -> Shape:
    return Shape(tuple(shape), jnp.dtype("float64") if str(dtype) in LOW else dtype)


def _kind(dtype: Any) -> str:
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return "b"
    return "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind
