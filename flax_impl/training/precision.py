"""How exactly a training computes; its parameters, its optimiser and its loss stay in the parameters' dtype."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

# What JAX calls them. On a CPU products are exact in any case.
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


def matmul_precision(precision: str) -> AbstractContextManager[Any]:
    """Returns a context in which products are traced with that precision.

    Twin: `torch_ref.precision.matmul_precision`, in which they are computed.
    """
    return jax.default_matmul_precision(PRECISIONS[precision])


def lowered(apply: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """Returns a model's `apply` that computes in bfloat16 where that is asked for, and is left as it is otherwise.

    Parameters and inputs are rounded on the way in; outputs come back in the parameters' dtype, so that the loss sums
    in it, and so do gradients, since the way in is part of what is differentiated.
    """
    if precision != "bfloat16":
        return apply

    def call(variables: Any, *args: Any, **kwargs: Any) -> Any:
        dtype = jax.tree.leaves(variables)[0].dtype
        variables, args, kwargs = jax.tree.map(_to(jnp.bfloat16), (variables, args, kwargs))
        return jax.tree.map(_to(dtype), apply(variables, *args, **kwargs))

    return call


def _to(dtype: Any) -> Callable[[Any], Any]:
    def convert(leaf: Any) -> Any:
        rounded = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)  # a switch is no array
        return leaf.astype(dtype) if rounded else leaf

    return convert
