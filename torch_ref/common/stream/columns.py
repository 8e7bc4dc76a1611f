"""Which columns of a table the arrays of a training are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..checks.arguments import listed, shown
from ..data.from_table import choose_features
from .source import column_names, naming


def checked_columns(columns: Any) -> dict[str, tuple[str, ...]]:
    """Returns the names of each array's columns; raises ValueError for what are none."""
    if not isinstance(columns, Mapping) or not columns:
        raise ValueError(f"columns: expected the columns of each array, such as x, t and y, got {shown(columns)}")
    checked = {str(name): _names(f"columns[{name!r}]", of_array) for name, of_array in columns.items()}
    for name, of_array in checked.items():
        if not of_array or (name in ("t", "w") and len(of_array) > 1):
            expected = "one column" if name in ("t", "w") else "at least one column"
            raise ValueError(f"columns[{name!r}]: expected {expected}, got {listed(of_array)}")
    return checked


def choose_columns(
    source: Any,
    *,
    treatment: str,
    outcome: str,
    weight: str | None,
    features: Sequence[str] | None,
    ignore: Sequence[str],
    categories: Sequence[str] = (),
) -> dict[str, str | Sequence[str]]:
    """Returns the columns of x, t, y, and of w where there is a weight; the arguments are those of `load_data`.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: names that are no columns, or that are asked for twice; no feature is left.
    """
    there = column_names(source)
    roles = {"t": treatment, "y": outcome} | ({} if weight is None else {"w": weight})
    with naming(str(source)):
        return {"x": choose_features(there, [*roles.values()], features, ignore, categories), **roles}


def _names(argument: str, names: Any) -> tuple[str, ...]:
    """Returns names of columns, of one or several; raises ValueError for what are none."""
    found = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Sequence) else (None,)
    if not all(isinstance(name, str) for name in found):
        raise ValueError(f"{argument}: expected names of columns, got {shown(names)}")
    return found  # pyright: ignore[reportReturnType]
