"""How a weight of the port is made of entries of the reference's state: a tree that computes it, and prints as code."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


class Expression(Protocol):
    """Something that an array is made by; its text is Python code over `sd`, the reference's state as arrays."""

    def of(self, arrays: Arrays) -> np.ndarray:
        """Returns the array, made of a state's arrays by name."""
        ...


@dataclass(frozen=True)
class Entry:
    """An entry of the reference's state, as it is."""

    name: str

    def of(self, arrays: Arrays) -> np.ndarray:
        """Returns the entry."""
        return np.asarray(arrays[self.name])

    def __str__(self) -> str:
        return f'sd["{self.name}"]'


@dataclass(frozen=True)
class Cut:
    """One of several equal blocks along an axis."""

    whole: Expression
    count: int
    index: int
    axis: int

    def of(self, arrays: Arrays) -> np.ndarray:
        """Returns the block."""
        return np.split(self.whole.of(arrays), self.count, self.axis)[self.index]

    def __str__(self) -> str:
        axis = f", {self.axis}" if self.axis else ""
        return f"np.split({self.whole}, {self.count}{axis})[{self.index}]"


@dataclass(frozen=True)
class Moved:
    """An array with its axes split, in another order, and merged; each where it takes it."""

    whole: Expression
    split: Shape | None
    axes: tuple[int, ...] | None
    merged: Shape | None

    def of(self, arrays: Arrays) -> np.ndarray:
        """Returns the array in its new layout."""
        array = self.whole.of(arrays)
        array = array if self.split is None else array.reshape(self.split)
        array = array if self.axes is None else array.transpose(self.axes)
        return array if self.merged is None else array.reshape(self.merged)

    def __str__(self) -> str:
        text = str(self.whole)
        if self.split is not None:
            text += f".reshape({_listed(self.split)})"
        if self.axes is not None:
            text += ".T" if self.axes == (1, 0) else f".transpose({_listed(self.axes)})"
        return text if self.merged is None else f"{text}.reshape({_listed(self.merged)})"


@dataclass(frozen=True)
class Joined:
    """Arrays one after the other along an axis, or, where `new` says so, along an axis of their own."""

    parts: tuple[Expression, ...]
    axis: int
    new: bool = False

    def of(self, arrays: Arrays) -> np.ndarray:
        """Returns the parts together."""
        parts = [part.of(arrays) for part in self.parts]
        return np.stack(parts, self.axis) if self.new else np.concatenate(parts, self.axis)

    def __str__(self) -> str:
        axis = f", {self.axis}" if self.axis else ""
        return f"np.{'stack' if self.new else 'concatenate'}({_series(list(map(str, self.parts)))}{axis})"


@dataclass(frozen=True)
class Summed:
    """Two arrays added up: torch holds two biases where others hold one."""

    parts: tuple[Expression, Expression]

    def of(self, arrays: Arrays) -> np.ndarray:
        """Returns the sum."""
        return self.parts[0].of(arrays) + self.parts[1].of(arrays)

    def __str__(self) -> str:
        return f"({self.parts[0]} + {self.parts[1]})"


