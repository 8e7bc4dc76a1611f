"""Which leaf of a Flax port holds which parameter or buffer of a PyTorch model: found by names, shapes and kinds."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from ..hub.checks import check_shape, listed, shown

Path = tuple[str, ...]
Shape = tuple[int, ...]


class WeightMapError(ValueError):
    """The two models are no bijection of each other, or more than one is possible.

    Args:
        message: all that is wrong.
        torch_only: entries without a counterpart.
        flax_only: the same of the port: dotted, without the collection.
        ambiguous: modules that fit each other in more than one way, torch's and the port's.
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
class Link:
    """One entry of torch and the leaf that holds it; or the three leaves, where the port splits query, key and value.

    Args:
        torch: the entry's name.
        paths: the leaves; torch's first axis is cut into as many parts.
        torch_shape: of the entry.
        flax_shapes: of each leaf.
        axes: the order of each part's axes in the port, before it takes the leaf's shape.
    """

    torch: str
    paths: tuple[Path, ...]
    torch_shape: Shape
    flax_shapes: tuple[Shape, ...]
    axes: tuple[int, ...]

    @property
    def rule(self) -> str:
        """The layout in words."""
        turned = len(self.axes) > 1 and self.axes != tuple(range(len(self.axes)))
        if len(self.axes) > 2 and turned:
            return f"conv kernel ({','.join(map(str, self.axes))})"
        words = [f"split in {len(self.paths)}"] * (len(self.paths) > 1) + ["transposed"] * turned
        words += ["reshaped"] * any(len(shape) != len(self.torch_shape) for shape in self.flax_shapes)
        return ", ".join(words) or "as it is"

    def to_flax(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the leaves that hold the entry."""
        parts = np.split(array, np.cumsum(self._rows)[:-1]) if len(self.paths) > 1 else [array]
        return [
            np.array(part.transpose(self.axes), order="C").reshape(shape)
            for part, shape in zip(parts, self.flax_shapes, strict=True)
        ]

    def to_torch(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the entry that the leaves hold."""
        parts = []
        for array, rows in zip(arrays, self._rows, strict=True):
            shape = (rows, *self.torch_shape[1:]) if self.torch_shape else ()
            turned = array.reshape([shape[axis] for axis in self.axes])
            parts.append(turned.transpose(np.argsort(self.axes)) if self.axes else turned)
        return np.concatenate(parts) if len(parts) > 1 else np.array(parts[0], order="C")

    @property
    def _rows(self) -> list[int]:
        if len(self.paths) == 1:
            return [*self.torch_shape[:1], 1][:1]
        return [math.prod(shape) // math.prod(self.torch_shape[1:]) for shape in self.flax_shapes]


@dataclass(frozen=True)
class WeightMap:
    """A bijection between torch's parameters and buffers and the leaves of the port; `print` it.

    Args:
        links: one for each entry of torch, in torch's order.
        modules: of the port, to the torch module that holds the same: dotted, without the collection, the root left
            out.
        ignored: entries of torch that no port has.
        torch_only: entries without a counterpart, where the map is partial.
        flax_only: the same of the port: dotted, without the collection.
    """

    links: tuple[Link, ...]
    modules: dict[str, str]
    ignored: tuple[str, ...] = ()
    torch_only: tuple[str, ...] = ()
    flax_only: tuple[str, ...] = ()

    def to_flax(self, arrays: Mapping[str, np.ndarray]) -> dict[Path, np.ndarray]:
        """Returns what is given of torch's entries as leaves of the port, bit for bit and in their dtype.

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

    def to_torch(self, arrays: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns torch's entries, bit for bit and in their dtype: those of which all leaves are given.

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
    flax_shapes: Mapping[Path, Shape],
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

    Raises:
        WeightMapError: entries without a counterpart, or modules that fit in several ways; one error lists all.
        ValueError: unknown names in `renames`, or paths without a collection.
    """
    for path in flax_shapes:
        if not isinstance(path, tuple) or len(path) < 2:
            raise ValueError(f"flax_shapes: expected paths such as ('params', 'Dense_0', 'kernel'), got {shown(path)}")
    torch_shapes = {name: tuple(shape) for name, shape in torch_shapes.items()}
    ignored = tuple(name for name in torch_shapes if name.split(".")[-1] == "num_batches_tracked")
    torch, flax, fused = _units(torch_shapes, flax_shapes, kinds or {}, renames or {}, ignored)

    # A fused query, key and value first: whether it was split decides which modules are left for the others.
    pairs, unclear = _resolve([unit for unit in torch if _may_split(unit, fused)], fused)
    taken = {path for unit in [*(unit for _, unit in pairs), *(unit for _, units in unclear for unit in units)]
             for path in unit.keys}  # fmt: skip
    seen = {id(unit) for unit in [*(unit for unit, _ in pairs), *(unit for units, _ in unclear for unit in units)]}
    others = _resolve(
        [unit for unit in torch if id(unit) not in seen], [unit for unit in flax if taken.isdisjoint(unit.keys)]
    )
    pairs, unclear = pairs + others[0], unclear + others[1]

    found = {link.torch: link for pair in pairs for link in _links(*pair)[0]}
    links = tuple(found[name] for name in torch_shapes if name in found)
    linked = {path for link in links for path in link.paths}
    asked = {key for group in unclear for units in group for unit in units for key in unit.keys}
    torch_only = tuple(name for name in torch_shapes if name not in found and name not in asked.union(ignored))
    flax_only = {".".join(path[1:]): flax_shapes[path] for path in flax_shapes if path not in linked | asked}
    if unclear or (not partial and (torch_only or flax_only)):
        raise _error({name: torch_shapes[name] for name in torch_only}, flax_only, unclear)
    return WeightMap(links, _modules(links), ignored, torch_only, tuple(flax_only))


def _error(
    torch_only: Mapping[str, Shape], flax_only: Mapping[str, Shape], unclear: "list[tuple[list[_Unit], list[_Unit]]]"
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
        for module in _above(link.torch):
            torch[module].update(link.paths)
        for path in link.paths:
            for module in _above(".".join(path[1:])):
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


def _above(name: str) -> list[str]:
    """Returns the containers of a dotted name, from the inside out, without the root."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]


# Units: what is matched whole.


@dataclass(frozen=True, eq=False)
class _Unit:
    """The own entries of a module; or one parameter of a user's own making, alone, in the slot "".

    Args:
        name: by which it is matched, renamed.
        title: by which the user knows it.
        entries: by slot: the name or path and shape; of three leaves where it is query, key and value together.
        kind: torch's class.
        rename: which of `renames` it comes under.
    """

    name: str
    title: str
    entries: dict[str, tuple[tuple[Any, Shape], ...]]
    kind: str = ""
    rename: str | None = None

    @cached_property
    def keys(self) -> list[Any]:
        return [key for parts in self.entries.values() for key, _ in parts]

    @cached_property
    def stem(self) -> str:
        return re.sub(r"\d+", "#", self.name)

    @cached_property
    def numbers(self) -> Shape:
        return tuple(map(int, re.findall(r"\d+", self.name)))

    @cached_property
    def plain(self) -> str:
        """The name, but for case and punctuation."""
        return " ".join(_tokens(self.name))

    @cached_property
    def words(self) -> Counter[str]:
        # A number in nn.Sequential says nothing; the kind of layer does.
        return _words(f"{self.name}.{self.kind}" if self.name.split(".")[-1].isdigit() else self.name)

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        return self.kind, tuple((slot, *(shape for _, shape in parts)) for slot, parts in self.entries.items())


# Torch's slot: the leaves that may hold it. What is in neither is a user's own, and matched alone.
_LEAVES = {
    "weight": ("kernel", "scale", "embedding", "weight", "negative_slope", ""),
    "bias": ("bias",),
    "running_mean": ("mean",),
    "running_var": ("var",),
    "in_proj_weight": ("kernel",),
    "in_proj_bias": ("bias",),
    "q_proj_weight": ("kernel",),
    "k_proj_weight": ("kernel",),
    "v_proj_weight": ("kernel",),
    "": ("", "scale", "embedding", "mean", "var", "weight"),
}
_KNOWN_LEAVES = {leaf for leaves in _LEAVES.values() for leaf in leaves if leaf}
_QKV = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
_EMBEDDINGS = ("Embedding", "EmbeddingBag")


def _units(
    torch_shapes: Mapping[str, Shape],
    flax_shapes: Mapping[Path, Shape],
    kinds: Mapping[str, str],
    renames: Mapping[str, str],
    ignored: Iterable[str],
) -> tuple[list[_Unit], list[_Unit], list[_Unit]]:
    """Returns the units of torch, those of the port, and those of query, key and value taken together."""
    torch, flax = defaultdict(dict), defaultdict(dict)
    for name in torch_shapes:
        if name not in ignored:
            module, _, slot = name.rpartition(".")
            own = slot not in _LEAVES
            torch[name if own else module]["" if own else slot] = ((name, torch_shapes[name]),)
    for path, shape in flax_shapes.items():
        module, leaf = ".".join(path[1:-1]), path[-1]
        own = leaf not in _KNOWN_LEAVES or leaf in flax[module]
        name = ".".join(path[1:]) if own else module
        flax[name]["" if own else leaf] = ((path, tuple(shape)),)
    torch, flax = ({name: entries for name, entries in side.items() if entries} for side in (torch, flax))
    renames = _checked_renames(renames, torch_shapes, {".".join(path[1:]) for path in flax_shapes}, torch, flax)

    torch_units = []
    for title, entries in torch.items():
        rename = _longest(renames, title)
        name = title if rename is None else _join(renames[rename], title[len(rename) :].lstrip("."))
        if "in_proj_weight" in entries or "q_proj_weight" in entries:
            name = _join(name, "qkv")  # as the port's are called, beside `out_proj`
        torch_units.append(_Unit(name, title, entries, kinds.get(title, ""), rename))

    back = {new: old for old, new in renames.items()}

    def flax_unit(name: str, title: str, entries: dict[str, tuple[tuple[Any, Shape], ...]]) -> _Unit:
        new = _longest(back, name)
        return _Unit(name, title, entries, rename=None if new is None else back[new])

    children = defaultdict(lambda: defaultdict(list))
    for name, entries in flax.items():
        parent, _, child = name.rpartition(".")
        children[parent]["".join(_words(child) - Counter("#"))].append(entries)
    fused = []
    for parent, of_word in children.items():
        parts = [of_word[word] for word in ("query", "key", "value")]
        if all(len(part) == 1 and "kernel" in part[0] for part in parts):
            leaves = [leaf for leaf in ("kernel", "bias") if all(leaf in part[0] for part in parts)]
            entries = {leaf: tuple(part[0][leaf][0] for part in parts) for leaf in leaves}
            fused.append(flax_unit(_join(parent, "qkv"), parent, entries))
    return torch_units, [flax_unit(name, name, entries) for name, entries in flax.items()], fused


def _checked_renames(
    renames: Mapping[str, str],
    torch_names: Iterable[str],
    flax_names: Iterable[str],
    torch: Mapping[str, Any],
    flax: Mapping[str, Any],
) -> dict[str, str]:
    """Returns the renames between units or containers; an entry stands for its module."""
    checked = {}
    for old, new in _filled(renames, torch_names):
        ends = []
        for name, entries, units, side in ((old, torch_names, torch, "torch"), (new, flax_names, flax, "the port")):
            modules = {"", *(module for entry in entries for module in _above(entry))}
            if name not in modules and name not in entries:
                there = listed([*sorted(modules - {""}), *sorted(set(entries) - modules)])
                raise ValueError(f"renames: expected names of {side} among {there}, got {shown(name)}")
            ends.append(name if name in modules or name in units else name.rpartition(".")[0])
        if checked.get(ends[0], ends[1]) != ends[1] or any(v == ends[1] and k != ends[0] for k, v in checked.items()):
            raise ValueError(f"renames: expected one counterpart for each, got {shown(dict(renames))}")
        checked[ends[0]] = ends[1]
    return checked


def _filled(renames: Mapping[str, str], torch_names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the renames with each `*` made a number."""
    names = dict.fromkeys(name for entry in torch_names for name in (entry, *_above(entry)))
    for old, new in renames.items():
        pattern = re.escape(old).replace(r"\*", r"(\d+)")
        matches = [match for name in names if (match := re.fullmatch(pattern, name))]
        for match in matches:
            yield match.group(), reduce(lambda text, number: text.replace("*", number, 1), match.groups(), new)
        if not matches:
            yield old, new


def _longest(prefixes: Iterable[str], name: str) -> str | None:
    return max((prefix for prefix in prefixes if _below(name, prefix)), key=len, default=None)


def _below(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f"{module}.")


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def _may_split(unit: _Unit, fused: Sequence[_Unit]) -> bool:
    """Whether torch's unit is a fused query, key and value: by its entries, its name, or a rename."""
    renamed = unit.rename is not None and any(unit.rename == other.rename for other in fused)
    return renamed or "qkv" in unit.words


# Layouts.


def _links(torch: _Unit, flax: _Unit) -> tuple[list[Link], bool]:
    """Returns the links between two units, and whether they leave nothing over."""
    links, used = [], set()
    for slot, ((name, shape),) in torch.entries.items():
        for leaf in _LEAVES[slot]:
            parts = flax.entries.get(leaf, ())
            if slot in _QKV:
                parts = parts[_QKV.index(slot) :][:1] if len(parts) == 3 else ()
            axes = _axes(torch.kind, leaf, shape, [of_leaf for _, of_leaf in parts]) if parts else None
            if axes is not None:
                paths, shapes = zip(*parts, strict=True)
                links.append(Link(name, paths, shape, shapes, axes))
                used.update(paths)
                break
    return links, len(links) == len(torch.entries) and used == set(flax.keys)


def _axes(kind: str, leaf: str, shape: Shape, leaves: Sequence[Shape]) -> tuple[int, ...] | None:
    """Returns the order of the axes in the port; None where the leaves cannot hold the entry."""
    same = tuple(range(len(shape)))
    if sum(map(math.prod, leaves)) != math.prod(shape):
        return None
    if leaf == "kernel":
        axes = (*same[2:], 1, 0)
        if (
            len(shape) < 2
            or kind in _EMBEDDINGS
            or "Norm" in kind
            or (kind.startswith("ConvTranspose") and shape[0] == shape[1])
        ):
            return None  # no shape says whether the port turns the kernel of a square transposed convolution
        if len(shape) > 2:
            return axes if leaves == [tuple(shape[axis] for axis in axes)] else None
        # Of several axes (heads, features), some are the input's and the rest are the output's.
        fits = all(any(math.prod(of[:i]) == shape[1] for i in range(1, len(of))) for of in leaves)
        return axes if fits and (len(leaves) == 1 or shape[1]) else None
    if leaf == "bias":
        return same if len(shape) == 1 else None  # [out] may be [heads, features]
    if leaf == "negative_slope":
        return same if shape == (1,) else None
    if leaf == "embedding" and (kind == "Linear" or len(shape) != 2):
        return None
    if leaf in ("scale", "") and len(shape) > 1 and (kind == "Linear" or kind.startswith("Conv")):
        return None
    return same if leaves == [shape] else None


def _fit(torch: _Unit, flax: _Unit, known: dict[Any, int]) -> int:
    """Returns 2 where two units fit whole, 1 where all but some entries fit, and 0 else."""
    if torch.rename != flax.rename:
        return 0
    key = torch.signature, flax.signature
    if key not in known:
        links, whole = _links(torch, flax)
        slots = {link.torch.rpartition(".")[2] for link in links}
        # A bias alone says little, and torch's own parameters stand alone.
        known[key] = 2 if whole else int(bool(slots - {"bias", "in_proj_bias"}) and "" not in torch.entries)
    return known[key]


# Names.

_COMPOUNDS = {
    r"(layer|batch|group|rms|instance)_?norm": "norm",
    r"multi_?head(_?dot_?product)?_?att(entio)?n": "attn",
    r"query_?key_?value|in_proj\b|c_attn\b|(w|to_)?qkv": "qkv",
    r"conv(olution)?[123]d": "conv",
}
_SYNONYMS = {
    synonym: words.split()[0]
    for words in (
        "linear dense fc lin",
        "norm ln bn gn",
        "embed embedding embeddings emb wte tok token tokens",
        "pos wpe position positional",
        "query q wq",
        "key k wk",
        "value v wv",
        "out output o wo",
        "attn attention mha",
        "block blocks layer layers h",
        "mlp ffn feedforward",
    )
    for synonym in words.split()
}
_EMPTY_WORDS = {"proj", "projection", "to", "c"}
_TURNING_WORDS = {"pre", "post", "before", "after"}  # `post_attention_norm` is not the `attention_norm`


def _tokens(name: str) -> list[str]:
    return [token.lower() for token in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _words(name: str) -> Counter[str]:
    """Returns what a name says, in one vocabulary; "#" is a number."""
    words: list[str] = []
    for part in name.split("."):
        for pattern, word in _COMPOUNDS.items():
            part = re.sub(rf"(?i){pattern}", word, part)
        tokens = ["#" if token.isdigit() else _SYNONYMS.get(token, token) for token in _tokens(part)]
        telling = [token for token in tokens if token not in _EMPTY_WORDS]
        if not set(telling) - {"#"} and "proj" in tokens:
            telling.append("out")
        words += telling
    return Counter(words)


def _similarity(a: Counter[str], b: Counter[str]) -> float:
    """Returns the share of words in common; 0 where only numbers are."""
    common = a & b
    if ((a | b) - common).keys() & _TURNING_WORDS:
        return 0.0
    alike = _weight(common)
    rest = list((b - common).elements())
    for word in (a - common).elements():
        match = next((other for other in rest if _prefix(word, other)), None)
        if match is not None:
            rest.remove(match)
            alike += 0.8
    both = _weight(a) + _weight(b)
    if alike < 0.8 and (set(a) | set(b)) - {"#"}:
        return 0.0
    return 2 * alike / both if both else 1.0


def _weight(words: Counter[str]) -> float:
    return sum(words.values()) - 0.75 * words["#"]


def _prefix(a: str, b: str) -> bool:
    return min(len(a), len(b)) > 1 and (a.startswith(b) or b.startswith(a))


# Matching.

_Pairs = list[tuple[_Unit, _Unit]]
_Groups = list[tuple[list[_Unit], list[_Unit]]]
_Joined = Callable[[_Unit, _Unit], bool]


def _resolve(torch: Sequence[_Unit], flax: Sequence[_Unit]) -> tuple[_Pairs, _Groups]:
    """Returns the pairs of units, and the groups in which more than one pairing is possible."""
    known: dict[Any, int] = {}

    def whole(a: _Unit, b: _Unit) -> bool:
        return _fit(a, b, known) == 2

    def nearly(a: _Unit, b: _Unit) -> bool:
        return _fit(a, b, known) > 0

    equal = _of_equal_names(torch, flax, nearly)
    torch, flax = _without(torch, flax, equal)
    groups = _components(torch, flax, nearly)
    found = [_match(*group, whole) for group in groups]
    while True:  # each pair found may say more about the containers
        context = [*equal, *(pair for pairs in found for pair in pairs)]
        before = len(context)
        for i, (a, b) in enumerate(groups):
            rest = _without(a, b, found[i])
            if all(rest):
                found[i] = found[i] + _match(*rest, _within(context, *rest, whole))
        if sum(map(len, found)) + len(equal) == before:
            break
    unclear: _Groups = []
    for i, (a, b) in enumerate(groups):
        if len(found[i]) < max(len(a), len(b)):
            # A module that lacks an entry would leave its place in the ranks to another: all of them anew.
            loose = _match(a, b, nearly, by_name=True)
            if len(loose) > len(found[i]):
                found[i] = loose
            for joined in (whole, nearly):
                rest = _without(a, b, found[i])
                found[i] = found[i] + [pair for group in _components(*rest, joined) for pair in _subset(*group)]
            rest = _without(a, b, found[i])
            unclear += _components(*rest, _within(context, *rest, whole))
    return [*equal, *(pair for pairs in found for pair in pairs)], unclear


def _of_equal_names(torch: Sequence[_Unit], flax: Sequence[_Unit], joined: _Joined) -> _Pairs:
    """Returns the units that fit under one name. `layer1` is not `layer1` where one side counts from 0."""
    named, numbered = [], []
    for units in (torch, flax):
        count = Counter(unit.plain for unit in units)
        named.append({unit.plain: unit for unit in units if count[unit.plain] == 1})
        numbered.append(defaultdict(set))
        for unit in units:
            numbered[-1][re.sub(r"\d+", "#", unit.plain)].add(unit.plain)
    shared = [(unit, named[1][name]) for name, unit in named[0].items() if name in named[1]]
    stems = {stem for stem, names in numbered[0].items() if names == numbered[1][stem]}
    return [(a, b) for a, b in shared if re.sub(r"\d+", "#", a.plain) in stems and joined(a, b)]


def _match(torch: Sequence[_Unit], flax: Sequence[_Unit], joined: _Joined, by_name: bool = False) -> _Pairs:
    """Returns the pairs that follow step by step, each from what is left."""
    pairs: _Pairs = []
    while True:
        rest = _without(torch, flax, pairs)
        new = [pair for group in _components(*rest, joined) for pair in _step(*group, joined, by_name)]
        if not new:
            return pairs
        pairs += new


def _step(torch: Sequence[_Unit], flax: Sequence[_Unit], joined: _Joined, by_name: bool) -> _Pairs:
    left, right = _stems(torch), _stems(flax)
    candidates = {
        (i, j): 0.0
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if len(a) == len(b) and _same_levels(a, b) and all(map(joined, a, b))
    }
    # What all names say tells none from another.
    words = [[members[0].words for members in side] for side in (left, right)]
    everywhere = words[0][0].copy()
    for of_stem in words[0] + words[1]:
        everywhere &= of_stem
    if len(left) == len(right) == 1:
        everywhere.clear()
    for i, j in candidates:
        candidates[i, j] = _similarity(words[0][i] - everywhere, words[1][j] - everywhere)
    chosen = [
        (i, j)
        for (i, j), score in candidates.items()
        if score > max((s for (k, m), s in candidates.items() if (k == i) != (m == j)), default=0.0) + 1e-9
        and score > 0
    ]
    if not chosen and not by_name:
        ways = Counter(i for i, _ in candidates), Counter(j for _, j in candidates)
        # Where both sides have as many, each has a counterpart, and one that has a single choice takes it.
        enough = any if len(torch) == len(flax) else all
        forced = [(i, j) for i, j in candidates if enough((ways[0][i] == 1, ways[1][j] == 1))]
        suitors = Counter(i for i, _ in forced), Counter(j for _, j in forced)
        chosen = [(i, j) for i, j in forced if suitors[0][i] == suitors[1][j] == 1]
    return [pair for i, j in chosen for pair in zip(left[i], right[j], strict=True)]


def _stems(units: Iterable[_Unit]) -> list[list[_Unit]]:
    """Returns the units by stem, each in natural order."""
    stems = defaultdict(list)
    for unit in units:
        stems[unit.stem].append(unit)
    return [sorted(members, key=lambda unit: unit.numbers) for members in stems.values()]


def _same_levels(a: Sequence[_Unit], b: Sequence[_Unit]) -> bool:
    """Whether ranks agree level by level: three blocks of two are not two blocks of three."""
    ranks = _ranks(a), _ranks(b)
    return len(ranks[0][0]) != len(ranks[1][0]) or ranks[0] == ranks[1]


def _ranks(members: Sequence[_Unit]) -> list[Shape]:
    """Returns each member's numbers, counted from 0 within its container; levels that never change are left out."""
    numbers = [unit.numbers for unit in members]
    levels = [i for i in range(len(numbers[0])) if len({n[i] for n in numbers}) > 1]
    kept = [tuple(n[i] for i in levels) for n in numbers]
    return [
        tuple(len({other[i] for other in kept if other[:i] == n[:i] and other[i] < n[i]}) for i in range(len(levels)))
        for n in kept
    ]


def _subset(torch: Sequence[_Unit], flax: Sequence[_Unit]) -> _Pairs:
    """Returns the pairs of one stem each, where one side has more: by number, or else by rank."""
    if len({unit.stem for unit in torch}) > 1 or len({unit.stem for unit in flax}) > 1:
        return []
    (torch,), (flax,) = _stems(torch), _stems(flax)
    for labels in (lambda units: [unit.numbers for unit in units], _ranks):
        a, b = dict(zip(labels(torch), torch, strict=True)), dict(zip(labels(flax), flax, strict=True))
        if all(labels_of for labels_of in (*a, *b)) and (a.keys() <= b.keys() or b.keys() <= a.keys()):
            return [(unit, b[label]) for label, unit in a.items() if label in b]
    return []


def _within(context: _Pairs, torch: Sequence[_Unit], flax: Sequence[_Unit], joined: _Joined) -> _Joined:
    """Returns what fits and lies in containers that agree: those whose contents, as far as known, are each other's."""
    sides: tuple[dict[str, set[int]], ...] = defaultdict(set), defaultdict(set)
    for i, pair in enumerate(context):
        for side, unit in zip(sides, pair, strict=True):
            for container in _above(unit.name):
                side[container].add(i)
    same: tuple[dict[str, list[str]], ...] = {}, {}
    for own, other, pairs in zip(sides, sides[::-1], same, strict=True):
        by_content = defaultdict(list)
        for container, content in other.items():
            by_content[frozenset(content)].append(container)
        pairs.update((container, by_content[frozenset(content)]) for container, content in own.items())

    def agrees(name: str, other: str, pairs: Mapping[str, list[str]]) -> bool:
        known = [pairs[container] for container in _above(name) if pairs.get(container)]
        return all(any(_below(other, container) for container in containers) for containers in known)

    def within(a: _Unit, b: _Unit) -> bool:
        return joined(a, b) and agrees(a.name, b.name, same[0]) and agrees(b.name, a.name, same[1])

    alone = any(not any(within(a, b) for b in flax) for a in torch)
    alone = alone or any(not any(within(a, b) for a in torch) for b in flax)
    return joined if alone else within  # a context that leaves a unit without any counterpart is misread


def _components(torch: Sequence[_Unit], flax: Sequence[_Unit], joined: _Joined) -> _Groups:
    """Returns the units that hang together by fitting; those that nothing fits are in none."""
    groups: _Groups = []
    for a in torch:
        fitting = [b for b in flax if joined(a, b)]
        if fitting:
            ids = set(map(id, fitting))
            touched = [group for group in groups if any(id(b) in ids for b in group[1])]
            groups = [group for group in groups if not any(group is other for other in touched)]
            units = {id(b): b for b in [*(b for group in touched for b in group[1]), *fitting]}
            groups.append(([*(unit for group in touched for unit in group[0]), a], list(units.values())))
    return groups


def _without(torch: Sequence[_Unit], flax: Sequence[_Unit], pairs: _Pairs) -> tuple[list[_Unit], list[_Unit]]:
    a, b = {id(unit) for unit, _ in pairs}, {id(unit) for _, unit in pairs}
    return [unit for unit in torch if id(unit) not in a], [unit for unit in flax if id(unit) not in b]
