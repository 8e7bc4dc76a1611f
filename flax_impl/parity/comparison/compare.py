"""Comparing a port's trace with its reference's, entry by entry, each against a bound that has a reason."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np

from torch_ref.common.call_names import containers, module_of
from torch_ref.common.trace import NOISE, PHASES, Trace

from ..diagnosis import diagnose
from ..report.entries import Divergence, Entry, Report
from .localise import in_order, localise
from .measures import apart_and_size

GATE_A = 1e-12  # float64: an honest port sits at 1e-15, the weakest of the planted faults at 1e-10
GATE_B = 3.0  # float32: times the reference's own distance to float64
FREE = 1e-7  # float64, free-running: what may add up, where Adam divides a gradient that cancels to nothing by 1e-8
# A gradient that cancels to nothing has no size of its own; it is measured by this share of the largest in its phase.
_CANCELLED = 1e-3
_OF_MODULES = ("module_input", "activation", "cotangent")
# Of a step in float32: optax takes 1 - beta ** step in float32, which leaves 3e-5 of the first step of Adam.
_SCALARS = 1e-4
_HANGING = 1e-8
_ALWAYS = ("input", "param", "output", "buffer", "loss", "grad", "update")  # to lack one of these is a divergence


def compare(ported: Trace, reference: Trace, free: Trace | None = None) -> Report:
    """Compares two traces, finds the first divergence, and names what may have caused it.

    A float64 reference is gate A: every entry within 1e-12 of the reference's largest value. A float32 one is gate B,
    step by step: the port's distance to the float64 reference may be three times the reference's own, taken over some
    orders of the rows, plus one epsilon of the largest value.

    Args:
        ported: the port's trace, under the reference's names; forced, as `replay` gives it by default.
        reference: the trace of `torch_ref.record`.
        free: the port's trace from the first weights only; in float32 it is shown, and does not count.

    Returns:
        Every entry with its error and its bound, the first divergence, and its diagnosis; see `Report`.

    Raises:
        ValueError: the traces differ in dtype or in the number of steps.

    Example:
        >>> from flax_impl.parity import Trace
        >>> metadata = {"dtype": "float64", "model": "Line", "optimizer": {"name": "SGD"}, "calls": [], "buffers": []}
        >>> reference = Trace({"0/loss/y": np.array(0.5)}, metadata)
        >>> compare(reference, reference).passed
        True
        >>> print(compare(Trace({"0/loss/y": np.array(0.6)}, metadata), reference).first_divergence)
        step 0, loss, `y`
    """
    for what in ("dtype", "steps"):
        expected, got = getattr(reference, what), getattr(ported, what)
        if expected != got:
            hint = "; cast the port's parameters" if what == "dtype" else ""
            raise ValueError(f"ported: expected a trace with {what} {expected}, got {got}{hint}")
    entries: list[Entry] = []
    noise = _noise(reference)
    for step in range(reference.steps):
        entries += in_order(_structural(_entries(ported, reference, step, noise), reference), reference)
    loose = [] if free is None else _free_entries(free, reference)
    first = localise(entries, ported, reference)
    wrong = next((entry for entry in loose if not entry.passed), None)
    if first is None and wrong is not None:
        first = Divergence(wrong.step, wrong.phase, wrong.name, wrong, free=True)
    options = reference.metadata["optimizer"]
    return Report(
        model=reference.metadata["model"],
        dtype=reference.dtype,
        optimizer=str(options.get("name", "")),
        steps=reference.steps,
        calls=tuple(reference.metadata["calls"]),
        entries=tuple(entries),
        free=tuple(loose),
        first_divergence=first,
        diagnosis=() if first is None else tuple(diagnose(first, ported, reference)),
        unmatched=tuple(_unmatched(ported, reference)),
        weight_map=str(ported.metadata.get("weight_map", "")),
    )


def assert_parity(ported: Trace, reference: Trace, free: Trace | None = None) -> Report:
    """Returns the report of `compare`, for a test to go on with.

    Args:
        ported: the port's trace, under the reference's names.
        reference: the trace of `torch_ref.record`.
        free: the port's trace from the first weights only, or None.

    Returns:
        The report, in which all agrees.

    Raises:
        AssertionError: the port diverges; the message has the first divergence, its numbers and the diagnosis.
        ValueError: the traces differ in dtype or in the number of steps.

    Example:
        >>> from flax_impl.parity import Trace
        >>> metadata = {"dtype": "float64", "model": "Line", "optimizer": {"name": "SGD"}, "calls": [], "buffers": []}
        >>> trace = Trace({"0/loss/y": np.array(0.5)}, metadata)
        >>> assert_parity(trace, trace).max_scaled_error
        0.0
    """
    report = compare(ported, reference, free)
    if not report.passed:
        raise AssertionError(f"the port diverges from its reference\n{report}")
    return report


def _entries(ported: Trace, reference: Trace, step: int, noise: Mapping[tuple[str, str], float]) -> list[Entry]:
    found = []
    for phase in PHASES:
        expected, got = reference.phase(step, phase), ported.phase(step, phase)
        if phase == "loss" and expected.keys() != got.keys():  # one side adds the parts up by itself
            expected, got = ({"sum": np.asarray(sum(parts.values()))} for parts in (expected, got))
        scales = _scales(reference, step, phase)
        for name, array in expected.items():
            if name in got and _comparable(phase, name, got[name], array):
                bound = _bound(reference, step, phase, name, noise)
                found.append(_entry(step, phase, name, got[name], array, scales.get(name, 0.0), bound))
            elif phase in _ALWAYS and not _of_its_own(name, reference) and not (phase == "output" and got):
                found.append(Entry(step, phase, name, np.inf, 0.0, size=array.size, note="the port has none"))
        if phase == "param":
            extra = [name for name in got if name not in expected]
            found += [Entry(step, phase, name, np.inf, 0.0, note="the reference has none") for name in extra]
    return found


def _comparable(phase: str, name: str, actual: np.ndarray, expected: np.ndarray) -> bool:
    """Returns whether an entry is the same thing on both sides, whatever its numbers.

    Of modules, calls of other batches are not, as where a port makes one call of two, nor further arguments of other
    sizes, such as a mask where torch is handed a key.
    """
    if phase not in _OF_MODULES or actual.size == expected.size:
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
    """Returns whether an entry is a buffer of a user's own, such as a mask, which a port may compute instead."""
    return name in reference.metadata["buffers"] and not name.endswith(("running_mean", "running_var"))


