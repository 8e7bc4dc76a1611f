"""The trace: everything that a training computed, written down under torch's names and in torch's layout."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .checks.arguments import check_choice, listed, shown
from .files.array_file import read_arrays, write_arrays
from .tape.tape import Tape, unpacked

# In the order in which they happen. `param` is there for step 0 only: a later step starts from the `update` and the
# `buffer` of the one before.
PHASES = (
    "input",  # the batch
    "param",  # parameters and buffers
    "module_input",  # what a submodule was called with
    "activation",  # what it returned
    "output",  # what the model returned
    "buffer",  # what the forward pass left in the buffers
    "loss",
    "cotangent",  # the gradient that arrives at a submodule's output
    "grad",  # by the parameters and by the inputs
    "state",  # the optimiser's, after the step: `head0.layer0.weight.exp_avg`
    "update",  # the parameters after the step
)

# How far rounding moves the reference itself, `noise/grad/head0.layer0.weight`; a number for each entry.
NOISE = "noise"
FREE = "free"  # the same of a training that started a rounding away: `noise/free/update/head0.layer0.weight`

_FLOATS = ("param", "loss", "cotangent", "grad", "state", "update", NOISE)

_FORMAT = "trace/1"
# The tapes in a file, by the name of the field.
_TAPES = {"tapes": "tape", "forward_tapes": "forward_tape"}

_METADATA: dict[str, type] = {
    "framework": str,
    "model": str,
    "config": dict,
    "loss": str,
    "optimizer": dict,
    "dtype": str,
    "modules": dict,
    "calls": list,
    "inputs": list,
    "buffers": list,
    "frozen": list,
    "versions": dict,
    "recipe": dict,
}


@dataclass(frozen=True)
class Trace:
    """What one framework did, step by step; `record` makes it.

    Args:
        arrays: by `step/phase/name`, such as `0/grad/head1.layer2.weight`; the phases are `PHASES`. A module that is
            called again in the same step has a number: `hidden1`, `hidden1#1`.
        metadata: `framework`, `model`, `config` (constructor arguments), `loss`, `optimizer` (its `name`, every
            hyper-parameter, and `lr`, the rate of each step and of the one to come), `dtype`, `modules` (class by
            name), `calls` (what was called, in order of return), `inputs` (the entries of the batch that gradients are
            taken by), `buffers`, `frozen` (parameters that are not trained), `versions`, and `recipe` (whatever it
            takes to make the batches again).
        tapes: the operations of some steps, by the step.
        forward_tapes: those of `forward`, where the outputs are not those of the loss's own calls.

    Example:
        >>> arrays = {"0/param/w": np.ones(2), "0/loss/y": np.array(0.5), "0/update/w": np.zeros(2)}
        >>> trace = Trace(arrays, {"dtype": "float64"})
        >>> trace.steps
        1
        >>> trace.params(0)["w"].tolist(), trace.params(1)["w"].tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]
    tapes: Mapping[int, Tape] = field(default_factory=dict)
    forward_tapes: Mapping[int, Tape] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return 1 + max(step for step, _ in self._by_phase)

    @property
    def dtype(self) -> str:
        """What the training computed in: float64 or float32."""
        return self.metadata["dtype"]

    def phase(self, step: int, phase: str) -> dict[str, np.ndarray]:
        """Returns the arrays of one phase of one step, by name; nothing where the trace has none.

        Args:
            step: from 0.
            phase: one of `PHASES`, such as "grad".
        """
        return self._by_phase.get((step, phase), {})

    def params(self, step: int) -> dict[str, np.ndarray]:
        """Returns the parameters and buffers that a step starts from, in the trace's dtype.

        Args:
            step: from 0; the number of steps gives what the last one left.
        """
        found = self.phase(0, "param") if step == 0 else self.phase(step - 1, "update") | self.phase(step - 1, "buffer")
        return {name: self._rounded(array) for name, array in found.items()}

    def state(self, step: int) -> dict[str, np.ndarray]:
        """Returns the optimiser's state that a step starts from, in the trace's dtype; nothing before the first.

        Args:
            step: from 0; the number of steps gives what the last one left.
        """
        return {name: self._rounded(array) for name, array in self.phase(step - 1, "state").items()}

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of a step, in the trace's dtype.

        Args:
            step: from 0.
        """
        return {name: self._rounded(array) for name, array in self.phase(step, "input").items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the trace to a safetensors file, whole or not at all.

        Args:
            path: the file; its folder is made where there is none.

        Raises:
            TypeError: metadata that JSON does not hold.
        """
        arrays, content = dict(self.arrays), {}
        for field_name, key in _TAPES.items():
            for step, tape in getattr(self, field_name).items():
                packed, content.setdefault(key, {})[str(step)] = tape.packed()
                arrays |= {f"{key}/{step}/{name}": array for name, array in packed.items()}
        write_arrays(path, arrays, {"format": _FORMAT, **self.metadata, **content})

    @cached_property
    def _by_phase(self) -> dict[tuple[int, str], dict[str, np.ndarray]]:
        found: dict[tuple[int, str], dict[str, np.ndarray]] = {}
        for key, array in self.arrays.items():
            step, phase, name = key.split("/", 2)
            found.setdefault((int(step), phase), {})[name] = array
        return found

    def _rounded(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.dtype) if array.dtype == np.float64 else array


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Returns the trace that `Trace.save` wrote, in either framework.

    Args:
        path: the file.

    Returns:
        The trace, equal in every bit to what was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no trace, or lacks a part that a trace has.

    Example:
        >>> metadata = {"framework": "torch", "model": "Line", "loss": "squared_error", "dtype": "float64"}
        >>> metadata |= dict.fromkeys(("config", "optimizer", "modules", "versions", "recipe"), {})
        >>> metadata |= dict.fromkeys(("calls", "inputs", "buffers", "frozen"), [])
        >>> phases = {"param": np.ones(2), "loss": np.ones(()), "grad": np.ones(2), "update": np.zeros(2)}
        >>> trace = Trace({f"0/{phase}/w": array for phase, array in phases.items()}, metadata)
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     trace.save(os.path.join(folder, "line.safetensors"))
        ...     load_trace(os.path.join(folder, "line.safetensors")).params(1)["w"].tolist()
        [0.0, 0.0]
    """
    arrays, metadata = read_arrays(path)
    try:
        check_choice("format", metadata.pop("format", None), [_FORMAT])
        tapes = {name: _tapes(key, arrays, metadata.pop(key, {})) for name, key in _TAPES.items()}
        prefixes = tuple(f"{key}/" for key in _TAPES.values())
        arrays = {name: array for name, array in arrays.items() if not name.startswith(prefixes)}
        _check_metadata(metadata)
        _check_arrays(arrays, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Trace(arrays, metadata, **tapes)


def _tapes(key: str, arrays: Mapping[str, np.ndarray], packed: Any) -> dict[int, Tape]:
    """Returns the tapes in a file, by step."""
    try:
        return {
            int(step): unpacked(
                {name.split("/", 2)[2]: array for name, array in arrays.items() if name.startswith(f"{key}/{step}/")},
                content,
            )
            for step, content in packed.items()
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected the tapes of some steps, got {shown(error)}") from error


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    for name, kind in _METADATA.items():
        if not isinstance(metadata.get(name), kind):
            raise ValueError(
                f"{name}: expected a {kind.__name__} in the trace's metadata, got {shown(metadata.get(name))}"
            )
    check_choice("dtype", metadata["dtype"], ("float32", "float64"))
    for name, kind in metadata["modules"].items():
        if not isinstance(kind, str):
            raise ValueError(f"modules: expected the class of {shown(name)} by name, got {shown(kind)}")


def _check_arrays(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Raises ValueError unless each step is whole: a part that is missing must not pass for one that agrees."""
    steps: dict[int, dict[str, set[str]]] = {}
    for key, array in arrays.items():
        step, _, rest = key.partition("/")
        phase, _, name = rest.partition("/")
        if not step.isdecimal() or str(int(step)) != step or phase not in (*PHASES, NOISE) or not name:
            raise ValueError(f"expected entries named step/phase/name, got {shown(key)}")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{shown(key)}: expected numbers, got {array.dtype}")
        if phase in _FLOATS and array.dtype.kind != "f":
            raise ValueError(f"{shown(key)}: expected floating numbers, got {array.dtype}")
        if phase == NOISE and (array.ndim or not array >= 0):
            raise ValueError(f"{shown(key)}: expected one number of at least 0, got {shown(array)}")
        steps.setdefault(int(step), {}).setdefault(phase, set()).add(name)
    if sorted(steps) != list(range(len(steps))) or not steps:
        raise ValueError(f"expected steps from 0 on, none left out, got {listed(sorted(steps))}")
    params = steps[0].get("param", set())
    buffers, calls, inputs = (set(map(str, metadata[name])) for name in ("buffers", "calls", "inputs"))
    trained = params - buffers - set(map(str, metadata["frozen"]))
    for step, found in steps.items():
        by_input = {
            name
            for name in inputs
            if f"{step}/input/{name}" in arrays and arrays[f"{step}/input/{name}"].dtype.kind == "f"
        }
        wanted = {
            "activation": calls,
            "input": inputs,
            "buffer": buffers,
            "grad": trained | by_input,
            "update": params - buffers,
        }
        for phase, names in wanted.items():
            if missing := sorted(names - found.get(phase, set())):
                raise ValueError(f"step {step}: expected {phase} of {listed(missing)}, got none")
        if not params or not found.get("loss"):
            raise ValueError(f"step {step}: expected parameters and a loss, got none")
        for phase in ("module_input", "output", "cotangent") if calls else ():
            if not found.get(phase):
                raise ValueError(f"step {step}: expected entries of {phase}, got none")
