"""Plants a fault in the port of a pair, and says whether it is found and in the right place."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from flax_impl.parity import check_step
from flax_impl.parity.alignment.divergence import find_divergences
from flax_impl.parity.alignment.likeness import tolerance
from flax_impl.parity.alignment.partners import Partners, find_partners
from flax_impl.parity.alignment.place import Place
from flax_impl.parity.alignment.proof.tables import rounded_tables
from flax_impl.parity.alignment.repair import MOVES
from flax_impl.parity.naming.cut import HUGE
from flax_impl.parity.naming.names import moved, name_causes
from flax_impl.parity.recording.operations.numbers import exact_numbers
from flax_impl.parity.recording.operations.tape import TracedStep
from flax_impl.parity.report.entries import Finding
from torch_ref.common.tape.fingerprint import Fingerprint
from torch_ref.common.tape.tape import Tape
from torch_ref.recording.operations.tape import record_tape

from .named import is_right
from .pair import Pair
from .plant import Fault, Planted, equations, kinds_for
from .single import float32_ratio


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Args:
        pair: its name.
        equation: the primitive in which it was planted.
        fault: number and kind.
        changes: whether a loss, an output or a gradient moves by more than rounding.
        found: whether the comparison fails.
        port: whether the planted operation, or a direct neighbour, is the first place on the port's side.
        reference: whether its line is the first place on the reference's side.
        proved: whether putting the reference's value in makes the rest agree.
        places: how many places are reported.
        seconds: that it took.
        named: whether the first cause that is named is what was planted.
        misnamed: whether it is another, without a "perhaps".
        unsure: whether it is another, with one.
    """

    pair: str
    equation: str
    fault: Fault
    changes: bool
    found: bool
    port: bool = False
    reference: bool = False
    proved: bool = False
    places: int = 0
    seconds: float = 0.0
    named: bool = False
    misnamed: bool = False
    unsure: bool = False


class Bench:
    """A pair with its honest tapes, ready for faults.

    Args:
        pair: the pair.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.reference = record_tape(pair.reference, pair.batch, pair.loss)
        held: list[Any] = []

        def keep(jaxpr: Any) -> Planted:
            held.append(jaxpr)
            return Planted(jaxpr)

        self.honest, self._tags = _untagged(self._step(keep).tape())
        self.equations = list(equations(held[0].jaxpr))
        self.partners = find_partners(self.reference, self.honest)
        self._tables = rounded_tables(self.partners)
        if self._tables:
            self.honest, self._tags = _untagged(self._step(Planted).tape(exchanges=self._tables))
            self.partners = find_partners(self.reference, self.honest)
        self.faults = [Fault(i, kind) for i, equation in enumerate(self.equations) for kind in kinds_for(equation)]

    def judge(self, faults: Sequence[Fault]) -> list[Outcome]:
        """Plants faults all at once, and returns what became of each."""
        start = time.perf_counter()
        by_number = {fault.equation: fault for fault in faults}
        step = self._step(lambda jaxpr: Planted(jaxpr, *by_number.values()))
        tape, tags = _untagged(step.tape())
        changes = self._changes(step, tape)
        places = find_divergences(find_partners(self.reference, tape), step) if changes else []
        looked_at = len(places) if len(faults) > 1 else 1
        causes = [name_causes(place, step) for place in places[:looked_at]]
        places = [moved(place, named) for place, named in zip(places, causes, strict=False)] + places[looked_at:]
        outcomes = []
        for fault in faults:
            near = {self._tags[i] for i in neighbours(self.honest, self._of(fault.equation))} | {fault.equation}
            lines = self._lines(fault.equation)
            of_port = [self._is_near(place.port, tags, near) for place in places]
            of_reference = [self._has_line(place.reference, lines) for place in places]
            # Of several, what is said at the places of the others is not said of this one.
            own = [c for c, *near in zip(causes, of_port, of_reference, strict=False) if len(faults) == 1 or any(near)]
            outcomes.append(
                Outcome(
                    self.pair.name,
                    self.equations[fault.equation].primitive.name,
                    fault,
                    changes,
                    bool(places),
                    any(of_port[:looked_at]),
                    any(of_reference[:looked_at]),
                    bool(places) and places[-1].proved,
                    len(places),
                    **self._named(fault, own),
                    seconds=time.perf_counter() - start,
                )
            )
        return outcomes

    def _named(self, fault: Fault, causes: Sequence[Sequence[Finding]]) -> dict[str, bool]:
        """Says whether the causes that are named at some places are what was planted."""
        primitive = self.equations[fault.equation].primitive.name
        findings = [finding for named in causes for finding in named[:1]]
        masks = self._is_mask(fault.equation)
        right = [finding for finding in findings if is_right(fault.kind, primitive, finding, masks)]
        # That only the order is another is true of any order, and says little.
        wrong = [] if right else [finding for finding in findings if not finding.text.endswith("in another order")]
        certain = any(finding.certain for finding in wrong)
        return {"named": bool(right), "misnamed": certain, "unsure": bool(wrong) and not certain}

    def _is_mask(self, equation: int) -> bool:
        """Whether an equation computes a mask in the honest port, or hides positions by it."""
        made = [self.honest.arrays.get(v) for i in self._of(equation) for v in self.honest.operations[i].outputs]
        return any(np.isin(a, (0, 1)).all() or (np.abs(a) > HUGE).any() for a in made if a is not None and a.size > 1)

    def _step(self, rewrite: Any) -> TracedStep:
        pair = self.pair
        step = TracedStep(pair.model, pair.params, pair.batch, pair.port_loss, rewrite)
        step.numbers = exact_numbers(self.reference)
        return step

    def _changes(self, step: TracedStep, tape: Tape) -> bool:
        """Whether a loss, an output or a gradient moves by more than rounding, of tables in float32, too."""
        if self._tables:
            tape = step.tape(exchanges=rounded_tables(find_partners(self.reference, tape)))
        for name, number in self.honest.results.items():
            before, after = self.honest.values[number], tape.values[tape.results[name]]
            twins = self.partners.of_port.get(number, ())
            noise = max((float(self.reference.noise[twin]) for twin in twins), default=0.0)
            if moves(before, after, noise):
                return True
        return False

    def _of(self, equation: int) -> list[int]:
        """Returns the forward operations of an equation in the honest tape."""
        return [i for i, tag in enumerate(self._tags) if tag == equation and not self.honest.operations[i].backward]

    def _lines(self, equation: int) -> set[Any]:
        """Returns the reference's lines that do what an equation does, and those right before and after them."""
        twins: set[int] = set()
        seen: set[int] = set()
        queue = [value for i in self._of(equation) for value in self.honest.operations[i].outputs]
        while queue and not twins:
            value = queue.pop(0)
            if value in seen:
                continue
            seen.add(value)
            for twin in self.partners.of_port.get(value, ()):
                made_by = self.reference.producers.get(twin)
                twins |= {made_by} if made_by is not None else set(self.reference.consumers.get(twin, ()))
            queue += [v for i in self.honest.consumers.get(value, ()) for v in self.honest.operations[i].outputs]
        return {self.reference.operations[i].lines[:1] for i in neighbours(self.reference, twins)}

    def _is_near(self, place: Place | None, tags: Sequence[int], near: set[int]) -> bool:
        return place is not None and any(tags[i] in near for i in (place.first, place.after) if i is not None)

    def _has_line(self, place: Place | None, lines: set[Any]) -> bool:
        return place is not None and self.reference.operations[place.first].lines[:1] in lines


