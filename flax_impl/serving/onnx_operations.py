"""The operations of a program as nodes of an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .forest import Forest
from .graph import ML, Symbol
from .onnx_trees import forest_attributes, place_attributes


class OnnxOperations:
    """The operations of `FormatOperations`, on symbols of a graph."""

    def astype(self, value: Symbol, dtype: np.dtype) -> Symbol:
        """See `FormatOperations`."""
        from onnx import helper

        return value.graph.add("Cast", value, dtype=dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def expand_dims(self, value: Symbol, axis: int) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Unsqueeze", value, np.array([axis]))

    def squeeze(self, value: Symbol, axis: int) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Squeeze", value, np.array([axis]))

    def concatenate(self, values: Sequence[Symbol]) -> Symbol:
        """See `FormatOperations`."""
        return values[0].graph.add("Concat", *values, axis=1)

    def take(self, value: Symbol, columns: np.ndarray) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Gather", value, columns, axis=1)

    def lookup(self, table: np.ndarray, places: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return places.graph.add("Gather", table, places, dtype=table.dtype)

    def rows(self, table: np.ndarray, places: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return places.graph.add("Gather", table, places, axis=1, dtype=table.dtype)

    def locate(self, value: Symbol, ends: Sequence[np.ndarray], starts: np.ndarray) -> Symbol:
        """See `FormatOperations`."""
        found = value.graph.add("TreeEnsemble", value, domain=ML, **place_attributes(ends, starts))
        return self.astype(found, np.dtype(np.int64))

    def forest(self, value: Symbol, forest: Forest) -> Symbol:
        """See `FormatOperations`."""
        found = value.graph.add("TreeEnsemble", value, domain=ML, **forest_attributes(forest))
        return self.squeeze(found, 1) + forest.bias

    def matmul(self, value: Symbol, other: np.ndarray) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("MatMul", value, other)

    def activation(self, name: str, value: Symbol) -> Symbol:
        """See `FormatOperations`."""
        add = value.graph.add
        if name == "identity":
            return value
        if name == "gelu":
            return value * 0.5 * (add("Erf", value * float(np.sqrt(0.5))) + 1.0)
        if name in ("sigmoid", "silu"):
            sigmoid = 1.0 / (self.exp(-value) + 1.0)  # runtimes cut the tails of their own
            return sigmoid if name == "sigmoid" else value * sigmoid
        if name == "leaky_relu":
            return add("LeakyRelu", value, alpha=0.01)
        return add({"elu": "Elu", "relu": "Relu", "tanh": "Tanh"}[name], value)

    def exp(self, value: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Exp", value)

    def sqrt(self, value: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Sqrt", value)

    def floor(self, value: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Floor", value)

    def clip(self, value: Symbol, low: float, high: float) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Clip", value, low, high)

    def minimum(self, value: Symbol, other: Any) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Min", value, other)

    def maximum(self, value: Symbol, other: Any) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Max", value, other)

    def mean(self, value: Symbol, axis: int) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("ReduceMean", value, np.array([axis]), keepdims=0)

    def is_nan(self, value: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("IsNaN", value, dtype=np.bool_)

    def is_finite(self, value: Symbol) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Not", self.is_nan(value) | value.graph.add("IsInf", value, dtype=np.bool_))

    def equal(self, value: Symbol, other: Any) -> Symbol:
        """See `FormatOperations`."""
        return value.graph.add("Equal", value, other, dtype=np.bool_)

    def all(self, condition: Symbol, axis: int) -> Symbol:
        """See `FormatOperations`."""
        holds = self.astype(condition, np.dtype(np.int32))
        return self.equal(condition.graph.add("ReduceMin", holds, np.array([axis]), keepdims=0, dtype=np.int32), 1)

    def where(self, condition: Any, value: Any, other: Any) -> Symbol:
        """See `FormatOperations`."""
        symbol = next(each for each in (value, other) if isinstance(each, Symbol))
        value, other = (np.array(each, symbol.dtype) if isinstance(each, float) else each for each in (value, other))
        return symbol.graph.add("Where", condition, value, other, dtype=symbol.dtype)
