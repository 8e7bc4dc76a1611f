"""Finds the weights of a port by their values: whatever makes its next operation agree with the reference's."""

import itertools
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from torch_ref.common.progress import Progress
from torch_ref.common.tape.fingerprint import fingerprint
from torch_ref.common.tape.tape import Tape

from ..alignment.likeness import likeness
from ..alignment.repair import MOVES, Runnable
from ..weight_map.names import above
from .conversion import Conversion
from .expressions import Expression, entries_in
from .weights import FAR, TRIALS, DoubtError, Weights

_APART = 2.0  # times as far the next best has to be
_LIKELY = 16  # the same, where one of another layer was found in the same way
_NEARBY = 100  # the same, where the nearest is looked for
_AGAIN = 4  # searches that leave a choice out


class Search(Weights):
    """Goes through a port's forward pass and finds each weight when it is first used; arguments as `Weights`."""

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

    def _resolve(self, i: int, value: int) -> bool:
        """Finds a weight where it is used, by what the operation gives; returns whether it did."""
        if not self._is_open(value):
            return True
        before = self._learned.get(self._kind(i))  # what found it in the layers before
        if before is not None and getattr(self, before)(i, value, _LIKELY):
            return True
        weak: Expression | None = None
        for made, array in self._trials(i, value):
            outputs = self._evaluated(i, {value: array})
            if not self.evidence.fits(outputs, made):
                continue
            if self._has_effect(i, outputs[0]) or self._is_beside(i, value, made):
                self._take(value, made)
                return True
            weak = made if weak is None else weak
        if weak is not None:  # zeros that are added, or ones: any others would do
            self.guess(self.places.names(value))
            self._take(value, weak)
        return weak is not None

    def _sliced(self, i: int, value: int, most: int = TRIALS) -> bool:
        def fits(made: Expression, array: np.ndarray) -> bool:
            return self.evidence.is_part(self._evaluated(i, {value: array}))

        return self._first(i, value, fits, most)

    def _later(self, i: int, value: int, most: int = TRIALS) -> bool:
        return self._first(i, value, lambda made, array: self._fits_later(i, value, array, made), most)

    def _gate(self, i: int, value: int) -> bool:
        """Takes the gate that a name says: nothing of torch's is just its product."""
        names = self.places.names(value)
        made = next(self.entries.gates(names, self.places.base(value).shape), None)
        if made is None:
            return False
        self.guess(names)
        self._take(value, made)
        return True

    def _nearest(self, i: int, value: int) -> bool:
        """Takes what comes closest, where a fault has moved all values; what follows goes on from the reference's."""
        best: dict[str, tuple[float, np.ndarray, Expression]] = {}
        alike = self._alike(value)
        trials = itertools.islice(self._trials(i, value), _NEARBY)
        for made, array in ((m, a) for m, a in trials if alike is None or m == alike):
            found = self.evidence.nearest(np.asarray(self._evaluated(i, {value: array})[0]), made)
            name = " ".join(entries_in(made))
            if found is not None and (name not in best or found[0] < best[name][0]):
                best[name] = (*found, made)
        ranked = sorted(best.values(), key=lambda of: of[0])
        if not ranked or (len(ranked) > 1 and ranked[1][0] < _APART * ranked[0][0]):
            return False
        _, self._forced[i], made = ranked[0]
        self.guess(self.places.names(value))
        self._take(value, made)
        return True

    def _first(self, i: int, value: int, fits: Callable[[Expression, np.ndarray], bool], most: int = TRIALS) -> bool:
        trials = itertools.islice(self._trials(i, value), most)
        found = next((made for made, array in trials if fits(made, array)), None)
        if found is not None:
            self._take(value, found)
        return found is not None

    def _guess(self, i: int, value: int) -> None:
        """Takes what the names and shapes say."""
        base, names = self.places.base(value).shape, self.places.names(value)
        self.guess(names)
        alike = self._alike(value)
        found = itertools.chain([] if alike is None else [alike], self.entries.by_name(base, names, self.turns))
        made = next((m for m in found if m.of(self.entries.arrays).shape == base), None)
        if made is None:
            shape = list(self.structure.values[self.leaves[names[0]]].shape)
            raise ValueError(
                f"params: expected weights that the reference has, got {names[0]} of shape {shape}, which no entry of "
                "it fits; pass the port's own parameters"
            )
        self._take(value, made)

    def _fits_later(self, i: int, value: int, array: np.ndarray, made: Expression) -> bool:
        """Returns whether one of the next operations fits, where all else that goes into them is known.

        A bias that is added next is taken from the same module.
        """
        tape = self.structure
        trial = {value: array}
        trial.update(zip(tape.operations[i].outputs, self._evaluated(i, trial), strict=True))
        first = fingerprint(np.asarray(trial[tape.operations[i].outputs[0]]))
        following = [j for v in tape.operations[i].outputs for j in tape.consumers.get(v, ())]
        for _ in range(FAR):
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
                text = f"params: expected {name} to be made of whole blocks of the reference's weights"
                raise ValueError(f"{text}; a layer beside it may be flipped or transposed: pass the port's params=")
            found[name] = made
        unused = tuple(name for name in self.entries.arrays if name not in self.entries.used)
        shapes = {name: array.shape for name, array in self.entries.arrays.items()}
        return Conversion(found, shapes, None, tuple(sorted(self.guessed)), unused)


def search(reference: Tape, structure: Tape, port: Runnable, *, progress: bool = False) -> Conversion:
    """Returns how a port's weights are made of the reference's.

    Two towers of the same shapes fit each other's weights, until their ends do not: then what was taken first among
    such rivals is left out, and the search begins anew.

    Args:
        reference: the reference's tape, with its values kept.
        structure: the port's tape, whatever its weights.
        port: runs single operations.
        progress: shows a bar, or plain lines, once it takes long.

    Raises:
        ValueError: the port has weights that the reference does not have.
    """
    first = Search(reference, structure, port, progress)
    found = first.run()
    for choice in first.choices[:_AGAIN] if found.guessed else ():
        with suppress(DoubtError):  # in a port with a fault much is guessed, and that says nothing of the choice
            return Search(reference, structure, port, progress, choice).run()
    return found
