"""Settings made by name, as a command line or a file gives them."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from ..checks.arguments import check_choice

_Settings = TypeVar("_Settings")


def make_settings(
    kind: str, known: Mapping[str, type[_Settings]], name: str, arguments: Mapping[str, Any]
) -> _Settings:
    """Returns the settings of that name, a dataclass made with these arguments.

    Args:
        kind: what they are settings of, for the messages.
        known: the dataclasses by name.
        name: which of them.
        arguments: its fields.

    Raises:
        ValueError: an unknown name, an argument that it does not have, or none for a field without default; the message
            lists what there is.
    """
    check_choice(kind, name, known)
    allowed: list[Any] = list(fields(known[name]))  # pyright: ignore[reportArgumentType] (they are dataclasses)
    for argument in arguments:
        check_choice(f"argument of {name}", argument, [field.name for field in allowed])
    for field in allowed:
        if field.default is MISSING and field.name not in arguments:
            raise ValueError(f"{field.name}: expected a value, as {name} has no default for it, got none")
    return known[name](**arguments)
