"""Boosted trees as arrays that need no CatBoost, with borders in the unit of the table."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

_LARGEST = float(np.finfo(np.float64).max)


class Forest(NamedTuple):
    """Oblivious trees of one depth; a tree's value is that of one leaf, and the forest's their sum and the bias.

    Bit number i of a leaf's place says whether the row's feature lies above the threshold of the tree's split i.

    Attributes:
        features: which feature each split looks at [trees, depth].
        thresholds: in the unit of the features [trees, depth]; a row goes to the left up to and with it.
        leaves: [trees, 2**depth].
        bias: what is added to the sum.
    """

    features: Int[np.ndarray, "trees depth"]
    thresholds: Float[np.ndarray, "trees depth"]
    leaves: Float[np.ndarray, "trees leaves"]
    bias: float


def read_forest(model: Any, mean: Float[np.ndarray, " features"], std: Float[np.ndarray, " features"]) -> Forest:
    """Returns the trees of a CatBoost model that sees standardised features, for features as they are.

    Args:
        model: of oblivious trees on numbers.
        mean: what was taken from each feature.
        std: what the rest was divided by.

    Raises:
        ValueError: the model holds other trees, or splits on something other than numbers.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "trees.json")
        model.save_model(str(path), format="json")
        content = json.loads(path.read_text(encoding="utf-8"))
    if "oblivious_trees" not in content:
        raise ValueError("trees: expected oblivious ones, as CatBoost makes them by default, got others")
    trees = content["oblivious_trees"]
    splits = [tree["splits"] or [] for tree in trees]
    kinds = {split["split_type"] for of_tree in splits for split in of_tree} - {"FloatFeature"}
    if kinds:
        raise ValueError(f"trees: expected splits on numbers, got {', '.join(sorted(kinds))}")
    depth = max(1, *map(len, splits)) if splits else 1
    # A tree with fewer splits gets some that every row leaves to the left.
    features = np.zeros((len(trees), depth), np.int64)
    borders = np.full((len(trees), depth), np.inf, np.float32)
    leaves = np.zeros((len(trees), 2**depth))
    for number, (tree, of_tree) in enumerate(zip(trees, splits, strict=True)):
        features[number, : len(of_tree)] = [split["float_feature_index"] for split in of_tree]
        borders[number, : len(of_tree)] = [split["border"] for split in of_tree]
        leaves[number, : len(tree["leaf_values"])] = tree["leaf_values"]
    scale, bias = content["scale_and_bias"]
    return Forest(
        features, highest_below(borders, mean[features], std[features]), leaves * scale, float(np.ravel(bias)[0])
    )


def highest_below(
    borders: Float[np.ndarray, "*shape"], mean: Float[np.ndarray, "*shape"], std: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Returns the highest number whose standardised value, in float32, is not above a border; searched bit by bit.

    So the trees can be asked without standardising: rounding never puts a row on the other side of a border.

    Args:
        borders: in float32, on the standardised scale.
        mean: of the feature.
        std: of the feature.

    Example:
        >>> float(highest_below(np.float32([0.5]), np.array([10.0]), np.array([2.0]))[0]).__round__(6)
        11.0
    """
    low, high = (np.full(borders.shape, _ordered(np.array(end))) for end in (-_LARGEST, _LARGEST))
    with np.errstate(over="ignore"):
        while (low < high).any():
            middle = low // 2 + high // 2 + (low % 2 + high % 2 + 1) // 2  # rounded up, and without overflow
            above = ((_number(middle) - mean) / std).astype(np.float32) > borders
            low, high = np.where(above, low, middle), np.where(above, middle - 1, high)
    return _number(low)


def _ordered(numbers: Float[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Returns whole numbers that lie in the order of the given ones, without a gap between neighbours."""
    bits = numbers.view(np.int64)
    return np.where(bits < 0, np.iinfo(np.int64).min - bits, bits)


def _number(ordered: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns what `_ordered` was given."""
    return np.where(ordered < 0, np.iinfo(np.int64).min - ordered, ordered).view(np.float64)
