"""Writes a trained model for processes that have neither this package nor its frameworks."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import check_choice, check_number
from torch_ref.common.data.columns import Column

from ..effects.effect_model import EffectModel
from .onnx_file import write_onnx
from .plan import Plan
from .planning import make_plan
from .stablehlo import write_stablehlo

FORMATS = ("stablehlo", "onnx")
_VERSION = "twohead-serving/1"


def export_model(
    model: EffectModel, path: str | os.PathLike[str], *, format: str = "onnx", alpha: float = 0.05
) -> None:
    """Writes a trained model to one file that gives its outcomes, effects and intervals without this package.

    The whole way from a table's columns to effects is inside, in the unit of the table, for any number of rows. A row
    with a value that `EffectModel.effect` refuses gets NaN everywhere.

    - `"onnx"`: one input for each column, [batch]: float64, or text for a category of texts; a gap is NaN or an empty
      text. Any runtime for ONNX runs it.
    - `"stablehlo"`: a zip of `model.stablehlo`, which `jax.export.deserialize` reads, and `about.json`. Its program
      takes all columns in one array, float64 [batch, features], as `EffectModel.numbers` returns it: a category is the
      place of its level, -1 one that training did not see. It is made for CPU, GPU and TPU.

    Both return float64 arrays [batch] by name, as `twohead predict` names its columns: `y0`, `y1`, `effect`, and `low`
    and `high` where the model has intervals; of several arms `y_ARM`, `effect_ARM`, `low_ARM`, `high_ARM`.

    Args:
        model: the model, trained or loaded.
        path: the file; one that is there already is replaced, and folders that are missing are made.
        format: `"onnx"` or `"stablehlo"`.
        alpha: the probability that an interval misses the effect, above 0 and below 1.

    Returns:
        Nothing; the file is written, or left as it was.

    Raises:
        ValueError: an unknown format, an `alpha` out of bounds, or for ONNX columns without names of their own.
        ImportError: ONNX is asked for and not installed; the message names the extra.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, zipfile
        >>> import jax
        >>> import numpy as np
        >>> from flax_impl.data import synthetic
        >>> from flax_impl.effects import EffectSettings, fit_effects
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3)
        >>> model = fit_effects(data, small, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_model(model, f"{folder}/model.zip", format="stablehlo")
        ...     with zipfile.ZipFile(f"{folder}/model.zip") as file:
        ...         program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
        >>> with jax.enable_x64(True):
        ...     found = program.call(data.x)
        >>> bool(np.allclose(np.asarray(found["effect"]), model.effect(data.x), atol=1e-5))
        True
    """
    check_choice("format", format, FORMATS)
    check_number("alpha", alpha, above=0, below=1)
    plan, columns = make_plan(model, alpha), model.columns or tuple(map(Column, model.feature_names))
    about = _describe(model, plan, columns, alpha)
    if format == "onnx":
        write_onnx(Path(path), plan, columns, about)
    else:
        write_stablehlo(Path(path), plan, about)


def _describe(model: EffectModel, plan: Plan, columns: Sequence[Column], alpha: float) -> dict[str, Any]:
    """Returns what whoever runs an exported model has to know, as JSON takes it."""
    return {
        "format": _VERSION,
        "twohead": importlib.metadata.version("twohead"),
        "columns": [
            {"name": column.name, "levels": column.levels and list(column.levels), "gaps": column.gaps}
            for column in columns
        ],
        "arms": [label.item() if isinstance(label, np.generic) else label for label in model.arms],
        "outputs": plan.outputs,
        "outcome": "probability" if plan.binary else "unit of the training's table",
        "alpha": alpha if plan.margins is not None else None,
        "members": model.members,
    }
