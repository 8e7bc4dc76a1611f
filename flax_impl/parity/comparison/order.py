"""Puts the entries of a step in the order in which they are computed: down the layers, and up them again."""

from collections.abc import Iterable, Iterator

from torch_ref.common.call_names import containers
from torch_ref.common.trace import Trace

from ..report.entries import Entry

Key = tuple[str, str]  # phase and name


def in_order(entries: Iterable[Entry], reference: Trace) -> list[Entry]:
    """Returns the entries of one step in the order in which they are computed."""
    known = {(entry.phase, entry.name): entry for entry in entries}
    step = next((entry.step for entry in known.values()), 0)
    events = dict.fromkeys([*_events(reference, step, known), *known])  # the latter: without a place of their own
    return [known[key] for key in events if key in known]


def _events(reference: Trace, step: int, known: Iterable[Key]) -> Iterator[Key]:
    """Yields every entry of a step in that order."""
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
