"""Trees as the attributes of ONNX's TreeEnsemble: boosted ones, and ones that find a place between ends."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .forest import Forest

_UP_TO, _BELOW = 0, 1  # ONNX's modes BRANCH_LEQ and BRANCH_LT
_SUM = 1  # of the trees' leaves
_TRUE, _FALSE = 0, 1


def forest_attributes(forest: Forest) -> dict[str, Any]:
    """Returns the attributes that say what `Forest` says, without the bias."""
    trees, depth = forest.features.shape
    # A whole tree's nodes, level by level: node `n` has the children `2n + 1` and `2n + 2`; leaves come last.
    inner = 2**depth - 1
    level = np.floor(np.log2(np.arange(1, inner + 1))).astype(int)
    own = np.arange(inner)
    children = np.stack([2 * own + 1, 2 * own + 2])
    leaf = children >= inner
    # Bit `i` of a leaf's place is the turn at level `i`, but along a level the first turn is the highest bit.
    turns = np.arange(2**depth)
    place = sum(((turns >> (depth - 1 - bit)) & 1) << bit for bit in range(depth))
    ids = np.where(leaf, children - inner, children)
    starts = np.where(leaf[:, None], (np.arange(trees) * 2**depth)[None, :, None], (np.arange(trees) * inner)[:, None])
    ids = ids[:, None] + starts
    return _attributes(
        features=forest.features[:, level].ravel(),
        splits=forest.thresholds[:, level].ravel(),
        mode=_UP_TO,
        ids=ids.reshape(2, -1),
        leaf=np.broadcast_to(leaf[:, None], ids.shape).reshape(2, -1),
        weights=forest.leaves[:, place].ravel(),
        targets=np.zeros(forest.leaves.size, int),
        roots=np.arange(trees) * inner,
    )


def place_attributes(ends: Sequence[np.ndarray], starts: np.ndarray) -> dict[str, Any]:
    """Returns the attributes of trees that count for each column how many ends are not above it, from a start on.

    Args:
        ends: of each column, in ascending order, at least one.
        starts: what each column's count starts at.
    """
    parts = [_search_tree(len(of_column)) for of_column in ends]
    nodes, leaves = np.cumsum([0, *map(len, ends)])[:-1], np.cumsum([0, *(len(of) + 1 for of in ends)])[:-1]
    columns = np.repeat(np.arange(len(ends)), list(map(len, ends)))
    of_leaf = np.repeat(np.arange(len(ends)), [len(of) + 1 for of in ends])
    leaf = np.concatenate([is_leaf for _, _, is_leaf in parts], axis=1)
    ids = np.concatenate([children for _, children, _ in parts], axis=1)
    return _attributes(
        features=columns,
        splits=np.concatenate([of_column[splits] for of_column, (splits, _, _) in zip(ends, parts, strict=True)]),
        mode=_BELOW,
        ids=ids + np.where(leaf, leaves[columns], nodes[columns]),
        leaf=leaf,
        weights=np.concatenate([start + np.arange(len(of) + 1.0) for start, of in zip(starts, ends, strict=True)]),
        targets=of_leaf,
        roots=nodes,
    )


def _search_tree(ends: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a balanced tree: the end that each node asks for, both children [2, nodes], and which are leaves."""
    splits, children, leaf = [], [], []
    waiting = [(0, ends)]  # the ends between which each node searches, in the order of their numbers
    for low, high in waiting:
        middle = (low + high) // 2
        splits.append(middle)
        for start, stop in ((low, middle), (middle + 1, high)):
            leaf.append(start == stop)
            children.append(start if start == stop else len(waiting))
            if start < stop:
                waiting.append((start, stop))
    return np.array(splits), np.array(children).reshape(-1, 2).T, np.array(leaf).reshape(-1, 2).T


def _attributes(
    features: np.ndarray, splits: np.ndarray, mode: int, ids: np.ndarray, leaf: np.ndarray, weights: np.ndarray,
    targets: np.ndarray, roots: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Returns attributes by ONNX's names.

    Args:
        features: the column that each node looks at [nodes].
        splits: what it compares with [nodes].
        mode: how.
        ids: the numbers of both children, of nodes or leaves [2, nodes].
        leaf: whether a child is a leaf [2, nodes].
        weights: what each leaf says [leaves].
        targets: to which column of the output [leaves].
        roots: the first node of each tree [trees].
    """
    from onnx import numpy_helper

    return {
        "aggregate_function": _SUM,
        "n_targets": int(targets.max()) + 1,
        "nodes_featureids": features.tolist(),
        "nodes_splits": numpy_helper.from_array(splits.astype(np.float64)),
        "nodes_modes": numpy_helper.from_array(np.full(len(splits), mode, np.uint8)),
        "nodes_truenodeids": ids[_TRUE].tolist(),
        "nodes_falsenodeids": ids[_FALSE].tolist(),
        "nodes_trueleafs": leaf[_TRUE].astype(int).tolist(),
        "nodes_falseleafs": leaf[_FALSE].astype(int).tolist(),
        "leaf_targetids": targets.tolist(),
        "leaf_weights": numpy_helper.from_array(weights.astype(np.float64)),
        "tree_roots": roots.tolist(),
    }
