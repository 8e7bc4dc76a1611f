"""Holds ports in torch against references in JAX: faults are planted in calls of the torch module."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flax_impl.parity import StepReport, check_step
from torch_ref.common.tape.tape import Tape
from torch_ref.recording import record_tape

from .judge import moves, neighbours
from .named import Right, says
from .pair import Pair
from .plant_torch import Call, planted

# Of each kind of fault: the kinds of causes that say it, and words of which one must be in the text.
_RIGHT: dict[str, Right] = {
    "a constant 1% off": {"constant": (), "factor": ()},
    "a constant ten times as large": {"constant": ("epsilon",)},
    "a factor of 1.1": {
        "factor": ("1.1 ", "0.909"),
        "extra": ("multiply by 1.1", "multiplies by 1.1"),
        "constant": ("1.1 ",),
    },
    "the sign": {"sign": (), "operands": ("subtracts",), "operation": ("subtracts", "adds")},
    "shifted by one": {"order": ("shift", "runs backwards"), "extra": ("index_select",)},  # which is what a roll is
    "numbers in another order": {"order": (), "extra": ("flip", "transpose")},
    "no gradient": {"gradient": (), "stopped": ()},
    "first operand only": {"missing": (), "input": (), "factor": (), "function": ()},
    "second operand only": {"missing": (), "input": ()},
    "operands exchanged": {"operands": (), "sign": ()},
    "sum for difference": {"operation": ("adds",)},
    "no bias": {"missing": ("add",)},
    "a transposed matrix": {"order": ("transposed", "exchange")},
    "another axis": {"reduction": ("ax",), "function": ("axis",)},
    "tanh for erf": {"function": ("tanh", "approximate")},
    "relu for another": {"function": ("relu",)},
    "logistic for tanh": {"function": ("sigmoid",)},
    "once more": {"extra": (), "function": ("once more", "applies no activation")},
    "a mask inverted": {"mask": ()},
    "sum for mean": {"reduction": (), "factor": (), "missing": ("divide",), "extra": ("multiplies",)},
    "scale left out": {"missing": ("multiply",), "input": ()},
}
_SHARES = ("found", "place", "proved", "named", "misnamed", "unsure")


@dataclass(frozen=True)
class TorchOutcome:
    """What became of a fault in a port in torch.

    Args:
        pair: its name.
        call: of the torch function in which it was planted.
        kind: of the fault.
        found: whether the comparison fails.
        place: whether the planted operation, or a direct neighbour, is the first place on torch's side.
        proved: whether putting torch's value into the reference makes the rest agree.
        named: whether the first cause that is named is what was planted.
        misnamed: whether it is another, without a "perhaps".
        unsure: whether it is another, with one.
        text: of the first cause.
        seconds: that it took.
    """

    pair: str
    call: str
    kind: str
    found: bool
    place: bool = False
    proved: bool = False
    named: bool = False
    misnamed: bool = False
    unsure: bool = False
    text: str = ""
    seconds: float = 0.0


class TorchBench:
    """A pair whose torch module is the port, ready for faults.

    Args:
        pair: the pair.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.calls: list[Call] = []
        self.honest, _ = self._tape(None, "")
        self.agrees = self._check(self.honest).passed

    def drawn(self, count: int, seed: int) -> list[TorchOutcome]:
        """Plants faults that change a result, one at a time, and returns what became of each.

        Args:
            count: of the faults.
            seed: that they are drawn with.
        """
        known = [(call, kind) for call in self.calls for kind in call.kinds]
        random.Random(seed).shuffle(known)
        found: list[TorchOutcome] = []
        for call, kind in known:
            if len(found) == count:
                break
            try:
                tape, made = self._tape(call.number, kind)
            except (RuntimeError, ValueError, IndexError):  # shapes that do not go together any more
                continue
            if made and self._changes(tape):
                found.append(self._judged(call, kind, tape, made))
        return found

    def _judged(self, call: Call, kind: str, tape: Tape, made: range) -> TorchOutcome:
        start = time.perf_counter()
        report = self._check(tape)
        first = report.places[0] if report.places else None
        place = None if first is None else first.reference
        near = neighbours(tape, made)
        causes = report.causes[0] if report.causes else ()
        right = any(says(cause, _RIGHT[kind]) for cause in causes[:1])
        certain = any(cause.certain for cause in causes[:1])
        return TorchOutcome(
            self.pair.name,
            call.name,
            kind,
            not report.passed,
            place is not None and bool(near & {i for i in (place.first, place.after) if i is not None}),
            first is not None and first.proved,
            right,
            bool(causes) and not right and certain,
            bool(causes) and not right and not certain,
            str(causes[0]) if causes else "",
            time.perf_counter() - start,
        )

    def _tape(self, number: int | None, kind: str) -> tuple[Tape, range]:
        """Returns the tape of the port with a fault, and the operations that the changed call is."""
        found: list[Any] = []

        def loss(model: Any, **batch: Any) -> Any:
            with planted(number, kind) as mode:
                found.append(mode)
                return self.pair.loss(model, **batch)

        tape = record_tape(self.pair.reference, self.pair.batch, loss, progress=False)
        self.calls = found[0].calls
        operations = [
            replace(operation, lines=tuple(line for line in operation.lines if "plant_torch" not in line.file))
            for operation in tape.operations
        ]
        return replace(tape, operations=operations), range(*(found[0].operations or (0, 0)))

    def _check(self, tape: Tape) -> StepReport:
        pair = self.pair
        return check_step(
            tape, pair.model, pair.batch, pair.port_loss, params=pair.params, port="torch", progress=False
        )

    def _changes(self, tape: Tape) -> bool:
        """Whether a loss, an output or a gradient moves by more than rounding."""
        if tape.results.keys() != self.honest.results.keys():
            return True
        for name, number in self.honest.results.items():
            before, after = self.honest.values[number], tape.values[tape.results[name]]
            if not np.isfinite(after.moments).all() or moves(before, after, float(self.honest.noise[number])):
                return True
        return False


def reverse_table(outcomes: Sequence[TorchOutcome]) -> str:
    """Returns a line for each kind of fault, the faults that were not named, and the sums.

    Args:
        outcomes: of all pairs.
    """
    lines = [f"{'kind':<32} count  caught   place  proved   named  misnamed  perhaps"]
    kinds = {kind: [o for o in outcomes if o.kind == kind] for kind in sorted({o.kind for o in outcomes})}
    for kind, own in (*kinds.items(), ("all", outcomes)):
        shares = [sum(getattr(o, name) for o in own) / len(own) for name in _SHARES]
        caught, place, proved, named, misnamed, unsure = (f"{share:.1%}" for share in shares)
        lines.append(
            f"{kind:<32} {len(own):>5}  {caught:>6}  {place:>6}  {proved:>6}  {named:>6}  {misnamed:>8}  {unsure:>7}"
        )
    lines += ["", "not in its place, or not named:"]
    lines += [
        f"{o.pair}, {o.call}, {o.kind}: {'' if o.place else 'another place; '}{o.text or 'no name'}"
        for o in outcomes
        if not (o.place and o.named)
    ]
    counts = [sum(getattr(o, name) for o in outcomes) for name in _SHARES]
    lines += [
        "",
        f"{len(outcomes)} faults in torch that change a result: {counts[0]} caught, {counts[1]} at the planted "
        f"operation, {counts[2]} proved by repair, {counts[3]} named, {counts[4]} named wrongly, {counts[5]} named "
        "wrongly with a perhaps.",
    ]
    return "\n".join(lines)
