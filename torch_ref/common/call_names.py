"""Names of what a trace holds: calls of modules, and the parts of what they take and return."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def leaves(value: Any) -> dict[str, Any]:
    """Returns what a module takes or returns, by the end of its name: `` for the first, then `[1]`, and so on."""
    found: list[tuple[str, Any]] = []

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value, key=str):  # whatever order the two sides put them in
                walk(value[name], f"[{name}]" if not key else f"{key[:-1]}.{name}]")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for i, part in enumerate(value):
                walk(part, f"[{i}]" if not key else f"{key[:-1]}.{i}]")
        elif value is not None:
            found.append((key, value))

    walk(value, "")
    return {"" if i == 0 else key: leaf for i, (key, leaf) in enumerate(found)}


def call_name(module: str, index: int) -> str:
    """Returns the name of a module's call: `hidden1`, then `hidden1#1`, and so on."""
    return f"{module}#{index}" if index else module


def module_of(name: str) -> str:
    """Returns the module of an entry: without the number of the call and the place in a tuple."""
    return name.partition("#")[0].partition("[")[0]


def containers(calls: Sequence[str]) -> set[str]:
    """Returns the modules that other called modules belong to."""
    modules = {call.partition("#")[0] for call in calls}
    return {module for module in modules if any(other.startswith(f"{module}.") for other in modules)}


def summed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a loss of all that a function returns, so that its operations can be recorded as a loss's are."""

    def loss(model: Any, **batch: Any) -> list[Any]:
        return [array.sum() for array in leaves(forward(model, **batch)).values()]

    return loss
