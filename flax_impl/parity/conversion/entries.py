"""What a weight of a port may be made of: the reference's entries, those first that are free and named alike."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from torch_ref.common.tape.tape import Tape

from ..weight_map.names import above, similarity, words_of
from .expressions import Cut, Entry, Expression, Joined, Summed, blocks, layouts

_PARTS = 4  # entries that one weight is put together of, or that one entry is cut into

Image = Sequence[int] | None


class Entries:
    """The reference's entries, and which of their numbers are taken.

    Args:
        arrays: by name.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.words = {name: words_of(name) for name in arrays}
        self.used: set[str] = set()
        sizes = [array.size for array in arrays.values()]
        self.starts = dict(zip(arrays, np.cumsum([0, *sizes]), strict=False))
        # Every number of the entries has a number of its own, in the layout of the entry.
        self.numbered = {n: self.starts[n] + np.arange(a.size).reshape(a.shape) for n, a in arrays.items()}
        self.taken = np.zeros(int(sum(sizes)), bool)  # whether some weight of the port is made of a number
        self.images: set[tuple[int, ...]] = set()

    def candidates(self, ids: np.ndarray, names: Sequence[str], image: Image) -> Iterator[Expression]:
        """Yields what a weight may be: an entry, a block of one, several together, or the sum of two biases.

        Args:
            ids: an array of its shape.
            names: of the port's weights that it is part of.
            image: height, width and channels of what was flattened to be multiplied with it.
        """
        ranked = self.ranked(names)
        yield from self.gates(names, ids)
        for name in ranked:
            yield from layouts(Entry(name), self.arrays[name].shape, ids.shape, image)
        yield from sorted(self._blocks(ranked, ids), key=lambda made: bool(self.taken[made.of(self.numbered)].any()))
        yield from self._stacks(ranked, ids)
        yield from self._joined(ranked, ids)
        for a, b in itertools.combinations(ranked, 2):
            if self.arrays[a].shape == self.arrays[b].shape == ids.shape and above(a)[:1] == above(b)[:1]:
                yield Summed((Entry(a), Entry(b)))

    def by_name(self, ids: np.ndarray, names: Sequence[str]) -> Iterator[Expression]:
        """Yields what names and shapes say: a gate, an entry, or those of one name but for a number, stacked.

        Args:
            ids: an array of the weight's shape.
            names: of the port's weights that it is part of.
        """
        turned = ids.ndim == 2 and ids.shape[0] == ids.shape[1] and any(re.search("kernel|w$", n) for n in names)
        ranked = self.ranked(names)
        yield from self.gates(names, ids)
        for name in ranked:
            made = list(layouts(Entry(name), self.arrays[name].shape, ids.shape))
            yield from made[::-1] if turned else made
        yield from self._stacks(ranked, ids)
        yield from self._blocks(ranked, ids)
        yield from self._joined(ranked, ids)

    def gates(self, names: Sequence[str], ids: np.ndarray) -> Iterator[Expression]:
        """Yields the blocks of torch's LSTM or GRU that a port names by their gates: Flax's `hf` is of `weight_hh`.

        Args:
            names: of the port's weights that are looked for, in the order in which they are joined.
            ids: an array of their shape.
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
                    if set(letters) <= set(gates) and array.size * len(letters) == len(gates) * ids.size:
                        parts = tuple(Cut(Entry(name), len(gates), gates.index(letter), 0) for letter in letters)
                        shape = (array.shape[0] * len(letters) // len(gates), *array.shape[1:])
                        made = parts[0] if len(parts) == 1 else Joined(parts, 0)
                        yield from [*layouts(made, shape, ids.shape)][::-1]

    def _blocks(self, ranked: Sequence[str], ids: np.ndarray) -> Iterator[Expression]:
        for name in ranked:
            if self.arrays[name].size <= _PARTS * ids.size:
                for block, shape in blocks(name, self.arrays[name].shape, ids.size):
                    yield from layouts(block, shape, ids.shape)

    def _stacks(self, ranked: Sequence[str], ids: np.ndarray) -> Iterator[Expression]:
        """Yields the entries whose names differ by one number, stacked."""
        families: dict[str, list[str]] = {}
        for name in self.arrays:
            for found in re.finditer(r"\d+", name):
                families.setdefault(f"{name[: found.start()]}#{name[found.end() :]}", []).append(name)
        ranks = {name: rank for rank, name in enumerate(ranked)}
        for family in sorted(families.values(), key=lambda family: ranks[family[0]]):
            shape = self.arrays[family[0]].shape
            if all(self.arrays[name].shape == shape for name in family):
                yield from layouts(Joined(tuple(map(Entry, family)), 0, new=True), (len(family), *shape), ids.shape)

    def ranked(self, names: Sequence[str]) -> list[str]:
        """Returns the entries, those that are not taken and whose names are alike first.

        Args:
            names: of the port's weights that are looked for.
        """
        words = [words_of(name) for name in names]
        order = {name: i for i, name in enumerate(self.arrays)}

        def rank(name: str) -> tuple[bool, float, int]:
            return name in self.used, -max(similarity(self.words[name], of) for of in words), order[name]

        return sorted(self.arrays, key=rank)

    def _joined(self, ranked: Sequence[str], ids: np.ndarray) -> Iterator[Expression]:
        for group in self._groups(ranked, ids.size):
            first, *rest = [self.arrays[name].shape for name in group]
            shape = (sum(of[0] for of in (first, *rest)), *first[1:])
            yield from layouts(Joined(tuple(map(Entry, group)), 0), shape, ids.shape)

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
            if (array < 0).any():
                return None
            owners = np.unique(np.searchsorted(starts, array.ravel(), "right") - 1)
            if len(owners) != 1:
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
