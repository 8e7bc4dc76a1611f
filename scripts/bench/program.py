"""What a training's loop is made of once it is lowered for an accelerator; no accelerator is needed to count it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any

from flax_impl.commands.backends import import_backend

from .contestants import Task

# From NVIDIA's data sheet of the H200 SXM: dense products in FLOP/s, and memory in bytes/s.
PEAKS = {"float32": 67e12, "tf32": 494e12, "bfloat16": 989e12}
BANDWIDTH = 4.8e12
# Any of these in the loop has the device wait for its host, or calls what another platform may not have.
WAITS = ("custom_call", "infeed", "outfeed", "send", "recv", "composite")


@dataclass(frozen=True)
class Product:
    """One matrix product, or as many at once as there are replicas.

    Args:
        count: how many at once.
        rows: of the result.
        columns: of the result.
        depth: what is summed over.
        precision: what the program asks for, of either operand.
    """

    count: int
    rows: int
    columns: int
    depth: int
    precision: tuple[str, ...]

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.count * self.rows * self.columns * self.depth

    def padded(self, tile: int) -> int:
        """Returns the FLOPs if rows and columns are filled up to whole tiles."""
        rows, columns = (ceil(length / tile) * tile for length in (self.rows, self.columns))
        return 2 * self.count * rows * columns * self.depth


@dataclass(frozen=True)
class Body:
    """What a loop does in each of its steps.

    Args:
        operations: all of them, those of called functions too.
    """

    operations: tuple[Any, ...]

    @cached_property
    def kinds(self) -> Counter[str]:
        """How often each kind occurs."""
        return Counter(_kind(operation) for operation in self.operations)

    @property
    def waits(self) -> Counter[str]:
        """Those that wait for the host."""
        return Counter({kind: count for kind, count in self.kinds.items() if kind in WAITS})

    @cached_property
    def products(self) -> list[Product]:
        """The matrix products."""
        return [_product(operation) for operation in self.operations if _kind(operation) == "dot_general"]

    @property
    def bytes_of_products(self) -> int:
        """Bytes that the products read and write, each by itself."""
        return sum(
            _bytes(value)
            for operation in self.operations
            if _kind(operation) == "dot_general"
            for value in (*operation.operands, *operation.results)
        )


def loop_body(task: Task, precision: str, replicas: bool = False, loss: Any = None, platform: str = "cuda") -> Body:
    """Lowers a training for a platform and returns its loop's body.

    Args:
        task: what is trained.
        precision: as for `fit`.
        replicas: all of the task's at once, or one training.
        loss: what is minimised; None is the package's own choice.
        platform: such as `"cuda"`.
    """
    import jax
    import numpy as np

    package = import_backend("flax")
    from flax_impl.models.pure import as_pure
    from flax_impl.training.loop import init_state, loop_steps, slice_width
    from flax_impl.training.replicas.vectorised import vectorised_loop
    from flax_impl.training.traced_settings import as_pytree, without_idle_decay

    def shaped(tree: Any, dtype: Any = None) -> Any:
        """Returns the shapes of a tree, with an axis for the replicas in front where there are several."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((task.replicas,) * replicas + np.shape(leaf), dtype or leaf.dtype), tree
        )

    model = package.TwoHead(**task.config)
    optimizer = package.Adam() if replicas else without_idle_decay(package.Adam())  # as each of them is run
    loss = as_pytree(package.FactualLoss() if loss is None else loss)
    params = jax.eval_shape(lambda: model.init_params(0))
    state = (shaped(params), shaped(jax.eval_shape(init_state, optimizer, params)), None)
    steps = slice_width(task.batch_size * (task.replicas if replicas else 1))
    index = shaped(np.empty((steps, task.batch_size), np.int32))
    mask, span = np.ones((steps, task.batch_size), bool), (np.int32(0), np.int32(steps))
    if replicas:
        program: Any = vectorised_loop(as_pure(model), precision, tuple((name, True) for name in task.data), False)
        settings, of_loss = shaped(optimizer, np.float32), shaped(loss, np.float32)
        traced = program.trace(state, settings, dict(task.data), index, mask, span, of_loss, None)
    else:
        program = loop_steps
        traced = program.trace(as_pure(model), state, optimizer, task.data, index, mask, span, loss, precision)
    module = traced.lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
    functions = {operation.attributes["sym_name"].value: operation for operation in module.body.operations}
    (loop,) = (operation for operation in _inside(functions["main"], functions) if _kind(operation) == "while")
    return Body(tuple(_inside(loop.regions[1], functions)))


def _inside(place: Any, functions: dict[str, Any]) -> Iterator[Any]:
    """Yields the operations in a region or an operation, those of the functions that are called too."""
    for region in getattr(place, "regions", [place]):
        for block in region.blocks:
            for operation in block.operations:
                if _kind(operation) == "call":
                    yield from _inside(functions[operation.attributes["callee"].value], functions)
                elif _kind(operation) != "return":
                    yield operation
                    yield from _inside(operation, functions)


def _kind(operation: Any) -> str:
    return operation.operation.name.partition(".")[2]


def _product(operation: Any) -> Product:
    numbers = str(operation.attributes["dot_dimension_numbers"])

    def axes(name: str) -> list[int]:
        found = re.search(rf"{name} = \[([\d, ]*)\]", numbers)
        return [int(axis) for axis in found[1].split(",")] if found and found[1] else []

    left, right = (operand.type.shape for operand in operation.operands)
    batch, depth = axes("lhs_batching_dimensions"), axes("lhs_contracting_dimensions")
    of_right = [*axes("rhs_batching_dimensions"), *axes("rhs_contracting_dimensions")]
    return Product(
        prod(left[i] for i in batch),
        prod(length for i, length in enumerate(left) if i not in [*batch, *depth]),
        prod(length for i, length in enumerate(right) if i not in of_right),
        prod(left[i] for i in depth),
        tuple(re.findall(r"precision (\w+)", str(operation.attributes["precision_config"]))),
    )


def _bytes(value: Any) -> int:
    return prod(value.type.shape) * value.type.element_type.width // 8
