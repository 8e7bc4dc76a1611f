"""A graph of ONNX nodes that is written by computing with symbols."""

from collections.abc import Iterable
from typing import Any

import numpy as np

ML = "ai.onnx.ml"
DOMAINS = {"": 18, ML: 5}  # the versions of the operators: trees in float64 came with 5


class Symbol:
    """A value that a graph will compute; the signs of arithmetic add nodes.

    Args:
        graph: that it belongs to.
        name: in the graph.
        dtype: of its numbers.
    """

    __array_ufunc__ = None  # an array on the left leaves the sign to the symbol

    def __init__(self, graph: "Graph", name: str, dtype: np.dtype) -> None:
        self.graph, self.name, self.dtype = graph, name, dtype

    def __add__(self, other: Any) -> "Symbol":
        return self.graph.add("Add", self, other)

    def __radd__(self, other: Any) -> "Symbol":
        return self.graph.add("Add", other, self)

    def __sub__(self, other: Any) -> "Symbol":
        return self.graph.add("Sub", self, other)

    def __rsub__(self, other: Any) -> "Symbol":
        return self.graph.add("Sub", other, self)

    def __mul__(self, other: Any) -> "Symbol":
        return self.graph.add("Mul", self, other)

    def __rmul__(self, other: Any) -> "Symbol":
        return self.graph.add("Mul", other, self)

    def __truediv__(self, other: Any) -> "Symbol":
        return self.graph.add("Div", self, other)

    def __rtruediv__(self, other: Any) -> "Symbol":
        return self.graph.add("Div", other, self)

    def __neg__(self) -> "Symbol":
        return self.graph.add("Neg", self)

    def __and__(self, other: Any) -> "Symbol":
        return self.graph.add("And", self, other)

    def __or__(self, other: Any) -> "Symbol":
        return self.graph.add("Or", self, other)


class Graph:
    """Nodes and constants in the order in which they were added.

    Args:
        taken: names of inputs and outputs, which no value in between gets.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self.nodes: list[Any] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.initializers: list[Any] = []

    def add(self, operator: str, *inputs: Any, dtype: Any = None, domain: str = "", **attributes: Any) -> Symbol:
        """Adds a node, and returns the symbol of its output.

        Args:
            operator: of ONNX.
            inputs: symbols, arrays, or numbers, which take the dtype of the first symbol.
            dtype: of the output; None is that of the first symbol.
            domain: of the operator.
            attributes: of the node.
        """
        from onnx import helper

        symbol = next(value for value in inputs if isinstance(value, Symbol))
        names = [self._name_of(value, symbol.dtype) for value in inputs]
        output = self.new_name(operator)
        self.nodes.append(helper.make_node(operator, names, [output], domain=domain, **attributes))
        return Symbol(self, output, symbol.dtype if dtype is None else np.dtype(dtype))

    def finish(self, symbol: Symbol, name: str) -> None:
        """Gives a value the name of an output."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [symbol.name], [name]))

    def new_name(self, stem: str) -> str:
        """Returns a name that nothing has yet."""
        number = len(self.taken)
        while (name := f"{stem}_{number}") in self.taken:
            number += 1
        self.taken.add(name)
        return name

    def _name_of(self, value: Any, dtype: np.dtype) -> str:
        if isinstance(value, Symbol):
            return value.name
        from onnx import numpy_helper

        array = np.asarray(value, dtype if isinstance(value, int | float) else None, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self.new_name("constant")
            self.initializers.append(numpy_helper.from_array(array, self.constants[key]))
        return self.constants[key]
