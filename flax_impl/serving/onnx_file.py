"""Writes a model as ONNX, which any of its runtimes runs, with an input for each column of the table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import listed
from torch_ref.common.files.array_file import replacing

from .forest import Forest
from .graph import DOMAINS, Graph, Symbol
from .onnx_trees import forest_attributes, place_attributes
from .plan import Nets, Plan
from .program import run

_ML = "ai.onnx.ml"
_IR_VERSION = 10  # what runtimes from 2024 on read


class OnnxOperations:
    """The operations of `Operations`, on symbols of a graph."""

    def astype(self, value: Symbol, dtype: np.dtype) -> Symbol:
        """See `Operations`."""
        from onnx import helper

        return value.graph.add("Cast", value, dtype=dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def expand_dims(self, value: Symbol, axis: int) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Unsqueeze", value, np.array([axis]))

    def squeeze(self, value: Symbol, axis: int) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Squeeze", value, np.array([axis]))

    def concatenate(self, values: Sequence[Symbol]) -> Symbol:
        """See `Operations`."""
        return values[0].graph.add("Concat", *values, axis=1)

    def take(self, value: Symbol, columns: np.ndarray) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Gather", value, columns, axis=1)

    def lookup(self, table: np.ndarray, places: Symbol) -> Symbol:
        """See `Operations`."""
        return places.graph.add("Gather", table, places, dtype=table.dtype)

    def locate(self, value: Symbol, ends: Sequence[np.ndarray], starts: np.ndarray) -> Symbol:
        """See `Operations`."""
        found = value.graph.add("TreeEnsemble", value, domain=_ML, **place_attributes(ends, starts))
        return self.astype(found, np.dtype(np.int64))

    def forest(self, value: Symbol, forest: Forest) -> Symbol:
        """See `Operations`."""
        found = value.graph.add("TreeEnsemble", value, domain=_ML, **forest_attributes(forest))
        return self.squeeze(found, 1) + forest.bias

    def matmul(self, value: Symbol, other: np.ndarray) -> Symbol:
        """See `Operations`."""
        return value.graph.add("MatMul", value, other)

    def activation(self, name: str, value: Symbol) -> Symbol:
        """See `Operations`."""
        add = value.graph.add
        if name == "identity":
            return value
        if name == "gelu":
            return value * 0.5 * (add("Erf", value * float(np.sqrt(0.5))) + 1.0)
        if name == "silu":
            return value * add("Sigmoid", value)
        if name == "leaky_relu":
            return add("LeakyRelu", value, alpha=0.01)
        return add({"elu": "Elu", "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[name], value)

    def exp(self, value: Symbol) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Exp", value)

    def sqrt(self, value: Symbol) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Sqrt", value)

    def clip(self, value: Symbol, low: float, high: float) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Clip", value, low, high)

    def mean(self, value: Symbol, axis: int) -> Symbol:
        """See `Operations`."""
        return value.graph.add("ReduceMean", value, np.array([axis]), keepdims=0)

    def all_finite(self, value: Symbol, axis: int) -> Symbol:
        """See `Operations`."""
        add = value.graph.add
        wrong = add("Or", *(add(operator, value, dtype=np.bool_) for operator in ("IsNaN", "IsInf")))
        count = add("ReduceMax", self.astype(wrong, np.dtype(np.int32)), np.array([axis]), keepdims=0)
        return add("Equal", count, 0, dtype=np.bool_)

    def where(self, condition: Symbol, value: Symbol, other: float) -> Symbol:
        """See `Operations`."""
        return value.graph.add("Where", condition, value, np.full((), other, value.dtype), dtype=value.dtype)


def write_onnx(path: Path, plan: Plan, names: Sequence[str], about: dict[str, Any]) -> None:
    """Writes a graph with one input for each column, and what is known about it as its metadata.

    Args:
        path: the file; one that is there already is replaced.
        plan: of the model.
        names: of the columns.
        about: of the model, as JSON takes it; its `outputs` are in their order.

    Raises:
        ImportError: ONNX is not installed; the message names the extra.
        ValueError: columns without a name, with the same name, or with that of an output.
        OSError: the file cannot be written.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise ImportError("files for ONNX need onnx: pip install 'twohead[onnx]'") from error
    outputs = about["outputs"]
    wrong = {name for name in names if not name or name in outputs or list(names).count(name) > 1}
    if wrong:
        raise ValueError(
            f"feature_names: expected different names, none of them {listed(outputs)}, got {listed(sorted(wrong))}"
        )
    graph, ops = Graph([*names, *outputs]), OnnxOperations()
    columns = [ops.expand_dims(Symbol(graph, name, np.dtype(np.float64)), 1) for name in names]
    found = run(ops, _in_float32(plan), ops.concatenate(columns))
    for name in outputs:
        graph.finish(found[name], name)
    described = helper.make_graph(
        graph.nodes,
        "twohead",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch"]) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch"]) for name in outputs],
        graph.initializers,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in DOMAINS.items()]
    model = helper.make_model(described, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="twohead")
    helper.set_model_props(model, {"twohead": json.dumps(about, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())


def _in_float32(plan: Plan) -> Plan:
    """Returns a plan whose nets compute in float32: runtimes have the activations in no other dtype."""

    def narrowed(layers: Any) -> Any:
        return tuple(tuple(array.astype(np.float32) for array in layer) for layer in layers)

    nets = plan.nets
    heads = tuple(map(narrowed, nets.heads))
    return plan._replace(nets=Nets(narrowed(nets.representation), heads, nets.activation, nets.final_activation))
