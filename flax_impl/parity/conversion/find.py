"""Finds the weights of a port by their values: whatever makes its next operation agree with the reference's."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torch_ref.common.progress import Progress
from torch_ref.common.tape.fingerprint import fingerprint
from torch_ref.common.tape.tape import Tape

from ..alignment.likeness import likeness
from ..alignment.repair import MOVES, Runnable
from ..weight_map.names import above
from . import expressions
from .conversion import Conversion
from .entries import Entries, entries_of
from .evidence import Evidence
from .expressions import Entry, Expression, Moved, Summed
from .places import Places

_APART = 2.0  # times as far the next best has to be
_TRIALS = 400  # expressions that are tried for one weight
_LIKELY = 16  # the same, where one of another layer was found in the same way
_NEARBY = 100  # the same, where the nearest is looked for
_LARGE = 1 << 18  # numbers of a value that is forgotten once it is of no use
_FAR = 5  # operations that a trial is followed through


@dataclass
class Search:
    """Goes through a port's forward pass and finds each weight when it is first used.

    Every entry of the port's weights has a number, and what only moves weights moves the numbers. So a weight may be
    stacked, sliced by a scan, or reshaped before it is used.

    Args:
        reference: the reference's tape, with its values kept.
        structure: the port's tape, whatever its weights.
        port: runs single operations.
        progress: shows a bar, or plain lines, once it takes long.
    """

    reference: Tape
    structure: Tape
    port: Runnable
    progress: bool = False
    known: dict[int, np.ndarray] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    _failed: set[int] = field(default_factory=set)
    _forced: dict[int, np.ndarray] = field(default_factory=dict)
    _learned: dict[tuple[Any, ...], str] = field(default_factory=dict)  # names: methods would keep the search alive
    _uses: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        tape = self.structure
        self.entries = Entries(entries_of(self.reference))
        leaves = [(name, number) for name, number in tape.leaves.items() if not name.startswith("input/")]
        self.leaves = {name.partition("/")[2]: number for name, number in leaves if tape.values[number].kind == "f"}
        self.places = Places(tape, self.leaves, self.entries.single)
        self.evidence = Evidence(self.reference)

    def run(self) -> Conversion:
        """Returns how the port's weights are made of the reference's.

        Raises:
            ValueError: the port has weights that the reference does not have.
        """
        tape = self.structure
        made = set(tape.producers)
        given = set(self.leaves.values())
        for number, array in tape.arrays.items():
            if number not in made and number not in given:
                self.known[number] = array
        pending = [i for i in tape.forward if not tape.operations[i].backward]
        self._uses.update(value for i in pending for value in set(tape.operations[i].inputs))
        with Progress(len(pending), self.progress, "operation") as report:
            self._go_through(pending, report)
        for name in self.leaves:
            self._leftover(name)
        return self._conversion()

    def _go_through(self, pending: list[int], report: Callable[[int], None]) -> None:
        total = len(pending)
        while pending:
            rest = []
            for done, i in enumerate(pending, 1):
                if not self._step(i):
                    rest.append(i)
                report(total - len(pending) + done - len(rest))
            if len(rest) == len(pending):  # nothing is certain: look further, and at last guess
                stuck = [(i, v) for i in rest for v in self._open_inputs(i) if self._is_ready(i, v)]
                if not stuck:
                    break
                finders = (self._sliced, self._later, self._gate, self._nearest)
                found = ((find, i) for find in finders for i, value in stuck if find(i, value))
                find, i = next(found, (None, -1))
                if find is None:
                    self._guess(*stuck[0])
                elif find in (self._sliced, self._later):
                    self._learned[self._kind(i)] = find.__name__
            pending = rest

    def _step(self, i: int) -> bool:
        """Runs an operation where all is known that goes into it, or can be found; returns whether it did."""
        operation = self.structure.operations[i]
        unknown = self._open_inputs(i)
        if any(value not in self.known and value not in unknown for value in operation.inputs):
            return False
        floats = [value for value in operation.inputs if self.structure.values[value].kind == "f"]
        if unknown and operation.name in (*MOVES, "concatenate") and set(floats) <= set(unknown):
            arrays = [self.places.ids(value) if value in unknown else self.known[value] for value in operation.inputs]
            for value, ids in zip(operation.outputs, self.port.evaluate(i, arrays), strict=True):
                self.places.move(value, ids)
            return self._used(i)
        if unknown and self._is_indifferent(i, unknown):
            return self._used(i)
        if i not in self._failed and not all(self._resolve(i, value) for value in unknown):
            self._failed.add(i)
        if self._open_inputs(i):
            return False
        outputs = [self._forced[i]] if i in self._forced else self._evaluated(i, {})
        self.known.update(zip(operation.outputs, outputs, strict=True))
        return self._used(i)

    def _used(self, i: int) -> bool:
        """Forgets large values that no operation will ask for again."""
        for value in set(self.structure.operations[i].inputs):
            self._uses[value] -= 1
            if not self._uses[value] and self.structure.values[value].size > _LARGE:
                self.known.pop(value, None)
                self.places.drop(value)
        return True

    def _open_inputs(self, i: int) -> list[int]:
        return [value for value in dict.fromkeys(self.structure.operations[i].inputs) if self._is_open(value)]

    def _is_ready(self, i: int, value: int) -> bool:
        return all(v == value or v in self.known for v in self.structure.operations[i].inputs)

    def _is_indifferent(self, i: int, unknown: Sequence[int]) -> bool:
        """Whether an operation gives the same for any weights, as a product with a state of zeros; it is run then."""
        others = [v for v in self.structure.operations[i].inputs if v not in unknown]
        if not others or any(np.asarray(self.known[v]).any() for v in others):
            return False
        trials = [{v: np.full(self.structure.values[v].shape, size) for v in unknown} for size in (0.0, 1.0)]
        first, second = (self._evaluated(i, trial) for trial in trials)
        if not all(map(np.array_equal, first, second)):
            return False
        self.known.update(zip(self.structure.operations[i].outputs, first, strict=True))
        return True

    def _is_open(self, value: int) -> bool:
        """Returns whether a value is a weight that is not known yet; it is looked up where it is."""
        if value in self.known or value not in self.places:
            return False
        numbers = self.places.numbers(value)
        if numbers is None:
            return True
        self.known[value] = numbers
        return False

    def _evaluated(self, i: int, trial: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        arrays = [trial[v] if v in trial else self.known[v] for v in self.structure.operations[i].inputs]
        return self.port.evaluate(i, arrays)

    def _resolve(self, i: int, value: int) -> bool:
        """Finds a weight where it is used, by what the operation gives; returns whether it did."""
        if not self._is_open(value):
            return True
        before = self._learned.get(self._kind(i))  # what found it in the layers before
        if before is not None and getattr(self, before)(i, value, _LIKELY):
            return True
        return self._first(i, value, lambda made, array: self.evidence.fits(self._evaluated(i, {value: array}), made))

    def _kind(self, i: int) -> tuple[Any, ...]:
        """Returns what an operation has in common with those of other layers."""
        operation = self.structure.operations[i]
        return operation.name, operation.lines, *(self.structure.values[value].shape for value in operation.inputs)

    def _sliced(self, i: int, value: int, most: int = _TRIALS) -> bool:
        def fits(made: Expression, array: np.ndarray) -> bool:
            return self.evidence.is_part(self._evaluated(i, {value: array}))

        return self._first(i, value, fits, most)

    def _later(self, i: int, value: int, most: int = _TRIALS) -> bool:
        return self._first(i, value, lambda made, array: self._fits_later(i, value, array, made), most)

    def _gate(self, i: int, value: int) -> bool:
        """Takes the gate that a name says: nothing of torch's is just its product."""
        names = self.places.names(value)
        made = next(self.entries.gates(names, self.places.base(value).shape), None)
        if made is None:
            return False
        self.guessed.update(names)
        self._take(value, made)
        return True

    def _nearest(self, i: int, value: int) -> bool:
        """Takes what comes closest, where a fault has moved all values; what follows goes on from the reference's."""
        best: dict[str, tuple[float, np.ndarray, Expression]] = {}
        for made, array in itertools.islice(self._trials(i, value), _NEARBY):
            found = self.evidence.nearest(np.asarray(self._evaluated(i, {value: array})[0]), made)
            name = " ".join(_entries(made))
            if found is not None and (name not in best or found[0] < best[name][0]):
                best[name] = (*found, made)
        ranked = sorted(best.values(), key=lambda of: of[0])
        if not ranked or (len(ranked) > 1 and ranked[1][0] < _APART * ranked[0][0]):
            return False
        _, self._forced[i], made = ranked[0]
        self._take(value, made)
        return True

    def _first(self, i: int, value: int, fits: Callable[[Expression, np.ndarray], bool], most: int = _TRIALS) -> bool:
        trials = itertools.islice(self._trials(i, value), most)
        found = next((made for made, array in trials if fits(made, array)), None)
        if found is not None:
            self._take(value, found)
        return found is not None

    def _trials(self, i: int, value: int) -> Iterator[tuple[Expression, np.ndarray]]:
        """Yields what a weight may be, and the array; nothing where something else is unknown, too."""
        if not self._is_open(value) or not self._is_ready(i, value):
            return
        shape, base = self.structure.values[value].shape, self.places.base(value).shape
        candidates = self.entries.candidates(base, self.places.names(value), self._image(i, value))
        for made in itertools.islice(candidates, _TRIALS):
            array = made.of(self.entries.arrays)
            if array.shape == base:
                yield made, np.broadcast_to(array, shape)

    def _guess(self, i: int, value: int) -> None:
        """Takes what the names and shapes say."""
        base, names = self.places.base(value).shape, self.places.names(value)
        self.guessed.update(names)
        found = self.entries.by_name(base, names)
        made = next((m for m in found if m.of(self.entries.arrays).shape == base), None)
        if made is None:
            shape = list(self.structure.values[self.leaves[names[0]]].shape)
            raise ValueError(
                f"params: expected weights that the reference has, got {names[0]} of shape {shape}, which no entry of "
                "it fits; pass the port's own parameters"
            )
        self._take(value, made)

    def _take(self, value: int, made: Expression) -> None:
        self.places.take(value, made, self.entries.arrays, self.entries.numbered)
        for part in made.parts if isinstance(made, Summed) else (made,):
            self.entries.taken[part.of(self.entries.numbered)] = True
        self.entries.used.update(_entries(made))

    def _image(self, i: int, value: int) -> tuple[int, int, int] | None:
        """Returns the height, width and channels of what was flattened to be multiplied with a weight."""
        for other in self.structure.operations[i].inputs:
            made_by = self.structure.producers.get(other)
            if other != value and made_by is not None and self.structure.operations[made_by].name == "reshape":
                shape = self.structure.values[self.structure.operations[made_by].inputs[0]].shape
                if len(shape) == 4:
                    self.entries.images.add(shape[1:])
                    return shape[1], shape[2], shape[3]
        return None

    def _fits_later(self, i: int, value: int, array: np.ndarray, made: Expression) -> bool:
        """Returns whether one of the next operations fits, where all else that goes into them is known.

        A bias that is added next is taken from the same module.
        """
        tape = self.structure
        trial = {value: array}
        trial.update(zip(tape.operations[i].outputs, self._evaluated(i, trial), strict=True))
        first = fingerprint(np.asarray(trial[tape.operations[i].outputs[0]]))
        following = [j for v in tape.operations[i].outputs for j in tape.consumers.get(v, ())]
        for _ in range(_FAR):
            if not following:
                return False
            j = following.pop(0)
            for v in self._open_inputs(j):
                bias = self._beside(made, v)
                if v not in trial and bias is not None:
                    trial[v] = bias
            if any(v not in trial and v not in self.known for v in tape.operations[j].inputs):
                continue
            outputs = self._evaluated(j, trial)
            trial.update(zip(tape.operations[j].outputs, outputs, strict=True))
            if self.evidence.fits(outputs) and not likeness(fingerprint(np.asarray(outputs[0])), first):
                return True
            following += [k for v in tape.operations[j].outputs for k in tape.consumers.get(v, ())]
        return False

    def _beside(self, made: Expression, value: int) -> np.ndarray | None:
        """Returns what the reference holds beside an entry, in the shape of a weight of the port."""
        shape, base = self.structure.values[value].shape, self.places.base(value).shape
        arrays = self.entries.arrays
        for name in self.entries.ranked(self.places.names(value)):
            if isinstance(made, Entry | Moved) and above(name)[:1] == above(next(_entries(made)))[:1]:
                for other in expressions.layouts(Entry(name), arrays[name].shape, base):
                    return np.broadcast_to(other.of(arrays), shape)
        return None

    def _leftover(self, name: str) -> None:
        """Fills what the forward pass did not use."""
        number = self.leaves[name]
        if self.structure.values[number].size and self.places.numbers(number) is None:
            self._guess(-1, number)

    def _add_biases(self) -> None:
        """Adds what is left of two biases to the one that is taken: torch's LSTM and GRU add both in one sum."""
        arrays, starts = self.entries.arrays, self.entries.starts
        biases = [name for name, array in arrays.items() if array.ndim == 1 and "bias" in name]
        for a, b in itertools.permutations(biases, 2):
            if arrays[a].shape != arrays[b].shape or above(a)[:1] != above(b)[:1]:
                continue
            own, other = (starts[name] + np.arange(arrays[name].size) for name in (a, b))
            lone = own[self.entries.taken[own] & ~self.entries.taken[other]]
            for sources in self.places.sources.values() if lone.size else ():
                taken = np.isin(sources[0], lone)
                sources[1, taken] = sources[0, taken] - own[0] + other[0]
            self.entries.used.update([b] if lone.size else [])
            self.entries.taken[other[np.isin(own, lone)]] = True

    def _conversion(self) -> Conversion:
        self._add_biases()
        found: dict[str, Expression] = {}
        for name in self.leaves:
            made = self.places.expression(name)
            if made is None:
                raise ValueError(f"params: expected {name} to be made of whole blocks of the reference's weights")
            found[name] = made
        unused = tuple(name for name in self.entries.arrays if name not in self.entries.used)
        shapes = {name: array.shape for name, array in self.entries.arrays.items()}
        return Conversion(found, shapes, None, tuple(sorted(self.guessed)), unused)


def _entries(made: Expression) -> Iterator[str]:
    """Yields the names of the entries in an expression."""
    if isinstance(made, Entry):
        yield made.name
    for part in getattr(made, "parts", ()):
        yield from _entries(part)
    if hasattr(made, "whole"):
        yield from _entries(made.whole)  # pyright: ignore
