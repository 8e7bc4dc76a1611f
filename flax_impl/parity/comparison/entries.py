"""Compares a port's trace with its reference's, entry by entry, each against its bound."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np

from torch_ref.common.call_names import containers, module_of
from torch_ref.common.trace import PHASES, Trace

from ..report.entries import Entry
from .bounds import Bounds
from .measures import apart_and_size, largest
from .order import in_order

OF_MODULES = ("module_input", "activation", "cotangent")
_ALWAYS = ("input", "param", "output", "buffer", "loss", "grad", "update")  # to lack one of these is a divergence


def entries_in_order(ported: Trace, reference: Trace, bounds: Bounds) -> list[Entry]:
    """Returns the entries of all steps in the order in which they are computed."""
    found: list[Entry] = []
    for step in range(reference.steps):
        entries = _without_other_cuts(list(_entries(ported, reference, step, bounds, bounds.of)), reference)
        found += in_order(entries, reference)
    return found


def free_entries(free: Trace | None, reference: Trace, bounds: Bounds) -> list[Entry]:
    """Returns the losses, buffers and parameters of the free-running training; in float32 none counts."""
    if free is None:
        return []
    counts = reference.dtype == "float64"
    return [
        replace(entry, counts=counts)
        for step in range(min(free.steps, reference.steps))
        for entry in _entries(free, reference, step, bounds, bounds.free)
        if entry.phase in ("buffer", "loss", "update")
    ]


def unmatched(ported: Trace, reference: Trace) -> Iterator[str]:
    """Yields the entries of the first step that only one side has."""
    for phase in PHASES:
        expected, got = reference.phase(0, phase), ported.phase(0, phase)
        if phase == "loss":
            continue  # compared as a sum where the parts differ
        for side, names in (
            ("the reference", expected.keys() - got.keys()),
            ("the port", got.keys() - expected.keys()),
        ):
            yield from (f"{phase}/{name}, of {side} only" for name in sorted(names))


def _entries(
    ported: Trace, reference: Trace, step: int, bounds: Bounds, bound_of: Callable[[int, str, str], float]
) -> Iterator[Entry]:
    for phase in PHASES:
        expected, got = reference.phase(step, phase), ported.phase(step, phase)
        if phase == "loss" and expected.keys() != got.keys():  # one side adds the parts up by itself
            expected, got = ({"sum": np.asarray(sum(parts.values()))} for parts in (expected, got))
        sizes = bounds.sizes(step, phase)
        for name, array in expected.items():
            if name in got and _comparable(phase, name, got[name], array):
                bound = bound_of(step, phase, name)
                yield _entry(step, phase, name, got[name], array, sizes.get(name, 0.0), bound)
            elif phase in _ALWAYS and not _of_its_own(name, reference) and not (phase == "output" and got):
                yield Entry(step, phase, name, np.inf, 0.0, size=array.size, note="the port has none")
        if phase == "param":
            for name in (name for name in got if name not in expected):
                yield Entry(step, phase, name, np.inf, 0.0, note="the reference has none")


def _comparable(phase: str, name: str, actual: np.ndarray, expected: np.ndarray) -> bool:
    """Returns whether an entry is the same thing on both sides, whatever its numbers.

    Of modules, calls of other batches are not, as where a port makes one call of two, nor further arguments of other
    sizes, such as a mask where torch is handed a key.
    """
    if phase not in OF_MODULES or actual.size == expected.size:
        return True
    return "[" not in name and actual.shape[:1] == expected.shape[:1]


def _in_shape_of(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Returns what a module took or returned with its axes, or its rows, laid out as the reference has them.

    A port may hold [batch, sequence] where torch has [sequence, batch], or one axis for the two.
    """
    if actual.shape == expected.shape or actual.size != expected.size or actual.ndim > 4:
        return actual
    turned = [actual.transpose(axes) for axes in permutations(range(actual.ndim))]
    fitting = [array for array in turned if array.shape == expected.shape]
    fitting = fitting or [array.reshape(expected.shape) for array in (actual, np.moveaxis(actual, 0, -1))]
    return min(fitting, key=lambda array: float(np.nanmax(np.abs(array - expected), initial=0.0)))


def _of_its_own(name: str, reference: Trace) -> bool:
    """Returns whether an entry is not trained, as a mask or a table of positions, which a port may compute instead."""
    if name in reference.metadata.get("frozen", ()):
        return True
    return name in reference.metadata["buffers"] and not name.endswith(("running_mean", "running_var"))


def _entry(
    step: int, phase: str, name: str, actual: np.ndarray, expected: np.ndarray, size: float, bound: float
) -> Entry:
    if phase in OF_MODULES:
        actual = _in_shape_of(expected, actual)
    if actual.shape != expected.shape:
        note = f"expected shape {list(expected.shape)}, got {list(actual.shape)}"
        return Entry(step, phase, name, np.inf, bound, size=expected.size, note=note)
    with np.errstate(over="ignore"):
        apart = apart_and_size(actual, expected)[0] / (max(largest(expected), size) or 1.0)
    worst = np.unravel_index(np.argmax(apart), expected.shape) if apart.size else ()
    return Entry(
        step,
        phase,
        name,
        error=float(apart.max(initial=0.0)),
        bound=bound,
        rms=float(np.sqrt(np.mean(apart**2))) if apart.size else 0.0,
        worst=tuple(map(int, worst)),
        outside=int((apart > bound).sum()),
        size=apart.size,
    )


def _without_other_cuts(entries: list[Entry], reference: Trace) -> list[Entry]:
    """Ignores a mismatch inside a module when everything computed from it agrees: the models are only cut elsewhere.

    A parent may return more or less than its twin, two calls may be one, an argument may be passed by name. What is
    computed from them decides: outputs and losses, then gradients; of a parent, the modules that take what it returns.
    """
    decided = {
        phase: all(e.passed for e in entries if e.phase in by)
        for phases, by in (
            (("module_input", "activation"), ("output", "buffer", "loss")),
            (("cotangent",), ("grad",)),
        )
        for phase in phases
    }
    passed = {(e.phase, e.name): e.passed for e in entries}
    parents = containers(reference.metadata["calls"])

    def counts(entry: Entry) -> bool:
        if entry.phase == "module_input" and "[" in entry.name:
            return not passed.get(("activation", entry.name.partition("[")[0]), False)
        if entry.phase == "activation" and module_of(entry.name) in parents:
            returned = reference.phase(entry.step, entry.phase)[entry.name]
            takers = [
                passed["module_input", name]
                for name, taken in reference.phase(entry.step, "module_input").items()
                if ("module_input", name) in passed
                and module_of(name) not in parents
                and np.array_equal(taken, returned, equal_nan=True)
            ]
            return not (takers and all(takers))
        return True

    return [
        replace(entry, counts=False)
        if entry.phase in decided and not entry.passed and (decided[entry.phase] or not counts(entry))
        else entry
        for entry in entries
    ]
