"""The tape: every operation of one forward and backward pass, and a fingerprint of every value; in a file, too."""

import json
import linecache
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..checks.arguments import check_choice, shown
from ..files.array_file import read_arrays, write_arrays
from .fingerprint import Fingerprint

FORMAT = "tape/1"


@dataclass(frozen=True)
class Line:
    """A line of source code.

    Args:
        file: its path, from the package or the working folder on.
        number: from 1.
        function: that it stands in.
        text: the line itself, without its indentation.
    """

    file: str
    number: int
    function: str = ""
    text: str = ""

    @classmethod
    def of(cls, path: str, number: int, function: str = "") -> "Line":
        """Returns a line with its text, where the file can be read."""
        return cls(_short(path), number, function, linecache.getline(path, number).strip())

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}" if self.text else f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: what the framework calls it, such as `aten.addmm` or `dot_general`.
        inputs: numbers of the values that went in.
        outputs: numbers of the values that came out.
        constants: what else it was given, by name.
        lines: of the source, the innermost first; of a backward operation those of the forward one it belongs to.
        module: the path of the module, or the name stack.
        backward: whether it belongs to the backward pass.
        forward: of a backward operation, the number of the forward one it belongs to, where that is known.
        random: whether it draws numbers.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    module: str = ""
    backward: bool = False
    forward: int | None = None
    random: bool = False

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_worded(value)}" for name, value in self.constants.items())
        return f"{self.name}({given})"


