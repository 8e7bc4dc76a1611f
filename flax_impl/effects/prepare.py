"""From a table to what an ensemble trains on, the same in both frameworks: scales, weights, rows, and how long."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from torch_ref.common.checks.arguments import check_integer, check_shape, listed, shown
from torch_ref.common.checks.arrays import check_binary, check_data
from torch_ref.common.data.treatment_data import Scales, TreatmentData, treatment_weights

from .overlap import examine
from .rows import MemberRows, draw_members

_EPOCHS, _PATIENCE, _BATCH = 300, 30, 100
_PATIENCE_STEPS, _LEAST_PATIENCE = 1000, 5


# The arguments of `prepare` besides the table.
PREPARED = (
    "binary", "cfr_weights", "epochs", "steps", "batch_size", "patience", "members", "validation_share", "bootstrap",
    "seed",
)  # fmt: skip


class Preparation(NamedTuple):
    """What an ensemble trains on.

    Attributes:
        scales: of features and outcome.
        arrays: x, t, y and w as `fit` takes them, standardised.
        rows: of each member.
        settings: `epochs` or `steps`, `batch_size` and `patience`, as `fit` takes them.
    """

    scales: Scales
    arrays: dict[str, np.ndarray]
    rows: MemberRows
    settings: dict[str, Any]


def prepare(
    data: TreatmentData,
    *,
    binary: bool,
    cfr_weights: bool,
    epochs: int | None,
    steps: int | None,
    batch_size: int | None,
    patience: int | None,
    members: int,
    validation_share: float,
    bootstrap: bool,
    seed: int,
) -> Preparation:
    """Returns what an ensemble trains on; warns of what makes its effects doubtful.

    Args:
        data: the table.
        binary: the outcome is 0 or 1.
        cfr_weights: weighs the arms alike, besides the table's own weights.
        epochs: how often every row is seen at most; None is 300, or as `steps` says.
        steps: how many steps are taken at most.
        batch_size: rows in a batch; None is 100.
        patience: epochs without a better loss on the held-out rows; None is 30, or as many as a thousand steps make,
            but at least 5.
        members: how many nets.
        validation_share: of each arm.
        bootstrap: trains each member on rows drawn with replacement.
        seed: of the draws.

    Raises:
        ValueError: values that are no finite numbers, an arm without rows, an outcome that is not binary, or an
            argument out of bounds.
    """
    if not hasattr(data, "arrays"):
        raise ValueError(f"data: expected a TreatmentData, as load_data gives it, got {shown(data)}")
    arrays = check_data(data.arrays(), ("x", "t", "y"), ("w",))
    check_shape("x", arrays["x"], ("rows", "features"))
    check_shape("y", arrays["y"], ("rows", 1))
    if data.feature_names and len(data.feature_names) != arrays["x"].shape[1]:
        expected = f"expected {arrays['x'].shape[1]}, one for each column"
        raise ValueError(f"feature_names: {expected}, got {len(data.feature_names)}")
    data = replace(data, **arrays)
    if binary:
        check_binary("y", arrays["y"][:, 0])
    treated = int(arrays["t"].sum())
    if treated in (0, len(data)):
        raise ValueError(f"t: expected treated and untreated rows, got {treated} treated of {len(data)}")
    for sentence in examine(data):
        warn_user(sentence)
    rows = draw_members(arrays["t"], members=members, validation_share=validation_share, bootstrap=bootstrap, seed=seed)
    batch_size = check_integer("batch_size", _BATCH if batch_size is None else batch_size, at_least=1)
    if patience is None and validation_share:
        an_epoch = -(-rows.train.shape[1] // batch_size)
        patience = min(_PATIENCE, max(_LEAST_PATIENCE, -(-_PATIENCE_STEPS // an_epoch)))
    settings = {"epochs": _EPOCHS if epochs is None and steps is None else epochs, "steps": steps}
    scales = Scales.of(data, binary=binary)
    arrays = scales.standardize(data).arrays()
    if cfr_weights:
        arrays["w"] = arrays.get("w", np.ones(len(data))) * treatment_weights(data.t)
    return Preparation(scales, arrays, rows, {**settings, "batch_size": batch_size, "patience": patience})


def alike(rows: Sequence[Int[np.ndarray, "members rows"]]) -> Int[np.ndarray, "nets rows"]:
    """Returns the row numbers of the members of several tables below one another, as many in each as in the fewest.

    They lie arm by arm, so a few of the treated ones are left out.
    """
    fewest = min(array.shape[1] for array in rows)
    return np.concatenate([array[:, :fewest] for array in rows])


def warn_user(sentence: str) -> None:
    """Warns, and names the line of the caller's that is outside this package."""
    package, frame, level = str(Path(__file__).parents[1]), sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, UserWarning, stacklevel=level)


def restarting(numbers: Iterable[int], lr: float) -> str:
    """Returns the warning of nets that diverged."""
    return f"net {listed(numbers)} diverged and starts again, with lr={lr:g}"


def gave_up(number: int, lr: float, why: str) -> str:
    """Returns the error of a net that diverged twice."""
    return f"net {number} diverged, and again with lr={lr:g}: {why}"
