"""Says in words where a port leaves its reference: both lines, the operations, and what a repair proved."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from torch_ref.common.checks.arguments import listed, shown
from torch_ref.common.tape.tape import Operation, Tape

from ..alignment.divergence import MOST, Divergence
from ..alignment.likeness import SINGLE
from ..alignment.partners import Partners
from ..alignment.place import Place, other_outputs
from ..alignment.precision import Precision, precisions
from ..alignment.proof.draws import shared_masks
from ..alignment.repair import MOVES
from .direction import exchanged
from .entries import Finding
from .picture import picture

if TYPE_CHECKING:
    from ..conversion.conversion import Conversion

_LISTED = 5  # lines of another precision


@dataclass(frozen=True, eq=False)
class StepReport:
    """The outcome of a comparison of two tapes; `print` it, or ask it.

    Args:
        partners: which values of the two tapes are the same.
        places: where they part, in the order in which that was found; none where all results agree.
        weight_map: how the port's weights are made of the reference's; `print` shows it as code. None of two tapes.
        causes: for each place, what the port does otherwise there, as far as that is known.
        port: which side is the port: `jax`; or `torch`, where `partners.port` is of the reference, in JAX.

    Example:
        >>> from flax_impl.parity import compare_tapes, record_tape
        >>> import jax.numpy as jnp
        >>> def loss(model, x):
        ...     return (model(x) ** 2).mean()
        >>> tapes = [record_tape(lambda p, x: f(p * x), jnp.ones(3), {"x": jnp.arange(3.0)}, loss)
        ...          for f in (jnp.sin, jnp.cos)]
        >>> report = compare_tapes(*tapes)
        >>> report.passed, report.places[0].port.first
        (False, 1)
    """

    partners: Partners
    places: tuple[Divergence, ...]
    weight_map: "Conversion | None" = None
    causes: tuple[Sequence[Finding], ...] = ()
    port: str = "jax"

    def convert(self, state: Mapping[str, Any]) -> Any:
        """Returns the port's parameters, in its own structure, made of a state of the reference.

        Args:
            state: arrays or tensors by name, as torch's `state_dict` gives them.

        Raises:
            ValueError: the report is of two tapes, or an entry is missing or has another shape.
        """
        if self.weight_map is None:
            raise ValueError("report: expected one of check_step, which knows the weights, got one of two tapes")
        return self.weight_map.convert(state)

    @property
    def passed(self) -> bool:
        """Whether losses, outputs and gradients agree."""
        return not self.places

    def __str__(self) -> str:
        tapes = dict(zip(self._sides, (self.partners.reference, self.partners.port), strict=True))
        reference, port = tapes["reference"], tapes["port"]
        counts = f"{len(reference.operations)} operations of {reference.framework}, {len(port.operations)} of the port"
        if self.passed:
            what = "losses and gradients" if self.returned else "losses, outputs and gradients"
            return "\n".join([f"the step agrees: {what} ({counts})", *self._notes()])
        groups = self.groups
        several = "1 place" if len(groups) == 1 else f"{len(groups)} places"
        lines = [f"the step diverges at {several} ({counts})"]
        for number, (first, *others) in enumerate(groups, 1):
            place = self.places[first]
            causes = min((self._causes_of(i) for i in (first, *others)), key=_doubt)
            lines += ["", *_block(number, place, place.partners or self.partners, causes, self._sides)]
            if others:
                of_port = [(p.port, port) if self.port == "jax" else (p.reference, port) for p in self.places]
                modules = listed(_module(*of_port[i]) for i in others)
                lines.append(f"   {'':<10} the same lines differ in {modules}")
        if len(self.places) == MOST and not self.places[-1].proved:
            lines += ["", f"perhaps there are more: no more than {MOST} are looked for at once"]
        lines += self._notes()
        if self.weight_map is not None and self.weight_map.guessed:
            names = listed(self.weight_map.guessed)
            lines += ["", f"perhaps: {names} went by name and shape; see report.weight_map, or pass the port's params="]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON takes it."""
        return {
            "passed": self.passed,
            "precisions": [str(precision) for precision in self.precisions],
            "shared_masks": shared_masks(self.partners.reference, self.partners.port),
            "operations": [len(self.partners.reference.operations), len(self.partners.port.operations)],
            "places": [
                {
                    "phase": _phase(place),
                    self._sides[0]: _told(place.reference, self.partners.reference),
                    self._sides[1]: _told(place.port, self.partners.port),
                    "difference": _difference(place, self.partners),
                    "proved": place.proved,
                    "further_calls": place.calls,
                    "group": next(n for n, group in enumerate(self.groups) if i in group),
                    "cause": [{"text": cause.text, "certain": cause.certain} for cause in self._causes_of(i)],
                }
                for i, place in enumerate(self.places)
            ],
        }

    @property
    def _sides(self) -> tuple[str, str]:
        """What the two tapes of `partners` are called: the first is torch's."""
        return ("reference", "port") if self.port == "jax" else ("port", "reference")

    @property
    def groups(self) -> list[list[int]]:
        """The numbers of the places from 0 on; those with the same lines and the same cause stand together."""
        found: dict[Any, list[int]] = {}
        for i, place in enumerate(self.places):
            sides = (place.reference, self.partners.reference), (place.port, self.partners.port)
            lines = [_lines(*side) for side in sides]
            texts = [cause.text for cause in self._causes_of(i)[:1]]
            found.setdefault((*lines, *texts) if all(lines) and texts else i, []).append(i)
        return list(found.values())

    def _notes(self) -> list[str]:
        """Returns what the values do not show: where the two sides compute in other dtypes, or share a mask."""
        masks = shared_masks(self.partners.reference, self.partners.port)
        notes = (
            ("written in another precision, which this comparison in float64 leaves out:", self.precisions),
            (
                "returns another value of the same computation, so that only losses and gradients decide:",
                self.returned,
            ),
            ("drops the same in several rows or heads, which this comparison with the reference's masks hides:", masks),
        )
        lines: list[str] = []
        for head, found in notes:
            more = [f"  and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
            lines += ["", head, *(f"  {note}" for note in found[:_LISTED]), *more] if found else []
        return lines if self.port == "jax" else [exchanged(line) for line in lines]

    @cached_property
    def returned(self) -> list[str]:
        """Where the port returns what the reference computes on the way, as logits for probabilities."""
        partners = self.partners
        sides = [
            [number for name, number in tape.results.items() if name.startswith("output/")]
            for tape in (partners.reference, partners.port)
        ]
        ours, theirs = other_outputs(partners, *partners.apart(*sides))
        lines = [
            [_line(tape, number) for number in sorted(numbers)]
            for tape, numbers in ((partners.port, theirs), (partners.reference, ours))
        ]
        return [f"{' and '.join(lines[0])}, where the reference returns {' and '.join(lines[1])}"] if theirs else []

    @cached_property
    def precisions(self) -> list[Precision]:
        """Where the port computes in a smaller dtype than the reference, or in a larger one, as both are written."""
        return precisions(self.partners)

    def _causes_of(self, place: int) -> Sequence[Finding]:
        return self.causes[place] if place < len(self.causes) else ()

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the text, and for each place the operations of both sides around it."""
        tables = [
            picture(i, place, place.partners or self.partners, self._sides) for i, place in enumerate(self.places, 1)
        ]
        text = html.escape(str(self))
        return f'<pre style="overflow-x:auto">{text}</pre>{"".join(tables)}'


def check_tape(name: str, tape: Any) -> None:
    """Raises ValueError where an argument is no tape.

    Args:
        name: of the argument.
        tape: what was given.
    """
    if not isinstance(tape, Tape):
        raise ValueError(f"{name}: expected a tape, as record_tape or load_tape gives it, got {shown(tape)}")


def _block(
    number: int, place: Divergence, partners: Partners, causes: Sequence[Finding], sides: tuple[str, str]
) -> Iterator[str]:
    yield f"{number}. {_phase(place)}"
    both = [
        (sides[0], place.reference, partners.reference, partners.of_reference),
        (sides[1], place.port, partners.port, partners.of_port),
    ]
    for name, part, tape, agreed in both if sides[0] == "reference" else both[::-1]:
        for i, line in enumerate(_described(part, tape)):
            yield f"   {name if i == 0 else '':<10} {line}"
        for leaf in _strangers(part, tape, agreed):
            yield f"   {'':<10} it takes {leaf}, whose numbers the other side does not have"
    difference = _difference(place, partners)
    if difference is not None:
        yield f"   {'':<10} largest difference {difference['largest']:.3g}, of values up to {difference['scale']:.3g}"
        if difference["largest"] <= SINGLE * difference["scale"]:
            yield f"   {'':<10} perhaps no fault: a table or a merged weight in float32 rounds as much"
    if place.calls:
        times = "one further call" if place.calls == 1 else f"{place.calls} further calls"
        yield f"   {'':<10} the same at {times} of these lines"
    put_in = (
        f"{sides[0]}'s value put in here" if sides[0] == "reference" else "port's value put into the reference here"
    )
    if place.proved:
        results = ("all losses and outputs agree", "all statistics agree", "all gradients agree")[place.rank]
        yield f"   {'proof':<10} with the {put_in}, {results}"
    elif place.exchange is not None:
        yield f"   {'':<10} with the {put_in}, the next operations agree"
    elif not any(cause.certain for cause in causes):
        yield f"   {'':<10} perhaps: no value of the {sides[0]} could be put in here to prove it"
    for cause in causes:
        yield f"   {'cause' if cause.certain else 'perhaps':<10} {cause.text}"


def _lines(place: Place | None, tape: Tape) -> tuple[Any, ...]:
    """Returns the lines that a place stands at, and the operation; nothing where they are not known."""
    operation = None if place is None else tape.operations[place.first]
    return () if operation is None or not operation.lines else (operation.name, *operation.lines[:2])


def _line(tape: Tape, value: int) -> str:
    """Returns the line that a value was made at."""
    made_by = tape.producers.get(value)
    lines = () if made_by is None else tape.operations[made_by].lines
    return str(lines[min(1, len(lines) - 1)] if tape.framework == "jax" else lines[0]) if lines else "an input"


def _module(place: Place | None, tape: Tape) -> str:
    return "" if place is None else tape.operations[place.first].module


def _doubt(causes: Sequence[Finding]) -> bool:
    return not any(cause.certain for cause in causes[:1])


def _strangers(place: Place | None, tape: Tape, agreed: Mapping[int, Any]) -> list[str]:
    """Returns the parameters and inputs that go into a place and have no partner on the other side."""
    if place is None:
        return []
    queue, taken = list(tape.operations[place.first].inputs), set()
    while queue:  # past what only moves it
        taken.add(value := queue.pop())
        made_by = tape.producers.get(value)
        if made_by is not None and tape.operations[made_by].name in MOVES:
            queue += tape.operations[made_by].inputs
    return [name for name, number in tape.leaves.items() if number in taken and number not in agreed]


def _described(place: Place | None, tape: Tape) -> Iterator[str]:
    if place is None:
        yield "could not be told"
        return
    operation = tape.operations[place.first]
    if place.after is not None:
        before = tape.operations[place.after]
        yield "has nothing of the kind between"
        yield from _source(before)
        yield "and"
    yield from _source(operation)


def _source(operation: Operation) -> Iterator[str]:
    for i, line in enumerate(operation.lines[:2]):
        yield f"{'called at ' if i else ''}{line}"
    where = f" in {operation.module}" if operation.module else ""
    yield f"{operation}{where}"


def _phase(place: Divergence) -> str:
    return ("forward", "statistics: losses and outputs agree", "backward: losses and outputs agree, gradients do not")[
        place.rank
    ]


def _difference(place: Divergence, partners: Partners) -> dict[str, float] | None:
    """Returns how far the value that was put in is from the port's own."""
    exchange = place.exchange
    if exchange is None or exchange.port not in partners.port.arrays:
        return None
    own = partners.port.arrays[exchange.port]
    if own.dtype.kind != "f":
        return None
    if (np.isfinite(exchange.array) != np.isfinite(own)).any():  # another mask has no size
        return None
    apart = np.abs(exchange.array - own)
    finite = np.isfinite(apart)
    return {
        "largest": float(apart[finite].max(initial=0.0)),
        "scale": float(np.abs(exchange.array[np.isfinite(exchange.array)]).max(initial=0.0)),
    }


def _told(place: Place | None, tape: Tape) -> dict[str, Any] | None:
    if place is None:
        return None
    operation = tape.operations[place.first]
    return {
        "operation": str(operation),
        "module": operation.module,
        "lines": [str(line) for line in operation.lines],
        "after": None if place.after is None else [str(line) for line in tape.operations[place.after].lines],
    }
