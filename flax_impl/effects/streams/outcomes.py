"""Outcomes and effects of rows by a model, as columns; of a table of files written part by part."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import count_unseen
from torch_ref.common.data.tables import write_csv
from torch_ref.common.progress import Progress
from torch_ref.common.stream.mixed.coding import FeatureCoding
from torch_ref.common.stream.mixed.table import MixedTable
from torch_ref.common.stream.predictions import of_size, write_parquet
from torch_ref.common.stream.table import Arrays

from ..effect_model import PART, EffectModel
from ..prepare import warn_unseen


class WrittenEffects(NamedTuple):
    """What was written for the rows of a table.

    Attributes:
        rows: how many there are.
        means: the mean of the rows' effects of each arm but the first, against that, by the labels of the arms.
    """

    rows: int
    means: dict[Any, float]

    def lines(self, arms: Sequence[Any]) -> list[str]:
        """Returns a line for each mean.

        Args:
            arms: the label of each arm.
        """
        several = len(self.means) > 1
        return [
            f"{self.rows} rows, mean of the rows' effects{f' of {label} against {arms[0]}' * several} {mean:.4g}"
            for label, mean in self.means.items()
        ]


def effect_columns(model: EffectModel, x: Any, alpha: float = 0.05) -> tuple[Arrays, dict[Any, np.ndarray]]:
    """Returns columns for the rows of a table, and the effect of each arm against the first.

    Args:
        model: whose intervals are among the columns where it has some.
        x: the features, as `EffectModel.numbers` takes them.
        alpha: the probability that an interval misses.

    Returns:
        The columns by name: y0, y1, effect, low, high of two arms; of several with the label of an arm. And the effects
        [rows] by the label of the arm.
    """
    x = model.numbers(x)
    two, (first, *others) = len(model.arms) == 2, model.arms
    outcomes = dict(zip(model.arms, model.potential_outcomes(x), strict=True))
    columns = {f"y{arm}" if two else f"y_{label}": outcomes[label] for arm, label in enumerate(outcomes)}
    effects = {label: outcomes[label] - outcomes[first] for label in others}
    for label in others:
        end = "" if two else f"_{label}"
        columns[f"effect{end}"] = effects[label]
        if model.has_intervals:
            ends = model.effect_interval(x, alpha, control=first, treatment=label)
            columns[f"low{end}"], columns[f"high{end}"] = ends
    return columns, effects


def write_effects(
    model: EffectModel,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    alpha: float = 0.05,
    progress: bool = True,
) -> WrittenEffects:
    """Writes what `effect_columns` gives for all rows of Parquet files, part by part, in the table's order.

    Args:
        model: the model.
        source: the files, as for `ParquetTable`.
        path: the file to write, .parquet or text; it is whole or not there.
        alpha: as for `effect_columns`.
        progress: shows a bar, or plain lines, once it takes long.

    Raises:
        FileNotFoundError: there are no such files.
        ImportError: as for `ParquetTable`.
        ValueError: columns that are missing or of another kind than in training, or gaps where training had none. File,
            row group, column and row are named.

    Warns:
        UserWarning: levels that training did not see, once.
    """
    write = writer_of(path)
    features = model.columns or tuple(map(Column, model.feature_names))
    table = MixedTable(source, {"x": [column.name for column in features]}, decode=FeatureCoding(features))
    sums, unseen = dict.fromkeys(model.arms[1:], 0.0), dict.fromkeys(model.feature_names, 0)

    def parts() -> Iterator[Arrays]:
        done = 0
        for arrays in of_size(table.parts(), PART):  # as in memory, so numbers are the same
            x = arrays["x"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of the whole table it is said once
                columns, effects = effect_columns(model, x, alpha)
            for label, effect in effects.items():
                sums[label] += float(effect.sum())
            for name, count in count_unseen(x, features).items():
                unseen[name] += count
            yield {"row": np.arange(done, done + len(x)), **columns}
            done += len(x)
            report(done)

    with Progress(len(table), progress, "row") as report:
        write(Path(path), parts())
    warn_unseen(unseen, len(table), set())
    return WrittenEffects(len(table), {label: total / len(table) for label, total in sums.items()})


def writer_of(path: str | os.PathLike[str]) -> Callable[[Path, Iterator[Arrays]], Any]:
    """Returns what writes columns part by part: to a .parquet file, or text to one of any other name."""
    return write_parquet if Path(path).suffix == ".parquet" else _write_csv


def _write_csv(path: Path, parts: Iterator[Arrays]) -> None:
    first = next(parts)
    write_csv(path, tuple(first), chain.from_iterable(map(_rows, chain([first], parts))))


def _rows(columns: Arrays) -> Iterator[tuple[Any, ...]]:
    """Yields the values of each row but its number, which `write_csv` adds."""
    return zip(*(array.tolist() for name, array in columns.items() if name != "row"), strict=True)