def _entry(
    step: int, phase: str, name: str, actual: np.ndarray, expected: np.ndarray, scale: float, bound: float
) -> Entry:
    if phase in _OF_MODULES:
        actual = _in_shape_of(expected, actual)
    if actual.shape != expected.shape:
        note = f"expected shape {list(expected.shape)}, got {list(actual.shape)}"
        return Entry(step, phase, name, np.inf, bound, size=expected.size, note=note)
    with np.errstate(over="ignore"):
        apart = apart_and_size(actual, expected)[0] / (max(_largest(expected), scale) or 1.0)
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


def _scales(reference: Trace, step: int, phase: str) -> dict[str, float]:
    """Returns the size of the numbers that each entry was made of, where that may be larger than the entry itself.

    What is moved (state and parameters) is made of what it was before, and a gradient that cancels to nothing of the
    phase's others.
    """
    expected = reference.phase(step, phase)
    if phase in ("cotangent", "grad"):
        floor = _CANCELLED * max(map(_largest, expected.values()), default=0.0)
        return dict.fromkeys(expected, floor)
    if phase in ("buffer", "state", "update"):
        before = reference.state(step) if phase == "state" else reference.params(step)
        return {name: _largest(array) for name, array in before.items()}
    return {}


def _noise(reference: Trace) -> dict[tuple[str, str], float]:
    """Returns how far the reference's own float32 is off, as a share, for each entry: the largest over the steps.

    A few orders of the rows are a small sample: the reference rounds a row alike wherever it stands, and a bias of one
    number can be lucky in all of them. So an entry is given at least what three quarters of its phase keep to.
    """
    found: dict[tuple[str, str], float] = {}
    for step in range(reference.steps):
        for phase in PHASES:
            scales = _scales(reference, step, phase)
            for name, array in reference.phase(step, phase).items():
                noise = reference.arrays.get(f"{step}/{NOISE}/{phase}/{name}")
                if noise is not None:
                    scale = max(_largest(array), scales.get(name, 0.0)) or 1.0
                    found[phase, name] = max(found.get((phase, name), 0.0), float(noise) / scale)
    usual = {phase: [noise for (of, _), noise in found.items() if of == phase] for phase in PHASES}
    return {key: max(noise, float(np.quantile(usual[key[0]], 0.75))) for key, noise in found.items()}


def _bound(reference: Trace, step: int, phase: str, name: str, noise: Mapping[tuple[str, str], float]) -> float:
    """Returns how far an entry may be off, as a share."""
    own = noise.get((phase, name), 0.0)
    if reference.dtype == "float64":
        # The noise where an entry hangs on the last digits, as g / (|g| + 1e-8) does; but no more than that explains.
        return max(GATE_A, min(GATE_B * own, _HANGING))
    if phase in ("input", "param"):
        return 0.0  # taken over, not computed
    bound = GATE_B * (own + float(np.finfo(np.float32).eps))
    if phase == "state":
        bound += _SCALARS
    if phase == "update":
        before, after = reference.params(step)[name], reference.phase(step, phase)[name]
        bound += _SCALARS * _largest(after - before) / (max(_largest(before), _largest(after)) or 1.0)
    return bound


def _free_entries(free: Trace, reference: Trace) -> list[Entry]:
    """Returns the losses and the parameters of the free-running training."""
    found = []
    for step in range(min(free.steps, reference.steps)):
        for entry in _entries(free, reference, step, {}):
            if entry.phase in ("buffer", "loss", "update"):
                bound = FREE if reference.dtype == "float64" else np.inf
                counts = reference.dtype == "float64"
                found.append(replace(entry, bound=bound, counts=counts))
    return found


def _structural(entries: list[Entry], reference: Trace) -> list[Entry]:
    """Lets a module's entry not count where all that comes of it agrees: the two models are only cut elsewhere.

    A parent may return more or less than its twin, two calls may be one, a key may be handed over otherwise. What comes
    of them decides: outputs and losses, then gradients; and of a parent, the modules that take what it returns.
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


def _unmatched(ported: Trace, reference: Trace) -> Iterable[str]:
    """Yields the modules, moments and outputs that one side alone wrote down in the first step."""
    for phase in PHASES:
        expected, got = reference.phase(0, phase), ported.phase(0, phase)
        if phase == "loss":
            continue  # compared as a sum where the parts differ
        for side, names in (
            ("the reference", expected.keys() - got.keys()),
            ("the port", got.keys() - expected.keys()),
        ):
            yield from (f"{phase}/{name}, of {side} only" for name in sorted(names))


def _largest(array: np.ndarray) -> float:
    finite = np.abs(array[np.isfinite(array)], dtype=np.float64) if array.dtype.kind == "f" else np.abs(array)
    return float(finite.max(initial=0.0))