def blocks(name: str, shape: Shape, size: int) -> Iterator[tuple[Expression, Shape]]:
    """Yields the equal blocks of an entry that are as large as a weight, each with its shape; not the entry itself.

    Args:
        name: of the entry.
        shape: of the entry.
        size: how many numbers the weight has.
    """
    count, rest = divmod(math.prod(shape), size) if size else (0, 0)
    for axis, length in enumerate(shape if count > 1 and not rest else ()):
        if length % count == 0:
            for index in range(count):
                yield Cut(Entry(name), count, index, axis), (*shape[:axis], length // count, *shape[axis + 1 :])


def layouts(
    whole: Expression, shape: Shape, wanted: Shape, middle: Sequence[int] | None = None
) -> Iterator[Expression]:
    """Yields the ways to bring an array into another shape by splitting, exchanging and merging its axes.

    Args:
        whole: the array.
        shape: its shape.
        wanted: the shape that it is to have.
        middle: the shape of an image that was flattened, where one of the axes is one: torch flattens channels first.
    """
    if math.prod(shape) != math.prod(wanted):
        return
    seen = set()

    def new(split: Shape | None, axes: tuple[int, ...], merged: Shape | None) -> Iterator[Expression]:
        own = axes if axes is not None and list(axes) != sorted(axes) else None
        key = (None, None, split) if own is None and merged is None and split is not None else (split, own, merged)
        if key not in seen:
            seen.add(key)
            yield whole if key == (None, None, None) else Moved(whole, *key)

    for axes in itertools.permutations(range(len(shape))):
        turned = tuple(shape[axis] for axis in axes)
        if turned == wanted:
            yield from new(None, axes, None)
    if len(shape) <= 4:
        for axes in itertools.permutations(range(len(shape))):
            turned = tuple(shape[axis] for axis in axes)
            if turned != wanted and _refines(turned, wanted):
                yield from new(None, axes, wanted)
    if middle is not None and len(shape) == 2 and len(middle) == 3 and shape[1] == math.prod(middle):
        height, width, channels = middle
        yield from new((shape[0], channels, height, width), (2, 3, 1, 0), wanted)
    if 1 < len(wanted) <= 4:
        for axes in itertools.permutations(range(len(wanted))):
            split = tuple(wanted[axes.index(axis)] for axis in range(len(wanted)))
            if split != shape and _refines(shape, split):
                yield from new(split, axes, None)


def _refines(a: Shape, b: Shape) -> bool:
    """Whether one shape is another with neighbours merged."""
    ends = [{math.prod(shape[:i]) for i in range(len(shape) + 1)} for shape in (a, b)]
    return ends[0] <= ends[1] or ends[1] <= ends[0]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _series(texts: list[str]) -> str:
    """Returns a list as code: a comprehension where the texts differ by one number that counts up."""
    numbers = [re.findall(r"\d+", text) for text in texts]
    if len(texts) > 2 and len({re.sub(r"\d+", "#", text) for text in texts}) == 1:
        moving = [i for i in range(len(numbers[0])) if len({of[i] for of in numbers}) > 1]
        counting = [int(of[moving[0]]) for of in numbers] if moving else []
        same = all(len({of[i] for i in moving}) == 1 for of in numbers)
        if moving and same and counting == list(range(counting[0], counting[0] + len(texts))):
            places = iter(range(len(numbers[0])))
            text = re.sub(r"\d+", lambda match: "{i}" if next(places) in moving else match.group(), texts[0])
            text = re.sub(r'sd\["([^"]*\{i\}[^"]*)"\]', r'sd[f"\1"]', text).replace("[{i}]", "[i]")
            first = f"{counting[0]}, " if counting[0] else ""
            return f"[{text} for i in range({first}{counting[-1] + 1})]"
    return f"[{', '.join(texts)}]"


def renamed(made: "Expression", name_of: Callable[[str], str | None]) -> "Expression | None":
    """Returns an expression over other entries; None where one of them is not there.

    Args:
        made: the expression.
        name_of: gives the other entry's name, or None.
    """
    if isinstance(made, Entry):
        name = name_of(made.name)
        return None if name is None else Entry(name)
    if isinstance(made, Cut | Moved):
        whole = renamed(made.whole, name_of)
        return None if whole is None else replace(made, whole=whole)
    if isinstance(made, Joined | Summed):
        parts = tuple(found for part in made.parts if (found := renamed(part, name_of)) is not None)
        return replace(made, parts=parts) if len(parts) == len(made.parts) else None
    return None


def entries_in(made: "Expression") -> Iterator[str]:
    """Yields the names of the entries in an expression.

    Args:
        made: it.
    """
    if isinstance(made, Entry):
        yield made.name
    for part in getattr(made, "parts", ()):
        yield from entries_in(part)
    if hasattr(made, "whole"):
        yield from entries_in(made.whole)  # pyright: ignore
