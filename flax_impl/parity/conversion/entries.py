"""What a weight of a port may be made of: the reference's entries, those first that are free and named alike."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..weight_map.names import above, similarity, words_of
from .expressions import Cut, Entry, Expression, Joined, Summed, blocks, layouts

_PARTS = 4  # entries that one weight is put together of, or that one entry is cut into

Image = Sequence[int] | None


class _Numbered(Mapping[str, np.ndarray]):
    """A number for every number of the entries, in the layout of the entry; made when it is asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray], starts: Mapping[str, Any]) -> None:
        self._arrays, self._starts = arrays, starts
        total = sum(array.size for array in arrays.values())
        self._type = np.int32 if total < np.iinfo(np.int32).max else np.int64

    def __getitem__(self, name: str) -> np.ndarray:
        array, first = self._arrays[name], int(self._starts[name])
        return np.arange(first, first + array.size, dtype=self._type).reshape(array.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Entries:
    """The reference's entries, and which of their numbers are taken.

    Args:
        arrays: by name.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.words = {name: words_of(name) for name in arrays}
        self._alike: dict[str, dict[str, float]] = {}  # by the port's weight, then by the entry
        self.used: set[str] = set()
        sizes = [array.size for array in arrays.values()]
        self.starts = dict(zip(arrays, np.cumsum([0, *sizes]), strict=False))
        self.numbered = _Numbered(arrays, self.starts)
        self.taken = np.zeros(int(sum(sizes)), bool)  # whether some weight of the port is made of a number
        self.images: set[tuple[int, ...]] = set()

    def candidates(self, wanted: tuple[int, ...], names: Sequence[str], image: Image) -> Iterator[Expression]:
        """Yields what a weight may be: an entry, a block of one, several together, or the sum of two biases.

        Args:
            wanted: shape of the weight.
            names: of the port's weights that it is part of.
            image: height, width and channels of what was flattened to be multiplied with it.
        """
        ranked = self.ranked(names)
        yield from self.gates(names, wanted)
        for name in ranked:
            yield from layouts(Entry(name), self.arrays[name].shape, wanted, image)
        yield from sorted(self._blocks(ranked, wanted), key=lambda made: bool(self.taken[made.of(self.numbered)].any()))
        yield from self._stacks(ranked, wanted)
        yield from self._joined(ranked, wanted)
        for a, b in itertools.combinations(ranked, 2):
            if self.arrays[a].shape == self.arrays[b].shape == wanted and above(a)[:1] == above(b)[:1]:
                yield Summed((Entry(a), Entry(b)))

    def of_module(self, module: str, wanted: tuple[int, ...]) -> Iterator[Expression]:
        """Yields what a weight may be, of the entries of a module.

        Args:
            module: of the reference.
            wanted: shape of the weight.
        """
        for name, array in self.arrays.items():
            if above(name)[:1] == [module]:
                yield from layouts(Entry(name), array.shape, wanted)

    def rivals(self, name: str) -> list[str]:
        """Returns the other entries of the same shape.

        Args:
            name: of an entry.
        """
        shape = self.arrays[name].shape
        return [other for other, array in self.arrays.items() if other != name and array.shape == shape]

    def of_next_layer(self, name: str) -> str | None:
        """Returns the entry of the same name and shape, but for a number that is one higher; None where there is none.

        Args:
            name: of an entry.
        """
        for number in re.finditer(r"\d+", name):
            other = f"{name[: number.start()]}{int(number[0]) + 1}{name[number.end() :]}"
            if other in self.arrays and self.arrays[other].shape == self.arrays[name].shape:
                return other
        return None

    def by_name(self, wanted: tuple[int, ...], names: Sequence[str], turns: bool | None) -> Iterator[Expression]:
        """Yields what names and shapes say: a gate, an entry, or those of one name but for a number, stacked.

        Args:
            wanted: shape of the weight.
            names: of the port's weights that it is part of.
            turns: whether the port's other square matrices are the reference's transposed; None where none is known.
        """
        named = any(re.search("kernel|w$", name) for name in names) if turns is None else turns
        turned = len(wanted) == 2 and wanted[0] == wanted[1] and named
        ranked = self.ranked(names)
        yield from self.gates(names, wanted)
        for name in ranked:
            made = list(layouts(Entry(name), self.arrays[name].shape, wanted))
            yield from made[::-1] if turned else made
        yield from self._stacks(ranked, wanted)
        yield from self._blocks(ranked, wanted)
        yield from self._joined(ranked, wanted)

    def gates(self, names: Sequence[str], wanted: tuple[int, ...]) -> Iterator[Expression]:
        """Yields the blocks of torch's LSTM or GRU that a port names by their gates: Flax's `hf` is of `weight_hh`.

        Args:
            names: of the port's weights that are looked for, in the order in which they are joined.
            wanted: shape of what is looked for.
        """
        found = [re.search(r"(?:^|\.)([ih])([ifgorzn])\.(kernel|bias)$", name) for name in names]
        told = [match.groups() for match in found if match is not None]
        if len(told) < len(names) or len({(side, kind) for side, _, kind in told}) != 1:
            return
        side, _, kind = told[0]
        letters = [gate for _, gate, _ in told]
        for name, array in self.arrays.items():
            if f"{'weight' if kind == 'kernel' else 'bias'}_{side}h_" in name:
                for gates in ("ifgo", "rzn"):
                    if set(letters) <= set(gates) and array.size * len(letters) == len(gates) * math.prod(wanted):
                        parts = tuple(Cut(Entry(name), len(gates), gates.index(letter), 0) for letter in letters)
                        shape = (array.shape[0] * len(letters) // len(gates), *array.shape[1:])
                        made = parts[0] if len(parts) == 1 else Joined(parts, 0)
                        yield from [*layouts(made, shape, wanted)][::-1]

    def _blocks(self, ranked: Sequence[str], wanted: tuple[int, ...]) -> Iterator[Expression]:
        for name in ranked:
            if self.arrays[name].size <= _PARTS * math.prod(wanted):
                for block, shape in blocks(name, self.arrays[name].shape, math.prod(wanted)):
                    yield from layouts(block, shape, wanted)

    def _stacks(self, ranked: Sequence[str], wanted: tuple[int, ...]) -> Iterator[Expression]:
        """Yields the entries whose names differ by one number, stacked."""
        families: dict[str, list[str]] = {}
        for name in self.arrays:
            for found in re.finditer(r"\d+", name):
                families.setdefault(f"{name[: found.start()]}#{name[found.end() :]}", []).append(name)
        ranks = {name: rank for rank, name in enumerate(ranked)}
        for family in sorted(families.values(), key=lambda family: ranks[family[0]]):
            shape = self.arrays[family[0]].shape
            if all(self.arrays[name].shape == shape for name in family):
                yield from layouts(Joined(tuple(map(Entry, family)), 0, new=True), (len(family), *shape), wanted)

    def ranked(self, names: Sequence[str]) -> list[str]:
        """Returns the entries, those that are not taken and whose names are alike first.

        Args:
            names: of the port's weights that are looked for.
        """
        alike = [self._similarities(name) for name in names]
        order = {name: i for i, name in enumerate(self.arrays)}

        def rank(name: str) -> tuple[bool, float, int]:
            return name in self.used, -max(of[name] for of in alike), order[name]

        return sorted(self.arrays, key=rank)

    def _similarities(self, name: str) -> dict[str, float]:
        if name not in self._alike:
            words = words_of(name)
            self._alike[name] = {entry: similarity(own, words) for entry, own in self.words.items()}
        return self._alike[name]

    def _joined(self, ranked: Sequence[str], wanted: tuple[int, ...]) -> Iterator[Expression]:
        for group in self._groups(ranked, math.prod(wanted)):
            first, *rest = [self.arrays[name].shape for name in group]
            shape = (sum(of[0] for of in (first, *rest)), *first[1:])
            yield from layouts(Joined(tuple(map(Entry, group)), 0), shape, wanted)

    def _groups(self, names: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
        """Yields entries of one module or of its parts that are together as large as a weight."""
        families: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
        for name in sorted(names, key=list(self.arrays).index):
            shape = self.arrays[name].shape
            for parent in above(name)[:2]:
                if shape:
                    families.setdefault((parent, name.rpartition(".")[2], shape[1:]), []).append(name)
        for family in families.values():
            for count in range(2, _PARTS + 1):
                for group in itertools.permutations(family, count) if len(family) <= 8 else ():
                    if sum(self.arrays[name].size for name in group) == size:
                        yield group

    def single(self) -> Callable[[np.ndarray], Expression | None]:
        """Returns a function that says how an array of numbers of entries is made of a single entry."""
        starts = np.array(list(self.starts.values()))
        names = list(self.starts)

        def single(array: np.ndarray) -> Expression | None:
            if not array.size or (array < 0).any():
                return None
            owners = np.searchsorted(starts, [array.min(), array.max()], "right") - 1
            if owners[0] != owners[1]:
                return None
            name = names[int(owners[0])]
            whole = self.arrays[name]
            if whole.size == array.size:
                for middle in (None, *self.images):
                    for made in layouts(Entry(name), whole.shape, array.shape, middle):
                        if np.array_equal(made.of(self.numbered), array):
                            return made
                return None
            for block, shape in blocks(name, whole.shape, array.size):
                for made in layouts(block, shape, array.shape):
                    if np.array_equal(made.of(self.numbered), array):
                        return made
            return None

        return single


def entries_of(tape: Tape) -> dict[str, np.ndarray]:
    """Returns the floating parameters and buffers of a tape by their names; small ones in float64, to be added up."""
    found = {}
    for name, number in tape.leaves.items():
        if not name.startswith("input/") and tape.values[number].kind == "f" and number in tape.arrays:
            array = tape.arrays[number]
            found[name.partition("/")[2]] = array.astype(np.float64) if array.ndim < 2 else array
    return found
