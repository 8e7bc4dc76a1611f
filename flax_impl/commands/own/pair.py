"""Holds a port of a user's own against its reference: two files, each with a function that builds its side.

The one is in torch and the other in JAX, either way round.
"""

import importlib
import importlib.util
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import listed, shown
from torch_ref.common.record_inputs import named_batches
from torch_ref.common.tape.tape import Tape
from torch_ref.common.trace import Trace

from ..backends import import_backend

_REFERENCE = ("model", "batches", "loss", "optimizer")
_REFERENCE_IN_JAX = ("model", "batches", "loss", "params", "optimizer", "renames", "forward")
_PORT_IN_TORCH = ("model", "loss", "optimizer")
_PORT = ("model", "loss", "params", "shapes", "optimizer", "renames", "forward")
_KEPT = {"torch_ref", "flax_impl", "scripts", "tests"}  # packages that a file of the user's is not made of


@dataclass(frozen=True)
class Side:
    """A file of the user's and the function in it that builds one side.

    Args:
        option: that named it, for errors.
        path: the file.
        function: its name.
    """

    option: str
    path: Path
    function: str

    @classmethod
    def of(cls, option: str, text: str) -> "Side":
        """Returns what `FILE.py:FUNCTION` says; without a function that is `build`.

        Raises:
            ValueError: there is no such file.
        """
        file, _, function = text.rpartition(":") if ".py:" in text else (text, "", "build")
        path = Path(file).resolve()
        if not path.is_file():
            raise ValueError(f"{option}: expected a Python file, as in {option} my_file.py:build, got {shown(text)}")
        return cls(option, path, function)

    def build(self) -> Callable[[], Any]:
        """Returns the function, of a module that is loaded anew.

        Raises:
            ValueError: there is no such function.
        """
        function = getattr(_loaded(self.path), self.function, None)
        if not callable(function):
            raise ValueError(f"{self.option}: expected a function {self.function!r} in {self.path.name}, found none")
        return function

    def files(self) -> set[Path]:
        """Returns the file, and those beside it that are loaded."""
        return {self.path, *_beside(self.path).values()}


@dataclass(frozen=True)
class Recorded:
    """What the reference did.

    Args:
        batches: that it was given.
        step: every operation of its step on the first batch.
        training: its training over all batches, where it brings an optimiser.
        in_jax: what the reference's function returned, where it is in JAX: it runs beside the port.
    """

    batches: list[dict[str, Any]]
    step: Tape | None = None
    training: Trace | None = None
    in_jax: Mapping[str, Any] | None = None


def record_own(build: Callable[[], Any]) -> Recorded:
    """Builds the reference, and runs it where it is in torch.

    Args:
        build: returns the model, the batch or several, and the loss; as a dict also the optimizer. A model in JAX goes
            with its parameters.

    Raises:
        ValueError: what it returns is not what it should.
    """
    made: Any = build()
    model = made.get("model") if isinstance(made, Mapping) else made[0] if isinstance(made, tuple) and made else None
    if model is not None and not _is_of_torch(model):
        parts = _parts("reference", build, made, _REFERENCE_IN_JAX, least=3, most=4)
        return Recorded(_as_batches(parts.pop("batches")), in_jax=parts)
    parts = _parts("reference", build, made, _REFERENCE, least=3, most=4)
    torch_ref = import_backend("torch")
    batches = _as_batches(parts["batches"])
    if parts.get("optimizer") is None:
        return Recorded(batches, torch_ref.recording.record_tape(parts["model"], batches[0], parts["loss"]))
    training = torch_ref.record(parts["model"], batches, parts["loss"], optimizer=parts["optimizer"])
    return Recorded(batches, training=training)


def check_own(build: Callable[[], Any], recorded: Recorded) -> Any:
    """Builds the port and holds it against the reference: a step, or a training where both bring an optimiser.

    Args:
        build: returns the port's model and loss, and its parameters; as a dict also the optimizer and other arguments
            of `check_step` or `check_parity`. Beside a reference in JAX, the model is a torch module; it is given the
            reference's weights.
        recorded: what the reference did.

    Returns:
        A `StepReport`, or a `Report`.

    Raises:
        ValueError: what it returns is not what it should.
    """
    if recorded.in_jax is not None:
        return _check_torch(_parts("port", build, build(), _PORT_IN_TORCH, least=2, most=2), recorded)
    parts = _parts("port", build, build(), _PORT, least=2, most=3)
    optimizer = parts.pop("optimizer", None)
    _check_optimizers(optimizer, recorded.training)
    model, loss = parts.pop("model"), parts.pop("loss")
    if recorded.training is not None:
        flax_impl = import_backend("flax", recorded.training.dtype)
        if "shapes" in parts:
            raise ValueError("port: expected params, or nothing, beside an optimizer, got shapes")
        return flax_impl.check_parity(recorded.training, model, loss, optimizer=optimizer, **parts)
    flax_impl = import_backend("flax")
    if "forward" in parts:
        raise ValueError("port: expected forward beside an optimizer only")
    return flax_impl.parity.check_step(recorded.step, model, recorded.batches[0], loss, **parts)


