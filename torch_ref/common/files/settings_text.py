"""What a training is, as texts: its settings and data, so that a checkpoint of another training is told apart."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import re
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

_SHOWN = 60  # characters of a setting in a message
_DEPTH = 12  # of values in values


def training_settings(weights: Mapping[str, np.ndarray], data: Mapping[str, Any], **settings: Any) -> dict[str, str]:
    """Returns a text for each setting of a training; two trainings with the same texts take the same steps.

    Args:
        weights: the first ones, by name.
        data: the rows, by name.
        settings: all others; `model` may be its text.
    """
    texts = {name: setting_text(name, value) for name, value in settings.items()}
    first = f"{len(weights)} arrays {hashlib.sha256(text_of(weights).encode()).hexdigest()}"
    return texts | {"first weights": first, "data": text_of(data)}


def setting_text(name: str, value: Any) -> str:
    """Returns the text of a setting; `model` may be its text already, and row numbers are the same in any form."""
    if name == "model" and isinstance(value, str):
        return value
    if name in ("rows", "validation_rows") and value is not None:
        value = np.asarray(value, np.int64)
    return text_of(value)


def model_text(model: Any, otherwise: Any = None) -> str:
    """Returns a text of a model: its class and constructor's arguments, or of what stands for it otherwise."""
    config = getattr(model, "config", None)
    if isinstance(config, Mapping):
        return f"{type(model).__name__}{text_of(config)}"
    return text_of(model if otherwise is None else otherwise)


def text_of(value: Any, within: tuple[int, ...] = ()) -> str:
    """Returns a text that is the same in every process, and another one for another value; arrays by their sha256.

    Args:
        value: what to tell apart from others.
        within: the ids of functions and objects that hold it; they may hold one another, and the innermost of many
            are known by their types.
    """
    if isinstance(value, np.ndarray | np.generic) or (hasattr(value, "__array__") and hasattr(value, "shape")):
        array = np.asarray(getattr(value, "detach", lambda: value)(), order="C")
        if array.dtype.hasobject:  # their bytes are places in memory
            return f"{array.dtype}{list(array.shape)} {text_of(array.tolist(), within)}"
        return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if id(value) in within or len(within) > _DEPTH:
        return text_of(type(value))
    inner = (*within, id(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {text_of(each, inner)}' for name, each in sorted(value.items(), key=_name))}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(text_of(each, inner) for each in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(text_of(each, inner) for each in value))}}}"
    if isinstance(value, types.FunctionType):
        return _function(value, inner)
    if isinstance(value, types.MethodType):
        return f"{_function(value.__func__, inner)} of {text_of(value.__self__, inner)}"
    if isinstance(value, functools.partial):
        return f"partial({text_of([value.func, *value.args], inner)}, {text_of(value.keywords, inner)})"
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        if {"parent", "name"} <= {*names}:  # a layer of flax: its place
            names = [name for name in names if name not in ("parent", "name")]
        return f"{type(value).__name__}({', '.join(f'{n}={text_of(getattr(value, n, None), inner)}' for n in names)})"
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    held = {} if isinstance(value, types.ModuleType) else getattr(value, "__dict__", {})
    return f"{text}{text_of(held, inner)}" if held else text


def versions_of(*packages: str) -> dict[str, str]:
    """Returns the version of each package that is installed, without importing it."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a clone that was not installed
            found[package] = "unknown"
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns a phrase for each setting that differs; of long texts, what lies around the first difference."""
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            old, new = _where_they_differ(old, new)
            found.append(f"{name}: expected {old}, got {new}")
    return found


def _name(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _function(function: types.FunctionType, within: tuple[int, ...]) -> str:
    """Returns a function's name, with the sha256 of its source and of the values that it holds."""
    code = function.__code__
    try:
        source = inspect.getsource(code)
        if source.count("lambda") > 1:  # which of them?
            source += _compiled(code)
    except (OSError, TypeError):
        source = _compiled(code)
    held: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            held.append(cell.cell_contents)
    digest = hashlib.sha256(f"{source} {text_of(held, within)}".encode()).hexdigest()
    return f"{function.__module__}.{function.__qualname__} {digest}"


def _compiled(code: types.CodeType) -> str:
    """Returns what a function was compiled to, and those inside it."""
    held = [_compiled(each) if isinstance(each, types.CodeType) else text_of(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {held}"


def _where_they_differ(old: str, new: str) -> tuple[str, str]:
    if max(len(old), len(new)) <= _SHOWN:
        return old, new
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - _SHOWN // 3)
    cut = []
    for text in (old, new):
        part = text[start : start + _SHOWN]
        cut.append(f"{'…' if start else ''}{part}{'…' if len(text) > start + _SHOWN else ''}")
    return cut[0], cut[1]
