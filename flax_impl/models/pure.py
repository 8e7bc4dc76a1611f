"""Modules of either of Flax's APIs as pure functions of their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from torch_ref.common.checks.arguments import listed, shown
from torch_ref.common.checks.arrays import misfits

from .layers import Params


@dataclass(frozen=True)
class PureNNX:
    """An NNX module without its parameters, to be called as a Linen module is: with them, each time.

    Two modules of one structure are equal, so that a program compiled for one does for the other.

    Args:
        structure: of the module, as `nnx.split` gives it.
        shapes: of its parameters, by path.
        code_columns: how many of the last columns of its first input hold codes.
    """

    structure: nnx.GraphDef[Any]
    shapes: tuple[tuple[tuple[Any, ...], tuple[int, ...]], ...]
    code_columns: int = 0

    def apply(self, variables: Mapping[str, Params], *args: Any, **kwargs: Any) -> Any:
        """Returns what the module makes of its inputs with `variables["params"]`.

        Raises:
            ValueError: parameters missing or unexpected, or of another shape; one error lists all. NNX itself would
                take them one by one, in alphabetical order.
        """
        flat: dict[tuple[Any, ...], Any] = flatten_dict(dict(variables["params"]))
        given = {_name(path): leaf for path, leaf in flat.items()}
        shapes = {name: jnp.shape(leaf) for name, leaf in given.items()}
        if wrong := misfits(shapes, {_name(path): shape for path, shape in self.shapes}):
            raise ValueError(f"params: expected those of the model, got {'; '.join(wrong)}")
        leaves = {path: given[_name(path)] for path, _ in self.shapes}
        return nnx.merge(self.structure, nnx.State(unflatten_dict(leaves)))(*args, **kwargs)


Module = nn.Module | nnx.Module  # holds its parameters (NNX) or not (Linen)
Pure = nn.Module | PureNNX  # takes its parameters with every call


def as_pure(model: Any) -> Pure:
    """Returns the model as what takes its parameters with every call: a Linen module is that already.

    Raises:
        ValueError: no module of Flax's, or an NNX module that holds more than parameters.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model: expected a module of Linen's or NNX's, got {shown(model)}")
    structure, params, others = nnx.split(model, nnx.Param, ...)
    if more := [f"{_name(path)} ({type(leaf).__name__})" for path, leaf in nnx.to_flat_state(others)]:
        raise ValueError(f"model: expected parameters and nothing else that moves, got {listed(sorted(more))}")
    shapes = tuple((path, tuple(leaf.shape)) for path, leaf in nnx.to_flat_state(params))
    return PureNNX(structure, shapes, code_columns_of(model))


def code_columns_of(model: Any) -> int:
    """Returns how many of the last columns of a model's first input hold codes, which nothing may round."""
    return getattr(model, "code_columns", 0)


def params_of(model: nnx.Module) -> Params:
    """Returns an NNX module's parameters as the tree that its Linen twin takes; `nnx.update` sets them."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))  # NNX numbers the modules of a list; a file has text only
