"""Finding the first divergence in the order in which things happen: down the layers, and up them again."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from torch_ref.common.call_names import containers
from torch_ref.common.trace import Trace

from ..diagnosis.activations import ACTIVATIONS
from ..report.entries import Divergence, Entry

Key = tuple[str, str]  # phase and name


def localise(entries: Iterable[Entry], ported: Trace, reference: Trace) -> Divergence | None:
    """Returns the first entry out of bounds, and the module or parameter to blame; None where all agrees.

    A module whose input agrees and whose output does not is to blame. Where an input is the first to disagree, the code
    before it is, which is named after the module whose output it works on.

    Args:
        entries: in the order in which things happen.
        ported: the port's trace.
        reference: the reference's.
    """
    wrong = next((entry for entry in entries if not entry.passed), None)
    return None if wrong is None else _blame(wrong, ported, reference, wrong.step)


def in_order(entries: Iterable[Entry], reference: Trace) -> list[Entry]:
    """Returns the entries of one step in the order in which things happen."""
    known = {(entry.phase, entry.name): entry for entry in entries}
    step = next((entry.step for entry in known.values()), 0)
    events = dict.fromkeys([*_events(reference, step, known), *known])  # the latter: what has no place of its own
    return [known[key] for key in events if key in known]


def _events(reference: Trace, step: int, known: Iterable[Key]) -> Iterator[Key]:
    """Yields every entry of a step in the order in which things happen."""
    names: dict[str, list[str]] = {}
    for phase, name in known:
        names.setdefault(phase, []).append(name)
    calls: list[str] = reference.metadata["calls"]
    parents = containers(calls)
    params = list(reference.phase(0, "param"))

    def of_call(phase: str, call: str) -> Iterator[Key]:
        for name in names.get(phase, []):
            if name == call or name.startswith(f"{call}["):
                yield phase, name

    def every(phase: str) -> Iterator[Key]:
        for name in names.get(phase, []):
            yield phase, name

    yield from every("input")
    if step == 0:
        yield from every("param")
    for call in calls:
        if call.partition("#")[0] not in parents:
            yield from of_call("module_input", call)
        yield from of_call("activation", call)
    yield from every("output")
    yield from every("buffer")
    yield from every("loss")
    done: set[str] = set()
    for i, call in reversed(list(enumerate(calls))):
        yield from of_call("cotangent", call)
        module = call.partition("#")[0]
        if module not in [other.partition("#")[0] for other in calls[:i]]:
            own = [name for name in params if name.rpartition(".")[0] == module]
            done |= set(own)
            yield from (("grad", name) for name in own)
    yield from (("grad", name) for name in names.get("grad", []) if name not in done)
    for param in params:
        yield from (("state", name) for name in names.get("state", []) if name.rpartition(".")[0] == param)
        yield "update", param


def _blame(entry: Entry, ported: Trace, reference: Trace, step: int) -> Divergence:
    name, phase = entry.name, entry.phase
    call = name.partition("[")[0]
    # What only the reference has as a module, such as torch.nn.ELU, belongs to the code between two modules.
    shared = ported.phase(step, "activation")
    calls = [other for other in reference.metadata["calls"] if other in shared or other == call]
    if phase == "module_input":
        source = _source(reference, step, f"{step}/{phase}/{name}", calls[: calls.index(call)])
        return Divergence(step, phase, source or call, entry, before=call if source else "")
    if phase == "activation" and call.partition("#")[0] in containers(calls):
        within = [other for other in calls[: calls.index(call)] if other.startswith(f"{call.partition('#')[0]}.")]
        source = _source(reference, step, f"{step}/{phase}/{name}", within)
        return Divergence(step, phase, source or call, entry, before=f"{call} (its end)" if source else "")
    if phase in ("activation", "cotangent"):
        return Divergence(step, phase, call, entry)
    if phase == "state":
        return Divergence(step, phase, name.rpartition(".")[0], entry)
    return Divergence(step, phase, name, entry)


def _source(reference: Trace, step: int, key: str, calls: Sequence[str]) -> str:
    """Returns the call whose output arrives at an entry, as it is or through an activation; else the last one."""
    target = reference.arrays[key]
    for call in reversed(calls):
        output = reference.arrays.get(f"{step}/activation/{call}")
        if output is None or output.shape != target.shape or output.dtype.kind != "f":
            continue
        for function in ACTIVATIONS.values():
            with np.errstate(all="ignore"):
                if np.allclose(function(output), target, rtol=1e-5, atol=1e-7, equal_nan=True):
                    return call
    return calls[-1] if calls else ""
