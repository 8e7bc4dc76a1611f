"""The converter of a port: for each of its weights, how it is made of the reference's state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import check_shape, listed

from ..weight_map.layouts import Link
from .expressions import Cut, Entry, Expression, Joined, Moved, Summed

_ROWS = 256  # of an axis that a weight may be stacked along
_BLOCKS = range(2, 9)  # that a weight may be joined of


@dataclass(frozen=True, eq=False)
class Conversion:
    """How each weight of a port is made of the reference's; `print` shows it as code to paste.

    Args:
        made: an expression for each of the port's weights, by its dotted name.
        shapes: of the reference's entries, by name.
        unflatten: makes the port's own structure of arrays in the order of `made`.
        guessed: the port's weights that no value decided: names and shapes did.
        unused: the reference's entries that the port does not take.

    Example:
        >>> found = Conversion({"w": Moved(Entry("fc.weight"), None, (1, 0), None)}, {"fc.weight": (2, 3)})
        >>> print(found)
        params = {
            "w": sd["fc.weight"].T,
        }
        >>> found.convert({"fc.weight": np.ones((2, 3))})["w"].shape
        (3, 2)
    """

    made: Mapping[str, Expression]
    shapes: Mapping[str, tuple[int, ...]]
    unflatten: Callable[[Sequence[np.ndarray]], Any] | None = None
    guessed: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def arrays(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the port's weights by their dotted names.

        Args:
            state: the reference's arrays by name, as `state_dict` gives them.

        Raises:
            ValueError: an entry that is needed is missing, or has another shape.
        """
        found = {name: _numpy(state[name]) for name in self.shapes if name in state}
        for name, array in found.items():
            check_shape(name, array, self.shapes[name])
        missing = [name for name in self.shapes if name not in found and name not in self.unused]
        if missing:
            raise ValueError(f"state: expected entries named {listed(missing)}, got none")
        return {name: np.array(made.of(found), order="C") for name, made in self.made.items()}

    def convert(self, state: Mapping[str, Any]) -> Any:
        """Returns the port's parameters, in its own structure.

        Args:
            state: the reference's arrays by name, as `state_dict` gives them.

        Raises:
            ValueError: an entry that is needed is missing, or has another shape.
        """
        arrays = self.arrays(state)
        return arrays if self.unflatten is None else self.unflatten(list(arrays.values()))

    def state(self, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the reference's state that these weights of the port are made of; `arrays` the other way round.

        Args:
            weights: the port's, by their dotted names.

        Returns:
            The entries that the port's weights decide. Of two that are added up, the second is zero.

        Raises:
            ValueError: a weight is missing or has another shape, or two that are one entry differ.
        """
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes.values())])
        numbered = {
            name: np.arange(start, start + int(np.prod(shape))).reshape(shape)
            for (name, shape), start in zip(self.shapes.items(), ends, strict=False)
        }
        numbers, known = np.zeros(ends[-1]), np.zeros(ends[-1], bool)
        for name, made in self.made.items():
            if name not in weights:
                raise ValueError(f"weights: expected one named {name}, got none")
            first, *others = made.parts if isinstance(made, Summed) else (made,)
            places, array = first.of(numbered), _numpy(weights[name])
            check_shape(name, array, places.shape)
            if (known[places] & (numbers[places] != array)).any():
                raise ValueError(f"weights: expected {name} to be what it shares with others, got other numbers")
            numbers[places], known[places] = array, True
            for other in others:
                known[other.of(numbered)] = True
        return {name: numbers[places] for name, places in numbered.items() if known[places].all()}

    def __str__(self) -> str:
        lines = ["params = {"]
        for name, made in self.made.items():
            note = "  # perhaps: by its name and shape" if name in self.guessed else ""
            lines.append(f'    "{name}": {made},{note}')
        lines.append("}")
        return "\n".join([*lines, *([f"# not taken: {listed(self.unused)}"] if self.unused else [])])


def assembled(array: np.ndarray, single: Callable[[np.ndarray], Expression | None]) -> Expression | None:
    """Returns how an array is made of entries: of one, or of several that are stacked or joined; None where it is not.

    Args:
        array: what is looked for.
        single: returns how an array is made of a single entry.
    """
    found = single(array)
    if found is not None:
        return found
    for axis, count in _cuts(array.shape):
        parts = _all(np.split(array, count, axis), single)
        if parts is not None:
            return Joined(parts, axis)
    for axis in range(array.ndim if array.ndim > 1 else 0):
        if array.shape[axis] <= _ROWS:
            parts = _all(np.moveaxis(array, axis, 0), lambda row: assembled(row, single))
            if parts is not None:
                return Joined(parts, axis, new=True)
    return None


def of_links(links: Sequence[Link]) -> dict[str, Expression]:
    """Returns the same as a map of modules, leaf by leaf.

    Args:
        links: of the map.
    """
    found: dict[str, Expression] = {}
    for link in links:
        for i, (path, shape) in enumerate(zip(link.paths, link.flax_shapes, strict=True)):
            whole = Entry(link.torch)
            part = whole if len(link.paths) == 1 else Cut(whole, len(link.paths), i, 0)
            axes = link.axes if list(link.axes) != sorted(link.axes) else None
            own = (link.torch_shape[0] // len(link.paths), *link.torch_shape[1:]) if link.torch_shape else ()
            turned = tuple(own[axis] for axis in link.axes)
            merged = shape if turned != tuple(shape) else None
            found[".".join(path)] = part if axes is None and merged is None else Moved(part, None, axes, merged)
    return found


def _all(parts: Any, find: Callable[[np.ndarray], Expression | None]) -> tuple[Expression, ...] | None:
    found = []
    for part in parts:
        made = find(part)
        if made is None:
            return None
        found.append(made)
    return tuple(found) if len(found) > 1 else None


def _cuts(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    for axis, length in enumerate(shape):
        for count in _BLOCKS:
            if length % count == 0 and length > count:
                yield axis, count


def _numpy(array: Any) -> np.ndarray:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
