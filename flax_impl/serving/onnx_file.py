"""Writes a model as ONNX, which any of its runtimes runs, with an input for each column of the table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import listed
from torch_ref.common.data.columns import Column
from torch_ref.common.files.array_file import replacing

from .graph import DOMAINS, ML, Graph, Symbol
from .onnx_operations import OnnxOperations
from .plan import Layer, Plan
from .program import run

_FLOAT64 = np.dtype(np.float64)
_IR_VERSION = 10  # what runtimes from 2024 on read


def write_onnx(path: Path, plan: Plan, columns: Sequence[Column], about: dict[str, Any]) -> None:
    """Writes a graph with one input for each column, and what is known about it as its metadata.

    Args:
        path: the file; one that is there already is replaced.
        plan: of the model.
        columns: of the table.
        about: of the model, as JSON takes it.

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
    names, outputs = [column.name for column in columns], plan.outputs
    wrong = sorted({name for name in names if not name or name in outputs or names.count(name) > 1})
    if wrong:
        expected = f"different names, none of them {listed(outputs)}"
        raise ValueError(f"feature_names: expected {expected}, got {listed(map(repr, wrong))}")
    graph, ops = Graph([*names, *outputs]), OnnxOperations()
    numbers = [ops.expand_dims(_number(graph, column), 1) for column in columns]
    found = run(ops, _in_float32(plan), ops.concatenate(numbers))
    for name in outputs:
        graph.finish(found[name], name)
    kinds = [TensorProto.STRING if is_text(column) else TensorProto.DOUBLE for column in columns]
    described = helper.make_graph(
        graph.nodes,
        "twohead",
        [helper.make_tensor_value_info(name, kind, ["batch"]) for name, kind in zip(names, kinds, strict=True)],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch"]) for name in outputs],
        graph.initializers,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in DOMAINS.items()]
    model = helper.make_model(described, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="twohead")
    helper.set_model_props(model, {"twohead": json.dumps(about, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())


def is_text(column: Column) -> bool:
    """Returns whether a column's levels are texts."""
    return column.levels is not None and isinstance(column.levels[0], str)


def _number(graph: Graph, column: Column) -> Symbol:
    """Returns a column's numbers: those of its input, or the codes of the levels there."""
    if column.levels is None:
        return Symbol(graph, column.name, _FLOAT64)
    codes = dict(zip(column.levels, map(float, range(len(column.levels))), strict=True))
    gap = np.nan if column.gaps else -1.0
    if is_text(column):
        codes = {"": gap} | codes  # an empty text is a gap, unless training had it as a level
        given = Symbol(graph, column.name, np.dtype(object))
        return _encoded(given, list(codes), np.array(list(codes.values())))
    # Numbers are compared with the levels in ascending order: the next one below may be the one.
    ops, order, given = OnnxOperations(), np.argsort(column.levels), Symbol(graph, column.name, _FLOAT64)
    levels = np.array(column.levels, float)[order]
    place = ops.squeeze(ops.locate(ops.expand_dims(given, 1), [levels], np.zeros(1, int)), 1)
    code = ops.lookup(np.concatenate([[-1.0], order]), place)
    is_level = ops.equal(ops.lookup(np.concatenate([[np.nan], levels]), place), given)
    return ops.where(ops.is_nan(given), gap, ops.where(is_level, code, -1.0))


def _encoded(given: Symbol, keys: list[str], values: np.ndarray) -> Symbol:
    from onnx import numpy_helper

    return given.graph.add(
        "LabelEncoder", given, domain=ML, dtype=_FLOAT64, keys_strings=keys,
        values_tensor=numpy_helper.from_array(values), default_tensor=numpy_helper.from_array(np.array([-1.0])),
    )  # fmt: skip


def _in_float32(plan: Plan) -> Plan:
    """Returns a plan whose nets compute in float32: runtimes have some activations in no other dtype."""

    def narrowed(layers: Sequence[Layer]) -> tuple[Layer, ...]:
        return tuple(
            (tuple(kernel.astype(np.float32) for kernel in kernels), bias.astype(np.float32))
            for kernels, bias in layers
        )

    nets = plan.nets
    return plan._replace(
        nets=nets._replace(
            tables=tuple(table.astype(np.float32) for table in nets.tables),
            representation=narrowed(nets.representation),
            heads=tuple(map(narrowed, nets.heads)),
        )
    )
