"""Asks exported models in a fresh process that has none of our packages, and single operations of either format."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from flax_impl.serving.graph import DOMAINS, Graph, Symbol
from flax_impl.serving.onnx_file import OnnxOperations
from flax_impl.serving.stablehlo import JaxOperations

OURS = ("flax_impl", "torch_ref")
FRAMEWORKS = ("flax", "optax", "chex", "torch", "catboost", "sklearn", "onnx", "safetensors", "jaxtyping")
BLOCK = "import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n"
_ONNX = """
import json
import numpy as np
import onnxruntime

def load(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]
    columns = json.loads(session.get_modelmeta().custom_metadata_map["twohead"])["columns"]
    return lambda x: dict(zip(outputs, session.run(None, dict(zip(inputs, map(as_in_a_table, columns, x.T))))))

def as_in_a_table(column, values):
    if column["levels"] is None:
        return values
    levels, text = column["levels"], isinstance(column["levels"][0], str)
    unseen, gap = ("never seen", "") if text else (1e9, np.nan)
    found = [gap if value != value else unseen if value < 0 else levels[int(value)] for value in values]
    return np.array(found, object if text else float)
"""
_STABLEHLO = """
import zipfile
import jax

jax.config.update("jax_enable_x64", True)

def load(path):
    with zipfile.ZipFile(path) as file:
        program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
    return program.call
"""
_RUN = """
from pathlib import Path
import numpy as np

for file in sorted(Path().glob("*.file")):
    model, x = load(file), np.load(file.with_suffix(".npy"))
    for rows in {sizes!r}:
        np.savez(f"{{file.stem}}.{{rows}}.npz", **model(x[:rows]))
"""


def answers(folder: Path, format: str, sizes: Sequence[int]) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Returns what the exported models in a folder say, by the model's name, the number of rows, and the output.

    Args:
        folder: with `NAME.file`, a model, and `NAME.npy`, rows, for each.
        format: of the models.
        sizes: how many of the rows each is asked about.
    """
    blocked = (*OURS, *FRAMEWORKS, *(("jax", "jaxlib") if format == "onnx" else ("onnxruntime",)))
    program = BLOCK.format(names=blocked) + (_ONNX if format == "onnx" else _STABLEHLO) + _RUN.format(sizes=sizes)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [file.stem for file in folder.glob("*.file")]
    return {name: {rows: _read(folder / f"{name}.{rows}.npz") for rows in sizes} for name in names}


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def on_onnx(compute: Any, x: np.ndarray) -> np.ndarray:
    """Returns what a graph computes of a matrix."""
    graph = Graph(["x", "y"])
    found = compute(OnnxOperations(), Symbol(graph, "x", np.dtype(np.float64)))
    graph.finish(found, "y")
    kind = helper.np_dtype_to_tensor_dtype(found.dtype)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "test",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["rows", x.shape[1]])],
            [helper.make_tensor_value_info("y", kind, None)], graph.initializers,
        ),
        opset_imports=[helper.make_opsetid(*each) for each in DOMAINS.items()], ir_version=10,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def on_jax(compute: Any, x: np.ndarray) -> np.ndarray:
    """Returns what a jitted function computes of a matrix, in 64-bit mode."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda x: compute(JaxOperations(), x))(x))
