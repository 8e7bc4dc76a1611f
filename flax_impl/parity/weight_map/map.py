"""Finds which leaf of a Flax port holds which parameter or buffer of a PyTorch model, by names, shapes and kinds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from torch_ref.common.checks.arguments import check_shape, listed, shown

from .layouts import Link, links_of
from .names import above
from .pairing import resolve
from .units import LeafPath, Shape, Unit, may_split, units_of


class WeightMapError(ValueError):
    """The two models are no bijection of each other, or more than one is possible.

    Args:
        message: all that is wrong.
        torch_only: entries without a counterpart.
        flax_only: the same of the port: dotted, without the collection.
        ambiguous: modules that fit each other in more than one way, torch's and the port's.

    Example:
        >>> try:
        ...     propose_map({"fc.bias": (2,)}, {("params", "Dense_0", "bias"): (3,)})
        ... except WeightMapError as error:
        ...     error.torch_only, error.flax_only
        (('fc.bias',), ('Dense_0.bias',))
    """

    def __init__(
        self,
        message: str,
        torch_only: tuple[str, ...] = (),
        flax_only: tuple[str, ...] = (),
        ambiguous: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (),
    ) -> None:
        super().__init__(message)
        self.torch_only, self.flax_only, self.ambiguous = torch_only, flax_only, ambiguous


@dataclass(frozen=True)
class WeightMap:
    """A bijection between torch's parameters and buffers and the leaves of the port; `print` it.

    `propose_map` finds it.

    Args:
        links: one for each entry of torch, in torch's order.
        modules: of the port, to the torch module that holds the same: dotted, without the collection, the root left
            out.
        ignored: entries of torch that no port has.
        torch_only: entries without a counterpart, where the map is partial.
        flax_only: the same of the port: dotted, without the collection.

    Example:
        >>> found = propose_map({"fc.weight": (2, 3)}, {("params", "Dense_0", "kernel"): (3, 2)})
        >>> leaves = found.to_flax({"fc.weight": np.ones((2, 3))})
        >>> leaves["params", "Dense_0", "kernel"].shape
        (3, 2)
        >>> found.to_torch(leaves)["fc.weight"].shape
        (2, 3)
    """

    links: tuple[Link, ...]
    modules: dict[str, str]
    ignored: tuple[str, ...] = ()
    torch_only: tuple[str, ...] = ()
    flax_only: tuple[str, ...] = ()

    def to_flax(self, arrays: Mapping[str, np.ndarray]) -> dict[LeafPath, np.ndarray]:
        """Returns what is given of torch's entries as leaves of the port, bit for bit and in their dtype.

        Args:
            arrays: of torch, by name, each in torch's shape; all or some of them.

        Returns:
            The leaves by path, which begins with the collection, each in the port's shape.

        Raises:
            ValueError: a name that the model does not have, or a shape that it does not have there.
        """
        links = {link.torch: link for link in self.links}
        known = {*links, *self.ignored, *self.torch_only}
        unknown = [name for name in arrays if name not in known]
        if unknown:
            raise ValueError(f"arrays: expected names among {listed(links)}, got {listed(unknown)}")
        leaves = {}
        for name in arrays:
            if name in links:
                array = np.asarray(arrays[name])
                check_shape(name, array, links[name].torch_shape)
                leaves |= zip(links[name].paths, links[name].to_flax(array), strict=True)
        return leaves

    def to_torch(self, arrays: Mapping[LeafPath, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns torch's entries, bit for bit and in their dtype: those of which all leaves are given.

        Args:
            arrays: of the port, by path, which begins with the collection, each in the port's shape.

        Returns:
            The entries by name, each in torch's shape.

        Raises:
            ValueError: a leaf that the port does not have, or a shape that it does not have there.
        """
        paths = [path for link in self.links for path in link.paths]
        known = set(paths)
        unknown = [path for path in arrays if path not in known and ".".join(path[1:]) not in self.flax_only]
        if unknown:
            raise ValueError(f"arrays: expected paths among {listed(paths)}, got {listed(unknown)}")
        entries = {}
        for link in self.links:
            if all(path in arrays for path in link.paths):
                leaves = [np.asarray(arrays[path]) for path in link.paths]
                for path, leaf, shape in zip(link.paths, leaves, link.flax_shapes, strict=True):
                    check_shape(".".join(path), leaf, shape)
                entries[link.torch] = link.to_torch(leaves)
        return entries

    def __str__(self) -> str:
        rows = [("torch", "shape", "flax", "shape", "rule")]
        for link in self.links:
            for i, (path, shape) in enumerate(zip(link.paths, link.flax_shapes, strict=True)):
                name, torch_shape, rule = ("", "", "") if i else (link.torch, str(list(link.torch_shape)), link.rule)
                rows.append((name, torch_shape, ".".join(path[1:]), str(list(shape)), rule))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        rest = {"ignored": self.ignored, "in torch only": self.torch_only, "in the port only": self.flax_only}
        return "\n".join(lines + [f"{what}: {listed(names)}" for what, names in rest.items() if names])


