"""Writes and reads the file of an ensemble: its nets, scales and columns."""

import os
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_choice, check_shape, listed, shown
from torch_ref.common.checks.arrays import check_finite
from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import VALUE, Design, check_design
from torch_ref.common.data.encoding import Encoding, check_encoding, encode_features
from torch_ref.common.data.treatment_data import Scales
from torch_ref.common.files.array_file import read_arrays, write_arrays

from .learners.blend import Blend, blend_from_arrays, blend_to_arrays

_EFFECTS_FORMAT = "effects/3"
_OLDER = "effects/2", "effects/1"  # without a design, and without an encoding

_SCALES = ("x_mean", "x_std", "y_mean", "y_std")
_ENCODING = tuple(field.name for field in fields(Encoding))
_DESIGN = ("source", "meaning", "mean", "std")


class Ensemble(NamedTuple):
    """The nets of an ensemble, and the scales between a table and their inputs and outputs.

    Attributes:
        config: the constructor's arguments of each net.
        weights: of each net, by torch's names.
        scales: of features and outcome; with a design of the columns that it gives nets.
        encoding: of the standardised features, or None.
        feature_names: of the table's columns.
        bootstrap: the members were trained on bootstrap rows.
        settings: of the estimator that trained it, as JSON takes them; empty without one.
        blend: the trees beside the nets, and the weights of all; or None.
        calibration: of intervals, as `calibrate` returns it; or None.
        arms: the label of each arm.
        design: of a table with categories or gaps; None where all features are numbers.
    """

    config: dict[str, Any]
    weights: list[dict[str, np.ndarray]]
    scales: Scales
    encoding: Encoding | None
    feature_names: tuple[str, ...]
    bootstrap: bool
    settings: dict[str, Any]
    blend: Blend | None = None
    calibration: np.ndarray | None = None
    arms: tuple[Any, ...] = (0, 1)
    design: Design | None = None

    @property
    def finite_scales(self) -> Scales:
        """The scales of what `finite` returns, and of the outcome."""
        return self.scales if self.design is None else self.design.scales(self.scales)

    @property
    def measured(
        self,
    ) -> tuple[Int[np.ndarray, " numbers"], Float[np.ndarray, " numbers"], Float[np.ndarray, " numbers"]]:
        """Of the features that are numbers their places, and means and standard deviations in training."""
        if self.design is None:
            return np.arange(len(self.scales.x_mean)), self.scales.x_mean, self.scales.x_std
        own = self.design.meaning == VALUE
        return self.design.source[own], self.design.mean[own], self.design.std[own]

    def encode(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows columns"]:
        """Returns features as the nets take them.

        Args:
            x: the features [rows, features], in the unit of the data.
        """
        return encode_features(x, self.scales, self.encoding, self.design)

    def finite(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows design"]:
        """Returns features as everything but nets takes them.

        Args:
            x: the features [rows, features], in the unit of the data.
        """
        return np.asarray(x, np.float64) if self.design is None else self.design.finite(x)


def write_ensemble(path: str | os.PathLike[str], ensemble: Ensemble) -> None:
    """Writes an ensemble to one safetensors file."""
    stacked = {name: np.stack([net[name] for net in ensemble.weights]) for name in ensemble.weights[0]}
    arrays = stacked | {f"scales.{name}": getattr(ensemble.scales, name) for name in _SCALES}
    if ensemble.encoding is not None:
        arrays |= {f"encoding.{name}": getattr(ensemble.encoding, name) for name in _ENCODING}
    columns = None
    if ensemble.design is not None:
        arrays |= {f"design.{name}": getattr(ensemble.design, name) for name in _DESIGN}
        columns = [{"name": c.name, "levels": c.levels, "gaps": c.gaps} for c in ensemble.design.columns]
    if ensemble.blend is not None:
        arrays |= {f"blend.{name}": array for name, array in blend_to_arrays(ensemble.blend).items()}
    if ensemble.calibration is not None:
        arrays["calibration"] = ensemble.calibration
    metadata = {
        "format": _EFFECTS_FORMAT,
        "config": ensemble.config,
        "binary": ensemble.scales.binary,
        "feature_names": list(ensemble.feature_names),
        "columns": columns,
        "bootstrap": ensemble.bootstrap,
        "settings": ensemble.settings,
        "arms": [label.item() if isinstance(label, np.generic) else label for label in ensemble.arms],
    }
    write_arrays(path, arrays, metadata)


def read_ensemble(path: str | os.PathLike[str]) -> Ensemble:
    """Returns the ensemble that `write_ensemble` put into a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
        ImportError: there are trees in it, and CatBoost is not installed; the message names the extra.
    """
    arrays, metadata = read_arrays(path)
    try:
        check_choice("format", metadata.get("format"), [_EFFECTS_FORMAT, *_OLDER])
        scales = Scales(*(arrays.pop(f"scales.{name}") for name in _SCALES), binary=bool(metadata["binary"]))
        for name in _SCALES:
            _check_floats(name, getattr(scales, name), above_zero=name.endswith("std"))
        arms = _arms_from(metadata.get("arms", [0, 1]))
        encoding = None
        if any(name.startswith("encoding.") for name in arrays):
            encoding = Encoding(*(arrays.pop(f"encoding.{name}") for name in _ENCODING))
            check_encoding(encoding)
        design = _design_from(arrays, metadata.get("columns"))
        blend, joined = None, {name: arrays.pop(name) for name in list(arrays) if name.startswith("blend.")}
        if joined:
            own = {name.removeprefix("blend."): array for name, array in joined.items()}
            blend = blend_from_arrays(own, scales if design is None else design.scales(scales), len(arms))
        calibration = arrays.pop("calibration", None)
        if calibration is not None:
            calibration = np.atleast_2d(calibration)  # older files have the one pair of two arms
            check_shape("calibration", calibration, (len(arms) * (len(arms) - 1) // 2, "levels"))
            if calibration.dtype.kind != "f" or np.isnan(calibration).any():
                raise ValueError("calibration: expected numbers without NaN, got others")
        members = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(members) != 1 or 0 in members:
            raise ValueError(f"weights: expected [members, …] each, got {listed(sorted(members))} members")
        weights = [{name: array[number] for name, array in arrays.items()} for number in range(members.pop())]
        config, names = dict(metadata["config"]), tuple(map(str, metadata["feature_names"]))
        if config.get("arms", 2) != len(arms):
            raise ValueError(f"arms: expected {config.get('arms', 2)} of them, as the nets have heads, got {len(arms)}")
        if design is not None and names != tuple(column.name for column in design.columns):
            raise ValueError(f"columns: expected {listed(names)}, got {listed(c.name for c in design.columns)}")
        _ = config["activation"], config["final_activation"]  # what exported models have to know
        check_shape("y_mean", scales.y_mean, (1,))
        check_shape("y_std", scales.y_std, (1,))
        taken = config["in_features"] - (0 if design is None else len(design.embedded))  # without codes
        columns = taken if encoding is None else len(encoding.widths)
        features, given = (columns, columns) if design is None else (len(design.columns), len(design.net_entries))
        for name, count, array in (
            ("x_mean", columns, scales.x_mean), ("x_std", columns, scales.x_std), ("feature_names", features, names),
        ):  # fmt: skip
            if len(array) != count:
                raise ValueError(f"{name}: expected {count} of them, as the nets take, got {len(array)}")
        if given != columns:
            raise ValueError(f"design: expected {columns} columns, as the nets take, got {given}")
        if encoding is not None and encoding.widths.sum() != taken:
            raise ValueError(f"encoding: expected {taken} columns, got {encoding.widths.sum()}")
        return Ensemble(
            config,
            weights,
            scales,
            encoding,
            names,
            bool(metadata["bootstrap"]),
            dict(metadata["settings"]),
            blend,
            calibration,
            arms,
            design,
        )
    except KeyError as error:
        raise ValueError(f"{path}: expected {error} in it, found none") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _arms_from(labels: Any) -> tuple[Any, ...]:
    """Returns the labels of the arms in a file; raises ValueError for what are none."""
    fit = isinstance(labels, list) and all(isinstance(label, str | int | float) for label in labels)
    if not fit or len(set(labels)) != len(labels) or len(labels) < 2:
        raise ValueError(f"arms: expected at least two different labels, got {shown(labels)}")
    return tuple(labels)


def _column_from(described: Any) -> Column:
    """Returns a column that a file describes; raises ValueError for what is none."""
    name, levels, gaps = (described[word] for word in ("name", "levels", "gaps"))
    if not isinstance(name, str) or not isinstance(gaps, bool):
        raise ValueError(f"columns: expected a name, and whether it has gaps, got {shown(name)} and {shown(gaps)}")
    if levels is None:
        return Column(name, None, gaps)
    alike = isinstance(levels, list) and any(
        all(isinstance(one, kind) for one in levels) for kind in (str, int | float)
    )
    if not alike or not levels or len(set(levels)) != len(levels):
        raise ValueError(f"columns: expected different texts or numbers for levels of {name}, got {shown(levels)}")
    return Column(name, tuple(levels), gaps)


def _check_floats(name: str, array: np.ndarray, *, above_zero: bool) -> None:
    check_finite(name, array)
    if array.dtype != np.float64 or (above_zero and not (array > 0).all()):
        expected = f"float64{' above 0' * above_zero}"
        raise ValueError(f"{name}: expected {expected}, got {array.dtype} down to {array.min():.4g}")


def _design_from(arrays: dict[str, np.ndarray], described: Any) -> Design | None:
    """Returns the design of a file, whose arrays it takes out; None where it has none.

    Raises:
        ValueError: it does not fit the columns.
        KeyError: an array, or a word of a column, is missing.
        TypeError: the columns are no list.
    """
    if described is None:
        return None
    columns = tuple(map(_column_from, described))
    design = Design(columns, *(arrays.pop(f"design.{name}") for name in _DESIGN))
    for name in _DESIGN:
        array = getattr(design, name)
        check_shape(f"design.{name}", array, (len(design.source),))
        if name in ("mean", "std"):
            _check_floats(f"design.{name}", array, above_zero=name == "std")
    check_design(design)
    return design
