"""Turns a table into what an ensemble trains on: scales, weights, rows, and how long."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from torch_ref.common.checks.arguments import check_integer, check_shape, shown
from torch_ref.common.checks.arrays import as_dtype, check_binary, check_data, check_some_weight
from torch_ref.common.data.treatment_data import Scales, TreatmentData, treatment_weights

from .overlap import examine
from .rows import MemberRows, draw_members
from .settings import EffectSettings

_EPOCHS, _PATIENCE, _BATCH = 300, 30, 100
_PATIENCE_STEPS, _LEAST_PATIENCE = 1000, 5


class Preparation(NamedTuple):
    """What an ensemble trains on.

    Attributes:
        scales: of features and outcome.
        arrays: x, t, y and w as `fit` takes them: checked, standardised, in the dtype of the settings.
        rows: of each member.
        lengths: `epochs` or `steps`, `batch_size` and `patience`, as `fit` takes them.
    """

    scales: Scales
    arrays: dict[str, np.ndarray]
    rows: MemberRows
    lengths: dict[str, Any]


def prepare(data: TreatmentData, settings: EffectSettings) -> Preparation:
    """Checks a table and returns what an ensemble trains on; warns of what makes its effects doubtful.

    Raises:
        ValueError: a table or a setting that `fit_effects` refuses.
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
    if settings.binary:
        check_binary("y", arrays["y"][:, 0])
    treated = int(arrays["t"].sum())
    if treated in (0, len(data)):
        raise ValueError(f"t: expected treated and untreated rows, got {treated} treated of {len(data)}")
    for sentence in examine(data):
        warn_user(sentence)
    rows = draw_members(
        arrays["t"],
        members=settings.members,
        validation_share=settings.validation_share,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
    )
    batch_size = check_integer("batch_size", _BATCH if settings.batch_size is None else settings.batch_size, at_least=1)
    patience = settings.patience
    if patience is None and settings.validation_share:
        an_epoch = -(-rows.train.shape[1] // batch_size)
        patience = min(_PATIENCE, max(_LEAST_PATIENCE, -(-_PATIENCE_STEPS // an_epoch)))
    epochs = _EPOCHS if settings.epochs is None and settings.steps is None else settings.epochs
    lengths = {"epochs": epochs, "steps": settings.steps, "batch_size": batch_size, "patience": patience}
    scales = Scales.of(data, binary=settings.binary)
    arrays = scales.standardize(data).arrays()
    if settings.cfr_weights:
        arrays["w"] = arrays.get("w", np.ones(len(data))) * treatment_weights(data.t)
    arrays = as_dtype(arrays, settings.dtype)
    check_some_weight(arrays)  # in this dtype, where tiny ones are zero
    return Preparation(scales, arrays, rows, lengths)


def stack_rows(rows: Sequence[Int[np.ndarray, "members rows"]]) -> Int[np.ndarray, "nets rows"]:
    """Stacks the row numbers of several tables' members, as many in each as in the fewest.

    They lie arm by arm, so a few of the treated ones are left out.
    """
    fewest = min(array.shape[1] for array in rows)
    return np.concatenate([array[:, :fewest] for array in rows])


def warn_user(sentence: str) -> None:
    """Warns, and names the line outside this package that led here."""
    package, frame, level = str(Path(__file__).parents[1]), sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, UserWarning, stacklevel=level)
