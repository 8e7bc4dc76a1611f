"""What one pass over a table tells: means and deviations of all columns, gaps, and how many rows each arm has."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import GAP as GAP_ENTRY, Design, count_unseen
from torch_ref.common.data.treatment_data import Scales, TreatmentData
from torch_ref.common.progress import Progress
from torch_ref.common.stream.mixed.coding import RowCoding
from torch_ref.common.stream.mixed.table import MixedTable
from torch_ref.common.stream.statistics import RunningStatistics

_PART = 65_536  # rows that are opened at a time: each becomes several columns


class Measured(NamedTuple):
    """What is known of all rows of a table.

    Attributes:
        columns: what the features are; those have gaps that lack a value in any row.
        design: of these columns; None where all are numbers without gaps.
        scales: of features and outcome; with a design of the columns that it gives nets.
        counts: how many rows each arm has [arms].
        unseen: in how many rows a category has a level that the sample lacks, by the names of such columns.
        weighs: some row has a weight, where there are weights.
    """

    columns: tuple[Column, ...]
    design: Design | None
    scales: Scales
    counts: Int[np.ndarray, " arms"]
    unseen: dict[str, int]
    weighs: bool


def measure(table: MixedTable, coding: RowCoding, sample: TreatmentData, progress: bool) -> Measured:
    """Reads a table once.

    Args:
        table: the rows.
        coding: makes them numbers; its columns have the levels of the sample.
        sample: some of the rows, which say which levels are frequent.
        progress: shows a bar, or plain lines, once it takes long.

    Raises:
        ValueError: what `coding` refuses; file, row group and column are named.
    """
    lenient = tuple(replace(column, gaps=True) for column in coding.columns)
    design = Design.unmeasured(sample.x, lenient)
    of_x = RunningStatistics(tuple(map(str, range(len(design.source)))))
    of_y = RunningStatistics((coding.outcome,))
    counts, unseen, weighs = np.zeros(len(coding.arms), np.int64), dict.fromkeys(sample.feature_names, 0), False
    with Progress(len(table.groups), progress, "row group") as report:
        for number, arrays in enumerate(table.reading(replace(coding, columns=lenient)).parts(), 1):
            for start in range(0, len(arrays["x"]), _PART):
                of_x.add(design.entries(arrays["x"][start : start + _PART]))
            of_y.add(arrays["y"])
            counts += np.bincount(arrays["t"], minlength=len(counts))
            weighs |= bool(arrays.get("w", np.ones(1)).any())
            for name, count in count_unseen(arrays["x"], lenient).items():
                unseen[name] += count
            report(number)
    x, y = of_x.found(), of_y.found()
    design = replace(design, mean=x.mean, std=np.where(x.deviation > 0, x.deviation, 1.0))
    design = _without_gaps(design)
    y_mean, y_std = (np.zeros(1), np.ones(1)) if coding.binary else (y.mean, np.where(y.deviation > 0, y.deviation, 1))
    scales = design.net_scales(Scales(design.mean, design.std, y_mean, y_std, coding.binary))
    some = {name: count for name, count in unseen.items() if count}
    plain = all(column.levels is None and not column.gaps for column in design.columns)
    return Measured(design.columns, None if plain else design, scales, counts, some, weighs)


def _without_gaps(design: Design) -> Design:
    """Returns a design without the entries for gaps in columns that have none."""
    marks, empty = design.meaning == GAP_ENTRY, design.mean == 0
    kept = ~(marks & empty)
    with_gaps: Sequence[int] = design.source[marks & ~empty].tolist()
    columns = tuple(replace(column, gaps=place in with_gaps) for place, column in enumerate(design.columns))
    return Design(columns, design.source[kept], design.meaning[kept], design.mean[kept], design.std[kept])
