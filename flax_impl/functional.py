"""Modules of either of Flax's APIs as pure functions of their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from flax import nnx

from .hub.checks import listed, shown
from .layers import Params


@dataclass(frozen=True)
class Functional:
    """An NNX module without its parameters, to be called as a Linen module is: with them, each time.

    Two modules of one structure are equal, so that a program compiled for one does for the other.

    Args:
        structure: of the module, as `nnx.split` gives it.
    """

    structure: nnx.GraphDef[Any]

    def apply(self, variables: Mapping[str, Params], *args: Any, **kwargs: Any) -> Any:
        """Returns what the module makes of its inputs with `variables["params"]`."""
        return nnx.merge(self.structure, nnx.State(dict(variables["params"])))(*args, **kwargs)


Module = nn.Module | nnx.Module  # holds its parameters (NNX) or not (Linen)
Pure = nn.Module | Functional  # takes its parameters with every call


def functional(model: Any) -> Pure:
    """Returns the model as what takes its parameters with every call: a Linen module is that already.

    Raises:
        ValueError: no module of Flax's, or an NNX module that holds more than parameters.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model: expected a module of Linen's or NNX's, got {shown(model)}")
    structure, _, others = nnx.split(model, nnx.Param, ...)
    if kinds := {type(leaf).__name__ for leaf in nnx.to_flat_state(others).leaves}:
        raise ValueError(f"model: expected parameters and nothing else that moves, got {listed(sorted(kinds))}")
    return Functional(structure)


def params_of(model: nnx.Module) -> Params:
    """Returns an NNX module's parameters as the tree that its Linen twin takes; `nnx.update` sets them."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))
