"""Reads and replaces the moments in an optimiser's state under torch's names."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# By the field of optax's state; where a class gives a field another meaning, by class and field.
_NAMES = {
    "mu": "exp_avg",
    "nu": "exp_avg_sq",
    "mean": "exp_avg",
    "square": "exp_avg_sq",
    "trace": "momentum_buffer",
    "nu_max": "max_exp_avg_sq",
    "sum_of_squares": "sum",
    "ScaleByRmsState.nu": "square_avg",
    "ScaleByRmsWithCountState.nu": "square_avg",
    "ScaleByRStdDevState.mu": "grad_avg",
    "ScaleByRStdDevState.nu": "square_avg",
    "ScaleByRStdDevWithCountState.mu": "grad_avg",
    "ScaleByRStdDevWithCountState.nu": "square_avg",
}


def moments_of(state: Any, params: Any) -> dict[str, Any]:
    """Returns the moments by torch's name, each a pytree like `params`."""
    found: dict[str, Any] = {}

    def keep(name: str, tree: Any) -> Any:
        found.setdefault(name, tree)
        return tree

    _rebuilt(state, jax.tree.structure(params), keep, lambda count: count)
    return found


def with_moments(state: Any, params: Any, moments: Mapping[str, Any], steps: int) -> Any:
    """Returns the state with these moments, and with `steps` in its counters; other parts stay as they are."""
    return _rebuilt(
        state,
        jax.tree.structure(params),
        lambda name, tree: moments.get(name, tree),
        lambda count: jnp.full_like(count, steps),
    )


def _rebuilt(state: Any, like: Any, moment: Callable[[str, Any], Any], count: Callable[[Any], Any]) -> Any:
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        kind = type(state).__name__
        parts = {}
        for field, part in zip(state._fields, state, strict=True):  # pyright: ignore[reportAttributeAccessIssue]
            name = _NAMES.get(f"{kind}.{field}", _NAMES.get(field))
            if name is not None and jax.tree.structure(part) == like:
                parts[field] = moment(name, part)
            elif field in ("count", "step") and np.ndim(part) == 0:
                parts[field] = count(part)
            else:
                parts[field] = _rebuilt(part, like, moment, count)
        return type(state)(**parts)
    if isinstance(state, tuple | list):
        return type(state)(_rebuilt(part, like, moment, count) for part in state)
    if isinstance(state, dict):
        return {name: _rebuilt(part, like, moment, count) for name, part in state.items()}
    return state
