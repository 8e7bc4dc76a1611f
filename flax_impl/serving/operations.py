"""What a format has to offer, for `program` to be written in it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .forest import Forest

Value = Any  # an array while JAX traces, or a symbol of a graph; both know the signs of arithmetic, & and |


class FormatOperations(Protocol):
    """FormatOperations on values; the names are numpy's where numpy has them."""

    def astype(self, value: Value, dtype: np.dtype) -> Value:
        """Converts to another dtype."""
        ...

    def expand_dims(self, value: Value, axis: int) -> Value:
        """Adds an axis of length 1."""
        ...

    def squeeze(self, value: Value, axis: int) -> Value:
        """Takes away an axis of length 1."""
        ...

    def concatenate(self, values: Sequence[Value]) -> Value:
        """Joins matrices side by side."""
        ...

    def take(self, value: Value, columns: np.ndarray) -> Value:
        """Picks columns of a matrix, at places that are known."""
        ...

    def lookup(self, table: np.ndarray, places: Value) -> Value:
        """Picks entries of a table that is known, at places that are computed."""
        ...

    def rows(self, table: np.ndarray, places: Value) -> Value:
        """Picks rows of tables [members, rows, width], at places that are computed."""
        ...

    def locate(self, value: Value, ends: Sequence[np.ndarray], starts: np.ndarray) -> Value:
        """Counts for each column how many of its ends are not above the value, and adds the column's start."""
        ...

    def forest(self, value: Value, forest: Forest) -> Value:
        """Runs trees over the rows of a matrix [rows, features], and returns [rows]."""
        ...

    def matmul(self, value: Value, other: np.ndarray) -> Value:
        """Multiplies matrices."""
        ...

    def activation(self, name: str, value: Value) -> Value:
        """Applies an activation of `ACTIVATIONS`."""
        ...

    def exp(self, value: Value) -> Value:
        """Raises e to a power."""
        ...

    def sqrt(self, value: Value) -> Value:
        """Takes the square root."""
        ...

    def floor(self, value: Value) -> Value:
        """Rounds down."""
        ...

    def clip(self, value: Value, low: float, high: float) -> Value:
        """Moves what lies outside to the nearest bound."""
        ...

    def minimum(self, value: Value, other: Value) -> Value:
        """Takes the lower one."""
        ...

    def maximum(self, value: Value, other: Value) -> Value:
        """Takes the higher one."""
        ...

    def mean(self, value: Value, axis: int) -> Value:
        """Averages along an axis."""
        ...

    def is_nan(self, value: Value) -> Value:
        """Says what is NaN."""
        ...

    def is_finite(self, value: Value) -> Value:
        """Says what is neither NaN nor infinite."""
        ...

    def equal(self, value: Value, other: Value) -> Value:
        """Says what is equal; NaN is not."""
        ...

    def all(self, condition: Value, axis: int) -> Value:
        """Says whether a condition holds all along an axis."""
        ...

    def where(self, condition: Value, value: Value, other: Value) -> Value:
        """Returns the one where the condition holds, and the other elsewhere."""
        ...