def _check_torch(parts: dict[str, Any], recorded: Recorded) -> Any:
    """Holds a port in torch against a reference in JAX."""
    own, theirs = dict(recorded.in_jax or {}), parts.get("optimizer")
    model, loss, optimizer = own.pop("model"), own.pop("loss"), own.pop("optimizer", None)
    if not _is_of_torch(parts["model"]):
        raise ValueError(f"port: expected a torch module, as the reference is in JAX, got {shown(parts['model'])}")
    _check_optimizers(theirs, optimizer)
    if optimizer is None and "forward" in own:
        raise ValueError("reference: expected forward beside an optimizer only")
    torch_ref, flax_impl, batch = import_backend("torch"), import_backend("flax"), recorded.batches[0]
    record, params, renames = torch_ref.recording.record_tape, own.pop("params", None), own.get("renames")
    tape = record(torch_ref.recording.with_drawn_state(parts["model"]), batch, parts["loss"], noise=False)
    state = flax_impl.parity.torch_state(tape, model, params, batch, loss, renames=renames)
    module = torch_ref.recording.with_state(parts["model"], state)
    if optimizer is None:
        tape = record(module, batch, parts["loss"])
        return flax_impl.parity.check_step(tape, model, batch, loss, params=params, renames=renames, port="torch")
    trace = torch_ref.record(module, recorded.batches, parts["loss"], optimizer=theirs)
    flax_impl = import_backend("flax", trace.dtype)
    return flax_impl.parity.check_parity(trace, model, loss, optimizer=optimizer, port="torch", **own)


def _check_optimizers(of_port: Any, of_reference: Any) -> None:
    if (of_reference is None) != (of_port is None):
        lacking = "port" if of_port is None else "reference"
        raise ValueError(f"{lacking}: expected an optimizer, since the other side has one; or leave out both")


def _is_of_torch(model: Any) -> bool:
    """Whether a model is a torch module; torch need not be there to ask."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(model).__mro__)


def _parts(
    side: str, build: Callable[[], Any], made: Any, names: tuple[str, ...], *, least: int, most: int
) -> dict[str, Any]:
    """Returns what a function built, by name: a dict, or a tuple of so many of the first ones."""
    order = names[:most]
    called = getattr(build, "__name__", "the function")
    expected = f"{side}: expected {called}() to return ({', '.join(order)}), or a dict of them"
    if isinstance(made, tuple) and least <= len(made) <= len(order):
        return dict(zip(order, made, strict=False))
    if not isinstance(made, Mapping):
        raise ValueError(f"{expected}, got {shown(made)}")
    if unknown := sorted(set(made) - set(names)):
        raise ValueError(f"{side}: expected entries among {listed(names)} from {called}(), got {shown(unknown[0])}")
    if missing := [name for name in order[:least] if name not in made]:
        raise ValueError(f"{expected}, got a dict without {missing[0]}")
    return dict(made)


def converted(report: Any) -> dict[str, np.ndarray]:
    """Returns the port's weights as they come of the reference's, by their dotted names.

    Args:
        report: a `StepReport`.
    """
    to_torch = report.port == "torch"
    tape = report.partners.port if to_torch else report.partners.reference
    weights = {name.partition("/")[2]: n for name, n in tape.leaves.items() if not name.startswith("input/")}
    held = {name: tape.arrays[n].astype(tape.dtypes[n]) for name, n in weights.items() if n in tape.arrays}
    return report.weight_map.state(held) if to_torch else report.weight_map.arrays(held)


def _as_batches(given: Any) -> list[dict[str, Any]]:
    batches = [given] if isinstance(given, Mapping) else given
    if not isinstance(batches, Iterable):
        raise ValueError(f"reference: expected one batch or several as batches, got {shown(given)}")
    return named_batches(batches)


def _loaded(path: Path) -> ModuleType:
    """Returns the module of a file as it is now; what it imports from beside it is loaded anew, too."""
    for name in _beside(path):
        del sys.modules[name]
    linecache.checkcache()
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _beside(path: Path) -> dict[str, Path]:
    """Returns the modules that were loaded from a file's folder and those within it, ours left out."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name.partition(".")[0] in _KEPT or name == "__main__":
            continue
        own = Path(file).resolve()
        if own.is_relative_to(path.parent) and "site-packages" not in own.parts:
            found[name] = own
    return found
