"""Holds what is known of a port's weights while its forward pass is gone through."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..alignment.repair import Runnable
from ..weight_map.names import above
from . import expressions
from .entries import Entries, entries_of
from .evidence import Evidence
from .expressions import Entry, Expression, Moved, Summed, entries_in
from .places import Places

TRIALS = 400  # expressions that are tried for one weight
_LARGE = 1 << 18  # numbers of a value that is forgotten once it is of no use
FAR = 5  # operations that a trial is followed through


class DoubtError(Exception):
    """Nothing proves a weight."""


@dataclass
class Weights:
    """Goes through a port's forward pass and finds each weight when it is first used.

    Every entry of the port's weights has a number, and what only moves weights moves the numbers. So a weight may be
    stacked, sliced by a scan, or reshaped before it is used.

    Args:
        reference: the reference's tape, with its values kept.
        structure: the port's tape, whatever its weights.
        port: runs single operations.
        progress: shows a bar, or plain lines, once it takes long.
        avoid: a weight of the port and an entry that it is not made of.
    """

    reference: Tape
    structure: Tape
    port: Runnable
    progress: bool = False
    avoid: tuple[str, str] | None = None
    known: dict[int, np.ndarray] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    choices: list[tuple[str, str]] = field(default_factory=list)  # weights, and the entry that was taken among rivals
    turned: Counter[bool] = field(default_factory=Counter)  # square matrices that are transposed, and that are not
    _beside_of: dict[int, tuple[str, ...]] = field(default_factory=dict)  # the modules of what was taken, by value
    _failed: set[int] = field(default_factory=set)
    _forced: dict[int, np.ndarray] = field(default_factory=dict)
    _learned: dict[tuple[Any, ...], str] = field(default_factory=dict)  # names: methods would keep the search alive
    _uses: Counter[int] = field(default_factory=Counter)
    _rows: dict[tuple[Any, ...], Expression] = field(default_factory=dict)  # what was taken last, by weight and shape

    def __post_init__(self) -> None:
        tape = self.structure
        self.entries = Entries(entries_of(self.reference))
        leaves = [(name, number) for name, number in tape.leaves.items() if not name.startswith("input/")]
        self.leaves = {name.partition("/")[2]: number for name, number in leaves if tape.values[number].kind == "f"}
        self.places = Places(tape, self.leaves, self.entries.single)
        self.evidence = Evidence(self.reference)

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

    def _has_effect(self, i: int, output: np.ndarray) -> bool:
        """Whether an operation gives something else than what goes into it."""
        given = [self.known.get(v) for v in self.structure.operations[i].inputs]
        return not any(a is not None and np.shape(a) == np.shape(output) and np.array_equal(a, output) for a in given)

    def guess(self, names: Iterable[str]) -> None:
        """Takes note of weights that nothing proves; a search that leaves a choice out ends there."""
        if self.avoid is not None:
            raise DoubtError
        self.guessed.update(names)

    @property
    def turns(self) -> bool | None:
        """Whether the square matrices that are known are transposed; None where there are none."""
        return self.turned[True] > self.turned[False] if self.turned else None

    def _is_beside(self, i: int, value: int, made: Expression) -> bool:
        """Whether an entry is of the module whose weight was used just before."""
        modules = self._modules_before(i, value)
        return any(above(name)[:1] == [module] for name in entries_in(made) for module in modules)

    def _modules_before(self, i: int, value: int) -> tuple[str, ...]:
        """Returns the modules of the weights that were used last on the way to an operation."""
        queue = [v for v in self.structure.operations[i].inputs if v != value]
        for _ in range(FAR):
            following = []
            for v in queue:
                made_by = self.structure.producers.get(v)
                given = () if made_by is None else self.structure.operations[made_by].inputs
                for other in given:
                    if other in self._beside_of:
                        return self._beside_of[other]
                following += given
            queue = following
        return ()

    def _kind(self, i: int) -> tuple[Any, ...]:
        """Returns what an operation has in common with those of other layers."""
        operation = self.structure.operations[i]
        return operation.name, operation.lines, *(self.structure.values[value].shape for value in operation.inputs)

    def _trials(self, i: int, value: int) -> Iterator[tuple[Expression, np.ndarray]]:
        """Yields what a weight may be, and the array; nothing where something else is unknown, too."""
        if not self._is_open(value) or not self._is_ready(i, value):
            return
        shape, base = self.structure.values[value].shape, self.places.base(value).shape
        names, modules = self.places.names(value), self._modules_before(i, value)
        beside = [made for module in modules for made in self.entries.of_module(module, base)]
        others = self.entries.candidates(base, names, self._image(i, value))
        for made in itertools.islice(itertools.chain(beside, others), TRIALS):
            if self.avoid is not None and self.avoid in pairs(names, made):
                continue
            array = made.of(self.entries.arrays)
            if array.shape == base:
                yield made, np.broadcast_to(array, shape)

    def _take(self, value: int, made: Expression) -> None:
        self.places.take(value, made, self.entries.arrays, self.entries.numbered)
        for part in made.parts if isinstance(made, Summed) else (made,):
            self.entries.taken[part.of(self.entries.numbered)] = True
        self.entries.used.update(entries_in(made))
        self._rows[(*self.places.names(value), *self.places.base(value).shape)] = made
        shape = self.places.base(value).shape
        if len(shape) == 2 and shape[0] == shape[1] and not self.guessed.intersection(self.places.names(value)):
            self.turned[isinstance(made, Moved) and made.axes == (1, 0)] += 1
        self._beside_of[value] = tuple(dict.fromkeys(above(name)[0] for name in entries_in(made) if above(name)))
        names = self.places.names(value)
        if isinstance(made, Entry | Moved) and len(self.entries.rivals(next(entries_in(made)))) > 0:
            self.choices += pairs(names, made)

    def _alike(self, value: int) -> Expression | None:
        """Returns what stands in the next layer for what the layer before is made of, in a weight that is stacked.

        Only what is free counts: so layers stay in their order where a fault hides what proves them.
        """
        names = self.places.names(value)
        before = self._rows.get((*names, *self.places.base(value).shape))
        made = None if before is None else expressions.renamed(before, self.entries.of_next_layer)
        free = made is not None and not self.entries.taken[made.of(self.entries.numbered)].any()
        return made if free else None

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

    def _beside(self, made: Expression, value: int) -> np.ndarray | None:
        """Returns what the reference holds beside an entry, in the shape of a weight of the port."""
        shape, base = self.structure.values[value].shape, self.places.base(value).shape
        arrays = self.entries.arrays
        for name in self.entries.ranked(self.places.names(value)):
            if isinstance(made, Entry | Moved) and above(name)[:1] == above(next(entries_in(made)))[:1]:
                for other in expressions.layouts(Entry(name), arrays[name].shape, base):
                    return np.broadcast_to(other.of(arrays), shape)
        return None


def pairs(names: Sequence[str], made: Expression) -> list[tuple[str, str]]:
    """Returns each weight beside each entry of what they are made of.

    Args:
        names: of the weights.
        made: what they are made of.
    """
    return [(name, entry) for name in names for entry in entries_in(made)]
