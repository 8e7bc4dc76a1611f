"""Turns a table into what an ensemble trains on: scales, weights, rows, and how long."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_integer, check_shape, listed, shown
from torch_ref.common.checks.arrays import as_dtype, check_binary, check_data, check_some_weight
from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import Design, check_features, count_unseen, finite_features, is_table
from torch_ref.common.data.encoding import Encoding, align
from torch_ref.common.data.features import to_numbers
from torch_ref.common.data.treatment_data import Scales, TreatmentData, treatment_weights

from .overlap import examine
from .rows import MemberRows, draw_members
from .settings import EffectSettings

_EPOCHS, _PATIENCE, _BATCH = 300, 20, 100
_PATIENCE_STEPS, _LEAST_PATIENCE = 500, 12
_WIDEST = 64  # embedding: narrow ones learn too slowly, see docs/effects/categories.txt


class Preparation(NamedTuple):
    """What an ensemble trains on.

    Attributes:
        scales: of features and outcome; with a design of the columns that it gives nets.
        encoding: of the standardised features, or None.
        arrays: x, t, y and w as `fit` takes them: checked, standardised, x encoded, in the dtype of the settings.
        rows: of each member.
        lengths: `epochs` or `steps`, `batch_size` and `patience`, as `fit` takes them.
        design: of a table with categories or gaps; None where all features are numbers.
        codes: of the categories that nets embed [rows, embedded], the last columns of x; or None.
    """

    scales: Scales
    encoding: Encoding | None
    arrays: dict[str, np.ndarray]
    rows: MemberRows
    lengths: dict[str, Any]
    design: Design | None = None
    codes: Float[np.ndarray, "rows embedded"] | None = None


def prepare(data: TreatmentData, settings: EffectSettings) -> Preparation:
    """Checks a table and returns what an ensemble trains on, x not yet encoded; warns of what makes effects doubtful.

    With a design, x has NaN where a feature tells nothing.

    Raises:
        ValueError: a table or a setting that `fit_effects` refuses.
    """
    data = check_table(data)
    arrays, arms = data.arrays(), len(data.arms)
    if data.groups is not None:
        check_shape("groups", np.asarray(data.groups), (len(data),))
    if settings.binary:
        check_binary("y", arrays["y"][:, 0])
    check_every_arm(data)
    check_targeted(settings, arms)
    for sentence in examine(data):
        warn_user(sentence)
    rows = draw_members(
        arrays["t"],
        members=settings.members,
        validation_share=settings.validation_share,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
        groups=data.groups,
        arms=arms,
    )
    lengths = choose_lengths(settings, rows.train.shape[1])
    design = None if data.columns is None else Design.of(data.x, data.columns)
    scales, codes, gaps = Scales.of(replace(data, x=finite_features(data)), settings.binary), None, None
    if design is not None:
        scales = design.net_scales(scales)
        opened, codes = design.for_nets(data.x), design.codes(data.x)
        gaps = np.isnan(opened)
        data = replace(data, x=np.where(gaps, scales.x_mean, opened))
    arrays = scales.standardize(data).arrays()
    if settings.cfr_weights:
        arrays["w"] = arrays.get("w", np.ones(len(data))) * treatment_weights(data.t, arms=arms)
    arrays = as_dtype(arrays, settings.dtype)
    check_some_weight(arrays)  # in this dtype, where tiny ones are zero
    bins = check_integer("bins", settings.bins, at_least=0)
    if gaps is not None:
        arrays["x"] = np.where(gaps, np.full_like(arrays["x"], np.nan), arrays["x"])
    encoding = Encoding.of(arrays["x"], bins) if bins else None
    return Preparation(scales, encoding, arrays, rows, lengths, design, codes)


def choose_lengths(settings: EffectSettings, rows: int) -> dict[str, Any]:
    """Returns `epochs`, `steps`, `batch_size` and `patience` of a net, as `fit` takes them.

    Args:
        settings: of the nets.
        rows: that a net trains on.

    Raises:
        ValueError: a batch size out of bounds.
    """
    batch_size = check_integer("batch_size", _BATCH if settings.batch_size is None else settings.batch_size, at_least=1)
    patience = settings.patience
    if patience is None and settings.validation_share:
        an_epoch = -(-rows // batch_size)
        patience = min(_PATIENCE, max(_LEAST_PATIENCE, -(-_PATIENCE_STEPS // an_epoch)))
    epochs = _EPOCHS if settings.epochs is None and settings.steps is None else settings.epochs
    return {"epochs": epochs, "steps": settings.steps, "batch_size": batch_size, "patience": patience}


def check_table(data: TreatmentData) -> TreatmentData:
    """Returns a table whose arrays are checked, in numpy and in float64.

    Raises:
        ValueError: no table; values that are no finite numbers, or that the table's columns do not allow; another
            number of rows or of names.
    """
    if not hasattr(data, "feature_names"):
        hint = "; fit_effects_streamed takes the path of such files" if hasattr(data, "arrays") else ""
        raise ValueError(f"data: expected a TreatmentData, as load_data gives it, got {shown(data)}{hint}")
    arrays = check_data(data.arrays() | {"x": finite_features(data)}, ("x", "t", "y"), ("w",), arms=len(data.arms))
    check_shape("x", arrays["x"], ("rows", "features"))
    check_shape("y", arrays["y"], ("rows", 1))
    if data.columns is not None:
        arrays["x"] = check_features(data.x, data.columns)
    if data.feature_names and len(data.feature_names) != arrays["x"].shape[1]:
        expected = f"expected {arrays['x'].shape[1]}, one for each column"
        raise ValueError(f"feature_names: {expected}, got {len(data.feature_names)}")
    return replace(data, **arrays)


def read_features(
    x: Any, names: Sequence[str], columns: Sequence[Column] | None, said: set[str]
) -> Float[np.ndarray, "rows features"]:
    """Returns the features of new rows as numbers, see `EffectModel.numbers`.

    Args:
        x: a table, or an array [rows, features].
        names: of the training's features.
        columns: what they are, where some are categories or had gaps; None where all are numbers.
        said: warnings that were given already, to which new ones are added.
    """
    if is_table(x):
        x = to_numbers(x, columns or [Column(name) for name in names])
    if columns is None:
        [x] = check_data({"x": x}, ("x",)).values()
        return x
    x = check_features(x, columns)
    warn_unseen(count_unseen(x, columns), len(x), said)
    return x


def warn_unseen(unseen: Mapping[str, int], rows: int, said: set[str]) -> None:
    """Warns of levels that training did not see, where there are some and it was not said before.

    Args:
        unseen: in how many rows a column has such a level.
        rows: how many there are.
        said: warnings that were given already, to which new ones are added.
    """
    counts = [f"{name} in {count} of {rows} rows" for name, count in unseen.items() if count]
    sentence = f"training did not see some levels, which count as an average one: {listed(counts)}"
    if counts and sentence not in said:
        said.add(sentence)
        warn_user(sentence)


def check_every_arm(data: TreatmentData) -> None:
    """Raises ValueError unless every arm of a table has rows."""
    counts = np.bincount(data.t, minlength=len(data.arms))
    if len(counts) == 2 and not counts.all():
        raise ValueError(f"t: expected treated and untreated rows, got {counts[1]} treated of {len(data)}")
    for label, count in zip(data.arms, counts, strict=True):
        if not count:
            raise ValueError(f"t: expected rows of every arm, got none of {shown(label)}")


def check_targeted(settings: EffectSettings, arms: int) -> None:
    """Raises ValueError for targeted regularisation of more than two arms."""
    if arms > 2 and settings.targeted:
        raise ValueError(f"targeted: expected False with more than two arms, got True with {arms}")


def prepare_alike(datas: Sequence[TreatmentData], settings: EffectSettings) -> list[Preparation]:
    """Returns what each of many tables trains on, with as many columns in each.

    Raises:
        ValueError: a table or a setting that `fit_effects` refuses, or tables of other shapes.
    """
    prepared = [prepare(data, settings) for data in datas]
    if len({data.arms for data in datas}) > 1:
        raise ValueError(
            f"datas: expected the same arms in each table, got {listed({str(data.arms) for data in datas})}"
        )
    shapes = {one.arrays["x"].shape for one in prepared}
    if len(shapes) > 1:
        got = listed(sorted({str(list(shape)) for shape in shapes}))
        raise ValueError(f"datas: expected as many rows and features in each table, got x of {got}")
    if len({None if one.design is None else one.design.columns for one in prepared}) > 1:
        raise ValueError("datas: expected the same columns in each table, with the same levels, got others")
    found = [one.encoding for one in prepared if one.encoding is not None]
    aligned = align(found) if found else [None] * len(prepared)
    return [_encoded(one, encoding) for one, encoding in zip(prepared, aligned, strict=True)]


def _encoded(one: Preparation, encoding: Encoding | None) -> Preparation:
    """Returns a preparation whose x is what nets take."""
    x = one.arrays["x"] if encoding is None else encoding.encode(one.arrays["x"])
    if one.codes is not None:
        x = np.concatenate([np.where(np.isnan(x), np.zeros_like(x), x), one.codes.astype(x.dtype)], axis=1)
    return one._replace(encoding=encoding, arrays=one.arrays | {"x": x})


def embedding_width(levels: int) -> int:
    """Returns how many columns nets make of a category with so many levels.

    Twice what fastai takes by default, at most 64: docs/effects/categories.txt compares widths.
    """
    return min(_WIDEST, round(3.2 * levels**0.56))


def net_config(prepared: Preparation, settings: EffectSettings, arms: int = 2) -> dict[str, Any]:
    """Returns the constructor's arguments of a net for a table of so many arms, in either framework."""
    columns = prepared.arrays["x"].shape[1]
    levels = () if prepared.design is None else prepared.design.code_counts
    gated = columns - len(levels)
    widths = [1] * gated if prepared.encoding is None else prepared.encoding.widths.tolist()
    embeddings = {"embeddings": [(count, embedding_width(count)) for count in levels]} if levels else {}
    return embeddings | {
        "in_features": columns,
        "representation_features": settings.representation_features,
        "head_features": settings.head_features,
        "activation": settings.activation,
        "final_activation": "identity",
        "input_groups": widths if settings.gates else None,
        "propensity_head": settings.targeted,
        "arms": arms,
    }


def net_loss(settings: EffectSettings, arms: int = 2) -> tuple[str, dict[str, Any]]:
    """Returns the name of the nets' loss in either framework, and its arguments."""
    criterion = "sigmoid_binary_cross_entropy" if settings.binary else "squared_error"
    shared = {"criterion": criterion, "reduction": settings.reduction}
    if settings.targeted:
        return "TargetedLoss", shared
    shared |= {"arms": arms}
    if settings.balance is None:
        return "FactualLoss", shared
    return "CFRLoss", {**shared, "balance": settings.balance, "balance_weight": settings.balance_weight}


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