@dataclass(frozen=True)
class Verdict:
    """What an honest pair shows.

    Args:
        partners: of its values, the reference's tables in float32 put in.
        agrees: whether it passes with the weights that the pair brings.
        single: how far it is off in float32, as a share of what it may be.
        weights: `found` where the harness finds the same weights by itself, from their shapes; `not found` else. With
            the number of those that names decided.
    """

    partners: Partners
    agrees: bool
    single: float
    weights: str


def honest(pair: Pair) -> Verdict:
    """Returns what becomes of an honest pair."""
    reference = record_tape(pair.reference, pair.batch, pair.loss)
    step = TracedStep(pair.model, pair.params, pair.batch, pair.port_loss)
    partners = find_partners(reference, step.tape())
    agrees = not find_divergences(partners, step)
    tables = rounded_tables(partners)
    partners = find_partners(reference, step.tape(exchanges=tables)) if tables else partners
    return Verdict(partners, agrees, float32_ratio(pair, partners, step), _found(pair, reference))


def _found(pair: Pair, reference: Tape) -> str:
    """Says whether the harness finds the weights of a pair by itself."""
    zeros = jax.tree.map(lambda leaf: np.zeros_like(leaf) if np.asarray(leaf).dtype.kind == "f" else leaf, pair.params)
    try:
        report = check_step(reference, pair.model, pair.batch, pair.port_loss, shapes=zeros)
    except ValueError:
        return "not found"
    guessed = len(report.weight_map.guessed) if report.weight_map else 0
    by_name = f", {guessed} by name" if guessed else ""
    return f"found{by_name}" if report.passed else "not found"


def by_kind(outcomes: Iterable[Outcome]) -> Mapping[str, list[Outcome]]:
    """Returns the outcomes of each kind of fault."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.fault.kind, []).append(outcome)
    return dict(sorted(found.items()))


def _untagged(tape: Tape) -> tuple[Tape, list[int]]:
    """Returns a tape without the equations' numbers in its name stacks, and the number of each operation."""
    tags = [int(found[-1]) if (found := re.findall(r"eqn(\d+)", o.module)) else -1 for o in tape.operations]
    operations = [replace(o, module=re.sub(r"/?eqn\d+", "", o.module)) for o in tape.operations]
    return replace(tape, operations=operations), tags


def moves(before: Fingerprint, after: Fingerprint, noise: float) -> bool:
    """Returns whether a result moves by more than rounding.

    Args:
        before: the honest one's.
        after: that with a fault.
        noise: how far rounding moves it.
    """
    near = 100 * tolerance(max(before.scale, after.scale), noise) + 1e-14
    if before.shape != after.shape or abs(before.masked - after.masked) > 1e-9:
        return True
    return abs(before.moments - after.moments).max() > near or abs(before.order - after.order) > near


def neighbours(tape: Tape, operations: Iterable[int]) -> set[int]:
    """Returns operations and those right before and after them; what only moves numbers is passed over."""
    found = set(operations)
    for operation in tuple(found):
        for down in (True, False):
            of = tape.operations[operation]
            queue = list(of.outputs if down else of.inputs)
            while queue:
                value = queue.pop()
                producer = tape.producers.get(value)
                for i in tape.consumers.get(value, ()) if down else () if producer is None else (producer,):
                    if i not in found:
                        found.add(i)
                        if tape.operations[i].name in MOVES:
                            queue += tape.operations[i].outputs if down else tape.operations[i].inputs
    return found