def propose_map(
    torch_shapes: Mapping[str, Shape],
    flax_shapes: Mapping[LeafPath, Shape],
    *,
    kinds: Mapping[str, str] | None = None,
    renames: Mapping[str, str] | None = None,
    partial: bool = False,
) -> WeightMap:
    """Returns the one map that names, shapes and kinds of layers allow; it never guesses.

    Modules are paired whole, all of their entries at once. Equal names are paired first; then, among those that fit,
    names that are alike, once their numbers are blanked: `blocks.#.fc#` and `Block_#.Dense_#`, the members by rank.
    Then what nothing else fits. Ranks trust that both sides count alike, which matters between equal shapes: Linen
    counts in the order of construction, `Dense(n)(Dense(n)(x))` from the outside in.

    Args:
        torch_shapes: of the parameters and buffers.
        flax_shapes: of the leaves of the variables; a path begins with the collection.
        kinds: the class of each torch module, such as "Linear"; without it, the leaf's name decides alone.
        renames: for what is not found by itself, a torch module or entry to the port's module or leaf: dotted, without
            the collection. What lies below is renamed too. `*` is a number, the same on both sides:
            `{"blocks.*.first": "Block_*.Dense_0"}`.
        partial: leave out what has no counterpart; the map lists it.

    Returns:
        The map, with a link for each entry of torch that has a counterpart.

    Raises:
        WeightMapError: entries without a counterpart, or modules that fit in several ways; one error lists all.
        ValueError: unknown names in `renames`, or paths without a collection.

    Example:
        >>> torch_shapes = {"fc.weight": (2, 3), "fc.bias": (2,)}
        >>> flax_shapes = {("params", "Dense_0", "kernel"): (3, 2), ("params", "Dense_0", "bias"): (2,)}
        >>> print(propose_map(torch_shapes, flax_shapes, kinds={"fc": "Linear"}))
        torch      shape   flax            shape   rule
        fc.weight  [2, 3]  Dense_0.kernel  [3, 2]  transposed
        fc.bias    [2]     Dense_0.bias    [2]     as it is
    """
    for path in flax_shapes:
        if not isinstance(path, tuple) or len(path) < 2:
            raise ValueError(f"flax_shapes: expected paths such as ('params', 'Dense_0', 'kernel'), got {shown(path)}")
    torch_shapes = {name: tuple(shape) for name, shape in torch_shapes.items()}
    ignored = tuple(name for name in torch_shapes if name.split(".")[-1] == "num_batches_tracked")
    torch, flax, fused = units_of(torch_shapes, flax_shapes, kinds or {}, renames or {}, ignored)

    # A fused query, key and value first: whether it was split decides which modules are left for the others.
    pairs, unclear = resolve([unit for unit in torch if may_split(unit, fused)], fused)
    taken = {path for unit in [*(unit for _, unit in pairs), *(unit for _, units in unclear for unit in units)]
             for path in unit.keys}  # fmt: skip
    seen = {id(unit) for unit in [*(unit for unit, _ in pairs), *(unit for units, _ in unclear for unit in units)]}
    others = resolve(
        [unit for unit in torch if id(unit) not in seen], [unit for unit in flax if taken.isdisjoint(unit.keys)]
    )
    pairs, unclear = pairs + others[0], unclear + others[1]

    found = {link.torch: link for pair in pairs for link in links_of(*pair)[0]}
    links = tuple(found[name] for name in torch_shapes if name in found)
    linked = {path for link in links for path in link.paths}
    asked = {key for group in unclear for units in group for unit in units for key in unit.keys}
    torch_only = tuple(name for name in torch_shapes if name not in found and name not in asked.union(ignored))
    flax_only = {".".join(path[1:]): flax_shapes[path] for path in flax_shapes if path not in linked | asked}
    if unclear or (not partial and (torch_only or flax_only)):
        raise _error({name: torch_shapes[name] for name in torch_only}, flax_only, unclear)
    return WeightMap(links, _modules(links), ignored, torch_only, tuple(flax_only))


def _error(
    torch_only: Mapping[str, Shape], flax_only: Mapping[str, Shape], unclear: "list[tuple[list[Unit], list[Unit]]]"
) -> WeightMapError:
    problems = []
    for where, only in {"in torch only": torch_only, "in the port only": flax_only}.items():
        if only:
            problems.append(f"{where}: {listed(f'{name} {list(shape)}' for name, shape in only.items())}")
    ambiguous = tuple((tuple(unit.title for unit in a), tuple(unit.title for unit in b)) for a, b in unclear)
    for a, b in ambiguous[:4]:
        hint = f'renames={{"{a[0]}": "{b[0]}"}}'
        problems.append(f"{listed(a)} may be any of {listed(b)} (say which is which, such as {hint})")
    if len(ambiguous) > 4:
        problems.append(f"… ({len(ambiguous)} groups in all)")
    message = f"flax_shapes: expected one counterpart for each entry of torch_shapes, got {'; '.join(problems)}"
    return WeightMapError(message, tuple(torch_only), tuple(flax_only), ambiguous)


def _modules(links: Iterable[Link]) -> dict[str, str]:
    """Returns the port's modules, to the torch modules with the same leaves; of nested ones, deepest to deepest."""
    torch, flax = defaultdict(set), defaultdict(set)
    for link in links:
        for module in above(link.torch):
            torch[module].update(link.paths)
        for path in link.paths:
            for module in above(".".join(path[1:])):
                flax[module].add(path)
    same = defaultdict(list)
    for module, leaves in torch.items():
        same[frozenset(leaves)].append(module)
    modules = {}
    for module in sorted(flax, key=_depth, reverse=True):
        if candidates := same[frozenset(flax[module])]:
            modules[module] = candidates.pop(candidates.index(max(candidates, key=_depth)))
    return {module: modules[module] for module in flax if module in modules}


def _depth(name: str) -> int:
    return name.count(".")
