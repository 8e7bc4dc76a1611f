"""Groups the entries of each module, which are paired as one."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

from torch_ref.common.checks.arguments import listed, shown

from .names import above, below, tokens_of, words_of

LeafPath = tuple[str, ...]
Shape = tuple[int, ...]

# Torch's slot: the leaves that may hold it. What is in neither is a user's own, and matched alone.
LEAVES = {
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
KNOWN_LEAVES = {leaf for leaves in LEAVES.values() for leaf in leaves if leaf}


@dataclass(frozen=True, eq=False)
class Unit:
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
        """Names of torch's entries, or paths of the port's leaves."""
        return [key for parts in self.entries.values() for key, _ in parts]

    @cached_property
    def stem(self) -> str:
        """The name with its numbers blanked."""
        return re.sub(r"\d+", "#", self.name)

    @cached_property
    def numbers(self) -> Shape:
        """The numbers in the name."""
        return tuple(map(int, re.findall(r"\d+", self.name)))

    @cached_property
    def plain(self) -> str:
        """The name, but for case and punctuation."""
        return " ".join(tokens_of(self.name))

    @cached_property
    def words(self) -> Counter[str]:
        """What the name says."""
        # A number in nn.Sequential says nothing; the kind of layer does.
        return words_of(f"{self.name}.{self.kind}" if self.name.split(".")[-1].isdigit() else self.name)

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        """What decides what it fits."""
        return self.kind, tuple((slot, *(shape for _, shape in parts)) for slot, parts in self.entries.items())


def units_of(
    torch_shapes: Mapping[str, Shape],
    flax_shapes: Mapping[LeafPath, Shape],
    kinds: Mapping[str, str],
    renames: Mapping[str, str],
    ignored: Iterable[str],
) -> tuple[list[Unit], list[Unit], list[Unit]]:
    """Returns the units of torch, those of the port, and those of query, key and value taken together."""
    torch, flax = defaultdict(dict), defaultdict(dict)
    for name in torch_shapes:
        if name not in ignored:
            module, _, slot = name.rpartition(".")
            own = slot not in LEAVES
            torch[name if own else module]["" if own else slot] = ((name, torch_shapes[name]),)
    for path, shape in flax_shapes.items():
        module, leaf = ".".join(path[1:-1]), path[-1]
        own = leaf not in KNOWN_LEAVES or leaf in flax[module]
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
        torch_units.append(Unit(name, title, entries, kinds.get(title, ""), rename))

    back = {new: old for old, new in renames.items()}

    def flax_unit(name: str, title: str, entries: dict[str, tuple[tuple[Any, Shape], ...]]) -> Unit:
        new = _longest(back, name)
        return Unit(name, title, entries, rename=None if new is None else back[new])

    children = defaultdict(lambda: defaultdict(list))
    for name, entries in flax.items():
        parent, _, child = name.rpartition(".")
        children[parent]["".join(words_of(child) - Counter("#"))].append(entries)
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
            modules = {"", *(module for entry in entries for module in above(entry))}
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
    names = dict.fromkeys(name for entry in torch_names for name in (entry, *above(entry)))
    for old, new in renames.items():
        pattern = re.escape(old).replace(r"\*", r"(\d+)")
        matches = [match for name in names if (match := re.fullmatch(pattern, name))]
        for match in matches:
            yield match.group(), reduce(lambda text, number: text.replace("*", number, 1), match.groups(), new)
        if not matches:
            yield old, new


def _longest(prefixes: Iterable[str], name: str) -> str | None:
    return max((prefix for prefix in prefixes if below(name, prefix)), key=len, default=None)


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def may_split(unit: Unit, fused: Sequence[Unit]) -> bool:
    """Whether torch's unit is a fused query, key and value: by its entries, its name, or a rename."""
    renamed = unit.rename is not None and any(unit.rename == other.rename for other in fused)
    return renamed or "qkv" in unit.words
