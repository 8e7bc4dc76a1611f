"""Finds the weights of a port by their values: whatever makes its next operation agree with the reference's."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from torch_ref.common.tape.fingerprint import fingerprint
from torch_ref.common.tape.tape import Tape

from ..alignment.likeness import likeness
from ..alignment.repair import MOVES, Runnable
from ..weight_map.names import above
from . import expressions
from .conversion import Conversion, assembled
from .entries import Entries, entries_of
from .evidence import Evidence
from .expressions import Entry, Expression, Moved, Summed

_APART = 2.0  # times as far the next best has to be
_TRIALS = 400  # expressions that are tried for one weight
_NEARBY = 100  # the same, where the nearest is looked for
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
    """

    reference: Tape
    structure: Tape
    port: Runnable
    known: dict[int, np.ndarray] = field(default_factory=dict)
    places: dict[int, np.ndarray] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    _failed: set[int] = field(default_factory=set)
    _forced: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tape = self.structure
        self.entries = Entries(entries_of(self.reference))
        leaves = [(name, number) for name, number in tape.leaves.items() if not name.startswith("input/")]
        self.leaves = {name.partition("/")[2]: number for name, number in leaves if tape.values[number].kind == "f"}
        sizes = [tape.values[number].size for number in self.leaves.values()]
        self.starts = dict(zip(self.leaves, np.cumsum([0, *sizes]), strict=False))
        total = int(sum(sizes))
        # Of each number of the port: its value, and up to two entries of the reference that it is made of.
        self.numbers, self.sources = np.full(total, np.nan), np.full((2, total), -1, np.int64)
        for name, number in self.leaves.items():
            shape = tape.values[number].shape
            self.places[number] = self.starts[name] + np.arange(tape.values[number].size, dtype=float).reshape(shape)
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
        results = [number for name, number in tape.results.items() if not name.startswith("grad/")]
        pending = [i for i in tape.upstream(results) if not tape.operations[i].backward]
        while pending:
            rest = [i for i in pending if not self._step(i)]
            if len(rest) == len(pending):  # nothing is certain: look further, and at last guess
                stuck = [(i, v) for i in rest for v in self._open_inputs(i) if self._is_ready(i, v)]
                if not stuck:
                    break
                finders = (self._sliced, self._later, self._gate, self._nearest)
                if not any(find(i, value) for find in finders for i, value in stuck):
                    self._guess(*stuck[0])
            pending = rest
        for name in self.leaves:
            self._leftover(name)
        return self._conversion()

    def _step(self, i: int) -> bool:
        """Runs an operation where all is known that goes into it, or can be found; returns whether it did."""
        operation = self.structure.operations[i]
        unknown = self._open_inputs(i)
        if any(value not in self.known and value not in unknown for value in operation.inputs):
            return False
        floats = [value for value in operation.inputs if self.structure.values[value].kind == "f"]
        if unknown and operation.name in (*MOVES, "concatenate") and set(floats) <= set(unknown):
            arrays = [self.places[value] if value in unknown else self.known[value] for value in operation.inputs]
            self.places.update(zip(operation.outputs, self.port.evaluate(i, arrays), strict=True))
            return True
        if unknown and self._is_indifferent(i, unknown):
            return True
        if i not in self._failed and not all(self._resolve(i, value) for value in unknown):
            self._failed.add(i)
        if self._open_inputs(i):
            return False
        outputs = [self._forced[i]] if i in self._forced else self._evaluated(i, {})
        self.known.update(zip(operation.outputs, outputs, strict=True))
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
        trials = [{v: np.full(self.places[v].shape, size) for v in unknown} for size in (0.0, 1.0)]
        first, second = (self._evaluated(i, trial) for trial in trials)
        if not all(map(np.array_equal, first, second)):
            return False
        self.known.update(zip(self.structure.operations[i].outputs, first, strict=True))
        return True

    def _is_open(self, value: int) -> bool:
        """Returns whether a value is a weight that is not known yet; it is looked up where it is."""
        if value in self.known or value not in self.places:
            return False
        numbers = self.numbers[self.places[value].astype(np.int64)]
        if np.isnan(numbers).any():
            return True
        self.known[value] = numbers
        return False

    def _evaluated(self, i: int, trial: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        arrays = [trial[v] if v in trial else self.known[v] for v in self.structure.operations[i].inputs]
        return self.port.evaluate(i, arrays)

    def _resolve(self, i: int, value: int) -> bool:
        """Finds a weight where it is used, by what the operation gives; returns whether it did."""
        return not self._is_open(value) or self._first(
            i, value, lambda made, array: self.evidence.fits(self._evaluated(i, {value: array}), made)
        )

    def _sliced(self, i: int, value: int) -> bool:
        return self._first(i, value, lambda made, array: self.evidence.is_part(self._evaluated(i, {value: array})))

    def _later(self, i: int, value: int) -> bool:
        return self._first(i, value, lambda made, array: self._fits_later(i, value, array, made))

    def _gate(self, i: int, value: int) -> bool:
        """Takes the gate that a name says: nothing of torch's is just its product."""
        ids = _base(self.places[value].astype(np.int64))
        names = self._names(ids)
        made = next(self.entries.gates(names, ids), None)
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

    def _first(self, i: int, value: int, fits: Callable[[Expression, np.ndarray], bool]) -> bool:
        found = next((made for made, array in self._trials(i, value) if fits(made, array)), None)
        if found is not None:
            self._take(value, found)
        return found is not None

    def _trials(self, i: int, value: int) -> Iterator[tuple[Expression, np.ndarray]]:
        """Yields what a weight may be, and the array; nothing where something else is unknown, too."""
        if not self._is_open(value) or not self._is_ready(i, value):
            return
        ids = self.places[value].astype(np.int64)
        base = _base(ids)
        candidates = self.entries.candidates(base, self._names(ids), self._image(i, value))
        for made in itertools.islice(candidates, _TRIALS):
            array = made.of(self.entries.arrays)
            if array.shape == base.shape:
                yield made, np.broadcast_to(array, ids.shape)

    def _guess(self, i: int, value: int) -> None:
        """Takes what the names and shapes say."""
        ids = _base(self.places[value].astype(np.int64))
        names = self._names(ids)
        self.guessed.update(names)
        found = self.entries.by_name(ids, names)
        made = next((m for m in found if m.of(self.entries.arrays).shape == ids.shape), None)
        if made is None:
            shape = list(self.structure.values[self.leaves[names[0]]].shape)
            raise ValueError(
                f"params: expected weights that the reference has, got {names[0]} of shape {shape}, which no entry of "
                "it fits; pass the port's own parameters"
            )
        self._take(value, made)

    def _take(self, value: int, made: Expression) -> None:
        ids = _base(self.places[value].astype(np.int64))
        self.numbers[ids] = made.of(self.entries.arrays)
        for row, part in enumerate(made.parts if isinstance(made, Summed) else (made,)):
            self.sources[row, ids] = part.of(self.entries.numbered)
            self.entries.taken[part.of(self.entries.numbered)] = True
        self.entries.used.update(_entries(made))

    def _names(self, ids: np.ndarray) -> list[str]:
        """Returns the port's weights that some numbers belong to, in the order in which they come."""
        starts = np.array(list(self.starts.values()))
        owners, first = np.unique(np.searchsorted(starts, ids.ravel(), "right") - 1, return_index=True)
        return [list(self.starts)[i] for i in owners[np.argsort(first)]]

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
        ids = self.places[value].astype(np.int64)
        base = _base(ids)
        arrays = self.entries.arrays
        for name in self.entries.ranked(self._names(base)):
            if isinstance(made, Entry | Moved) and above(name)[:1] == above(next(_entries(made)))[:1]:
                for other in expressions.layouts(Entry(name), arrays[name].shape, base.shape):
                    return np.broadcast_to(other.of(arrays), ids.shape)
        return None

    def _leftover(self, name: str) -> None:
        """Fills what the forward pass did not use."""
        number = self.leaves[name]
        ids = self.places[number].astype(np.int64)
        if np.isnan(self.numbers[ids]).any():
            self._guess(-1, number)

    def _add_biases(self) -> None:
        """Adds what is left of two biases to the one that is taken: torch's LSTM and GRU add both in one sum."""
        arrays, starts = self.entries.arrays, self.entries.starts
        biases = [name for name, array in arrays.items() if array.ndim == 1 and "bias" in name]
        for a, b in itertools.permutations(biases, 2):
            if arrays[a].shape != arrays[b].shape or above(a)[:1] != above(b)[:1]:
                continue
            own, other = (starts[name] + np.arange(arrays[name].size) for name in (a, b))
            lone = np.isin(own, self.sources) & ~np.isin(other, self.sources)
            for place in np.flatnonzero(lone):
                taken = self.sources[0] == own[place]
                self.sources[1, taken] = other[place]
            self.entries.used.update([b] if lone.any() else [])

    def _conversion(self) -> Conversion:
        self._add_biases()
        found, single = {}, self.entries.single()
        for name, number in self.leaves.items():
            ids = self.places[number].astype(np.int64)
            made = [assembled(row[ids], single) for row in self.sources if (row[ids] >= 0).any()]
            if not made or None in made:
                raise ValueError(f"params: expected {name} to be made of whole blocks of the reference's weights")
            found[name] = made[0] if len(made) == 1 else Summed((made[0], made[1]))  # pyright: ignore
        unused = tuple(name for name in self.entries.arrays if name not in self.entries.used)
        shapes = {name: array.shape for name, array in self.entries.arrays.items()}
        return Conversion(found, shapes, None, tuple(sorted(self.guessed)), unused)


def _base(ids: np.ndarray) -> np.ndarray:
    """Returns the numbers of a weight without the axes along which it was repeated."""
    for axis in range(ids.ndim):
        first = ids.take([0], axis)
        if ids.shape[axis] > 1 and (ids == first).all():
            ids = first
    return ids


def _entries(made: Expression) -> Iterator[str]:
    """Yields the names of the entries in an expression."""
    if isinstance(made, Entry):
        yield made.name
    for part in getattr(made, "parts", ()):
        yield from _entries(part)
    if hasattr(made, "whole"):
        yield from _entries(made.whole)  # pyright: ignore
