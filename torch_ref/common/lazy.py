"""Packages that import a name when it is first used (PEP 562), so that a side loads its framework only where needed."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns a package's `__getattr__`, `__dir__` and `__all__`, read from the imports in its `__init__.pyi`.

    Type checkers read the same file, so each name is listed once.

    Args:
        package: its `__name__`.
        file: its `__file__`.
    """
    homes: dict[str, tuple[str, str]] = {}  # the module of each name, and its name there; a submodule has none
    for node in ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = ".".join([package] * node.level + [node.module or ""]).rstrip(".")  # one dot, or absolute
            for alias in node.names:
                homes[alias.name] = (module, alias.name) if node.module else (f"{module}.{alias.name}", "")

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = homes[name]
        value = importlib.import_module(module)
        value = getattr(value, attribute) if attribute else value
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes), sorted(homes)


def require(module: str, user: str, extra: str) -> None:
    """Raises ImportError, naming the extra that brings the module, unless it can be imported.

    Args:
        module: what is needed, such as `"torch"`; it is looked for, not imported.
        user: what needs it, for the message.
        extra: of this project's package.
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{user} needs {module}: pip install 'twohead[{extra}]'")
