"""Reads what `record` is given: batches, the model's inputs and its constructor's arguments."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .checks.arguments import check_choice


def named_batches(batches: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the batches as dictionaries.

    Raises:
        ValueError: there is none, or one has no names.
    """
    found = list(batches)
    if not found:
        raise ValueError("batches: expected at least one, got none")
    for batch in found:
        if not isinstance(batch, Mapping):
            raise ValueError(
                "batches: expected a mapping for each step, such as {'x': x, 'y': y}, by the names that the loss gives "
                f"them, got {type(batch).__name__}"
            )
    return [dict(batch) for batch in found]


def input_names(call: Callable[..., Any], batch: Mapping[str, Any], wanted: Sequence[str] | None) -> list[str]:
    """Returns the entries of the batch that the model is called with: those its call names, or else the first.

    Raises:
        ValueError: `wanted` names an entry that the batch lacks.
    """
    if wanted is None:
        named = [
            name
            for name, parameter in inspect.signature(call).parameters.items()
            if name in batch and parameter.default is parameter.empty
        ]
        return named or [next(iter(batch))]
    for name in wanted:
        check_choice("inputs", name, batch)
    return list(wanted)


def config_of(model: object) -> dict[str, Any]:
    """Returns the constructor's arguments that a model tells, where JSON can hold them."""
    config = getattr(model, "config", {})
    try:
        return json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError):
        return {}
