"""Opens a model: its parameters, its buffers and the rest, each array by its path."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from torch_ref.common.checks.arguments import shown
from torch_ref.common.trace import Trace

from ..weight_map.map import WeightMap, propose_map
from ..weight_map.units import LeafPath, Shape

# What torch calls the leaves of Linen and NNX.
_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclass(frozen=True)
class Variables:
    """Holds a model's arrays: parameters, buffers (BatchNorm's statistics), and the rest (random keys, counts)."""

    params: Any
    buffers: Any
    others: Any

    def named(self) -> dict[LeafPath, Array]:
        """Returns parameters and buffers by their path, which starts with the collection."""
        return {
            _path(collection, keys): leaf
            for collection, tree in (("params", self.params), ("batch_stats", self.buffers))
            for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }

    def replaced(self, named: Mapping[LeafPath, Any]) -> "Variables":
        """Returns the same with other arrays, by path; those that are not named stay."""

        def put(collection: str, tree: Any) -> Any:
            def leaf_of(keys: Any, leaf: Any) -> Any:
                path = _path(collection, keys)
                return jnp.asarray(named[path]) if path in named else leaf

            return jax.tree_util.tree_map_with_path(leaf_of, tree)

        return Variables(put("params", self.params), put("batch_stats", self.buffers), self.others)

    def shapes(self) -> dict[LeafPath, Shape]:
        """Returns the shapes of parameters and buffers by their path."""
        return {path: tuple(leaf.shape) for path, leaf in self.named().items()}

    def at_step(self, step: int, names: WeightMap, reference: Trace) -> "Variables":
        """Returns the same with the parameters and buffers that a step of the reference starts from."""
        return self.replaced(names.to_flax(reference.params(step)))

    def filled(self, dtype: str) -> "Variables":
        """Returns the same with zeros in place of shapes, floating ones in that dtype."""

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf
            return jnp.zeros(leaf.shape, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

        return jax.tree.map(fill, self)


jax.tree_util.register_dataclass(Variables, ["params", "buffers", "others"], [])


def open_model(model: Any, params: Any) -> tuple[Any, Variables]:
    """Returns a Linen module as it is, or an NNX one's structure; and the variables."""
    if isinstance(model, nnx.Module):
        graph, own, buffers, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        return graph, Variables(own, buffers, others)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a module of Linen's or NNX's, got {shown(model)}")
    if params is None:
        raise ValueError("params: expected a Linen module's parameters, got None")
    collections = dict(params) if "params" in params else {"params": params}
    return model, Variables(collections.pop("params"), collections.pop("batch_stats", {}), collections)


def linen_shapes(model: Any, loss: Callable[..., Any], batch: Mapping[str, Any]) -> Any:
    """Returns the shapes of a Linen module's variables, from the call in the loss; None for other models."""
    if not isinstance(model, nn.Module):
        return None
    first = {name: jnp.asarray(array) for name, array in batch.items()}
    init = nn.init(lambda module, batch: loss(module, **batch), model)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    with jax.numpy_dtype_promotion("standard"):  # Linen draws float32 whatever comes in; only shapes matter here
        return jax.eval_shape(init, keys, first)


def own_names(shapes: Mapping[LeafPath, Shape]) -> WeightMap:
    """Returns the map of a port without a reference: its own names with torch's words for the leaves."""
    turned = {}
    for path, shape in shapes.items():
        if path[-1] == "kernel":  # torch's layout
            shape = shape[::-1] if len(shape) < 3 else (*shape[-1:-3:-1], *shape[:-2])
        turned[".".join((*path[1:-1], _TORCH_LEAVES.get(path[-1], path[-1])))] = shape
    return propose_map(turned, shapes)


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns floating numbers in that dtype, and others as they are."""
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _path(collection: str, keys: Any) -> LeafPath:
    # NNX wraps each array in a variable, whose `value` is no part of the name.
    names = [getattr(key, "key", getattr(key, "idx", None)) for key in keys]
    return (collection, *(str(name) for name in names if name is not None))
