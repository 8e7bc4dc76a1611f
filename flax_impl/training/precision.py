"""How exactly a training computes; its parameters, its optimiser and its loss stay in the parameters' dtype."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from ..models.pure import Pure, code_columns_of

# What JAX calls them. On a CPU products are exact in any case.
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


def matmul_precision(precision: str) -> AbstractContextManager[Any]:
    """Returns a context in which products are traced with that precision.

    Twin: `torch_ref.precision.matmul_precision`, in which they are computed.
    """
    return jax.default_matmul_precision(PRECISIONS[precision])


def lowered(model: Pure, precision: str) -> Callable[..., Any]:
    """Returns a model's `apply` that computes in bfloat16 where that is asked for, and is left as it is otherwise.

    Parameters and inputs are rounded on the way in; outputs come back in the parameters' dtype, so that the loss sums
    in it, and so do gradients, since the way in is part of what is differentiated. A model that takes codes rounds its
    inputs itself: bfloat16 counts to 256 only.
    """
    if precision != "bfloat16":
        return model.apply
    keeps_inputs = code_columns_of(model) > 0

    def call(variables: Any, *args: Any, **kwargs: Any) -> Any:
        dtype, rounded = jax.tree.leaves(variables)[0].dtype, _to(jnp.bfloat16)
        variables = jax.tree.map(rounded, variables)
        if not keeps_inputs:
            args, kwargs = jax.tree.map(rounded, (args, kwargs))
        return jax.tree.map(_to(dtype), model.apply(variables, *args, **kwargs))

    return call


def _to(dtype: Any) -> Callable[[Any], Any]:
    def convert(leaf: Any) -> Any:
        rounded = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)  # a switch is no array
        return leaf.astype(dtype) if rounded else leaf

    return convert
