"""Converts an entry of torch to the leaves of a port and back: transposes, splits, reshapes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .units import LEAVES, LeafPath, Shape, Unit


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
    paths: tuple[LeafPath, ...]
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


_QKV = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
_EMBEDDINGS = ("Embedding", "EmbeddingBag")


def links_of(torch: Unit, flax: Unit) -> tuple[list[Link], bool]:
    """Returns the links between two units, and whether they leave nothing over."""
    links, used = [], set()
    for slot, ((name, shape),) in torch.entries.items():
        for leaf in LEAVES[slot]:
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


def fit(torch: Unit, flax: Unit, known: dict[Any, int]) -> int:
    """Returns 2 where two units fit whole, 1 where all but some entries fit, and 0 else."""
    if torch.rename != flax.rename:
        return 0
    key = torch.signature, flax.signature
    if key not in known:
        links, whole = links_of(torch, flax)
        slots = {link.torch.rpartition(".")[2] for link in links}
        # A bias alone says little, and torch's own parameters stand alone.
        known[key] = 2 if whole else int(bool(slots - {"bias", "in_proj_bias"}) and "" not in torch.entries)
    return known[key]