@dataclass(frozen=True, eq=False)
class Tape:
    """One step of one framework, operation by operation; `record_tape` makes it.

    Args:
        framework: `torch` or `jax`.
        operations: in the order in which they ran.
        values: the fingerprints, by the value's number.
        dtypes: of each value, as the model wrote it; the value itself is computed in float64.
        noise: how far rounding moves each value's fingerprint; zeros where that was not measured.
        leaves: numbers of the parameters, buffers and inputs, by `param/…`, `buffer/…` and `input/…`.
        results: numbers of what came out, by `loss/…`, `output/…` and `grad/…`.
        arrays: the values themselves, by number, as far as they were kept.
        metadata: versions, and whatever else is worth knowing.

    Example:
        >>> from torch_ref.common.tape.writer import TapeWriter
        >>> writer = TapeWriter()
        >>> x, y = (writer.value(np.arange(3.0) ** power, "float32") for power in (1, 2))
        >>> writer.operations.append(Operation("square", (x,), (y,)))
        >>> tape = writer.finish("torch")
        >>> tape.producers[y], tape.upstream([y])
        (0, [0])
    """

    framework: str
    operations: Sequence[Operation]
    values: Sequence[Fingerprint]
    dtypes: Sequence[str]
    noise: np.ndarray
    leaves: Mapping[str, int]
    results: Mapping[str, int]
    arrays: Mapping[int, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def producers(self) -> dict[int, int]:
        """The number of the operation that each value came from; leaves and constants have none."""
        return {value: i for i, operation in enumerate(self.operations) for value in operation.outputs}

    @cached_property
    def consumers(self) -> dict[int, list[int]]:
        """The numbers of the operations that each value went into."""
        found: dict[int, list[int]] = {}
        for i, operation in enumerate(self.operations):
            for value in dict.fromkeys(operation.inputs):
                found.setdefault(value, []).append(i)
        return found

    @cached_property
    def fixed(self) -> frozenset[int]:
        """The numbers of the values that are the same in every step: no parameter, input or draw goes into them."""
        found = set(range(len(self.values))) - self.producers.keys() - set(self.leaves.values())
        for operation in self.operations:
            if not operation.random and found.issuperset(operation.inputs):
                found.update(operation.outputs)
        return frozenset(found)

    @cached_property
    def outcomes(self) -> frozenset[int]:
        """The numbers of the losses and outputs."""
        return frozenset(number for name, number in self.results.items() if not name.startswith("grad/"))

    @cached_property
    def forward(self) -> list[int]:
        """The operations that losses and outputs come from, in order."""
        return self.upstream(self.outcomes)

    def upstream(self, values: Iterable[int], wanted: Callable[[int], bool] = lambda value: True) -> list[int]:
        """Returns the operations that values come from, in order.

        Args:
            values: numbers of the values.
            wanted: whether to go on from an operation's input.
        """
        found: set[int] = set()
        stack = list(values)
        while stack:
            operation = self.producers.get(stack.pop())
            if operation is not None and operation not in found:
                found.add(operation)
                stack += filter(wanted, self.operations[operation].inputs)
        return sorted(found)

    def values_behind(self, values: Iterable[int], wanted: Callable[[int], bool] = lambda value: True) -> set[int]:
        """Returns values and the wanted ones that they come from.

        Args:
            values: their numbers.
            wanted: whether a value counts, and is gone on from.
        """
        given = {n for i in self.upstream(values, wanted) for n in self.operations[i].inputs if wanted(n)}
        return given.union(values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tape to a safetensors file, whole or not at all.

        Args:
            path: the file; its folder is made where there is none.
        """
        arrays, metadata = self.packed()
        write_arrays(path, arrays, {"format": FORMAT, **metadata})

    def packed(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns all of the tape as arrays and as what JSON holds; `unpacked` makes a tape of them."""
        lines: dict[Line, int] = {}
        operations = [
            {
                **{
                    name: value
                    for name, value in vars(operation).items()
                    if value is not None and value is not False and value not in ((), "")
                },
                "lines": [lines.setdefault(line, len(lines)) for line in operation.lines],
            }
            for operation in self.operations
        ]
        marginals = [marginal for value in self.values for marginal in value.marginals if marginal is not None]
        arrays = {
            "moments": np.array([[*v.moments, v.order, v.masked] for v in self.values]).reshape(len(self.values), -1),
            "marginals": np.concatenate(marginals, axis=1) if marginals else np.zeros((2, 0)),
            "noise": np.asarray(self.noise, np.float64),
            **{f"array/{number}": array for number, array in self.arrays.items()},
        }
        metadata = {
            "framework": self.framework,
            "operations": operations,
            "lines": [asdict(line) for line in lines],
            "values": [
                [list(value.shape), value.kind, [marginal is not None for marginal in value.marginals], dtype]
                for value, dtype in zip(self.values, self.dtypes, strict=True)
            ],
            "leaves": dict(self.leaves),
            "results": dict(self.results),
            "metadata": dict(self.metadata),
        }
        return arrays, json.loads(json.dumps(metadata, default=str))


def load_tape(path: str | os.PathLike[str]) -> Tape:
    """Returns the tape that `Tape.save` wrote, in either framework.

    Args:
        path: the file.

    Returns:
        The tape, equal in every bit to what was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is no tape.

    Example:
        >>> from torch_ref.common.tape.writer import TapeWriter
        >>> writer = TapeWriter()
        >>> writer.leaves["input/x"] = writer.value(np.arange(3.0), "float32")
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     writer.finish("torch").save(os.path.join(folder, "step.safetensors"))
        ...     load_tape(os.path.join(folder, "step.safetensors")).leaves
        {'input/x': 0}
    """
    arrays, metadata = read_arrays(path)
    try:
        check_choice("format", metadata.get("format"), [FORMAT])
        return unpacked(arrays, metadata)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: expected a tape, got {shown(error)}") from error


def unpacked(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Tape:
    """Returns the tape that `Tape.packed` gave.

    Args:
        arrays: by name.
        metadata: the rest.
    """
    lines = [Line(**line) for line in metadata["lines"]]
    operations = [
        Operation(
            **{
                **entry,
                "inputs": tuple(entry.get("inputs", ())),
                "outputs": tuple(entry.get("outputs", ())),
                "lines": tuple(lines[i] for i in entry["lines"]),
            }
        )
        for entry in metadata["operations"]
    ]
    values, dtypes, start = [], [], 0
    for (shape, kind, kept, dtype), moments in zip(metadata["values"], arrays["moments"], strict=True):
        marginals: list[np.ndarray | None] = []
        for length, keep in zip(shape, kept, strict=True):
            marginals.append(arrays["marginals"][:, start : start + length] if keep else None)
            start += length if keep else 0
        order, masked = map(float, moments[-2:])
        values.append(Fingerprint(tuple(shape), kind, masked, moments[:-2], tuple(marginals), order))
        dtypes.append(dtype)
    return Tape(
        metadata["framework"],
        operations,
        values,
        dtypes,
        arrays["noise"],
        dict(sorted(metadata["leaves"].items(), key=lambda leaf: leaf[1])),  # JSON keeps them by name
        metadata["results"],
        {int(name[6:]): array for name, array in arrays.items() if name.startswith("array/")},
        metadata["metadata"],
    )


def _worded(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _short(path: str) -> str:
    """Returns a path from the working folder on, or from where Python finds it: files of a tape travel."""
    here = os.getcwd() + os.sep
    folders = [here] if path.startswith(here) and "site-packages" not in path else sys.path
    inside = [folder for folder in folders if folder and path.startswith(folder)]
    return path[len(max(inside, key=len)) :].lstrip(os.sep) if inside else path
