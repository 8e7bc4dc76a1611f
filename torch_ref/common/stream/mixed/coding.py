"""From the columns of a row group to numbers, whatever their types: as `to_numbers` makes them of a table in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ...checks.arguments import listed, shown
from ...checks.arrays import check_binary
from ...data.columns import Column
from ..source import is_number
from ..table import Arrays


@dataclass(frozen=True)
class FeatureCoding:
    """Makes the features of a row group, a pyarrow table, the array `x` [rows, features].

    Args:
        columns: what the features are.
    """

    columns: tuple[Column, ...]

    def __call__(self, table: Any) -> Arrays:
        """Returns `x` as `to_numbers` does: numbers, places of levels, NaN for a gap.

        Args:
            table: the row group.

        Raises:
            ValueError: infinity, a gap in a column of numbers without any, or a column of another kind.
        """
        x = np.empty((len(table), len(self.columns)))
        for place, column in enumerate(self.columns):
            x[:, place] = code_column(column, table.column(column.name))
        return {"x": x}


@dataclass(frozen=True)
class RowCoding:
    """Makes a row group, a pyarrow table, the arrays x, t, y, and perhaps w.

    Args:
        columns: what the features are.
        treatment: the column with the arm of each row.
        arms: the label of each arm.
        outcome: the column with the outcome.
        weight: the column with the weights of the rows, or None.
        binary: the outcome is 0 or 1.
    """

    columns: tuple[Column, ...]
    treatment: str
    arms: tuple[Any, ...]
    outcome: str
    weight: str | None = None
    binary: bool = False

    def __call__(self, table: Any) -> Arrays:
        """Returns the arrays [rows, …].

        Args:
            table: the row group.

        Raises:
            ValueError: as for `FeatureCoding`; a row without treatment, outcome or weight, with a label that no arm
                has, a negative weight, or an outcome that is not binary.
        """
        check_complete(table, [self.treatment, self.outcome, *([] if self.weight is None else [self.weight])])
        y = code_column(Column(self.outcome), table.column(self.outcome))
        if self.binary:
            check_binary(f"column {self.outcome}", y)
        arrays = FeatureCoding(self.columns)(table) | {"t": self._arms(table.column(self.treatment)), "y": y[:, None]}
        if self.weight is not None:
            arrays["w"] = w = code_column(Column(self.weight), table.column(self.weight))
            if w.min(initial=0) < 0:
                got = f"{w.min()} in row {w.argmin()}"
                raise ValueError(f"column {self.weight}: expected weights of at least 0, got {got}")
        return arrays

    def _arms(self, cells: Any) -> np.ndarray:
        codes = code_column(Column(self.treatment, self.arms), cells)
        [unknown] = np.nonzero(codes < 0)
        if len(unknown):
            expected = f"one of {listed(map(shown, self.arms))}, as in the sample that is read first"
            got = f"{shown(cells[int(unknown[0])].as_py())} in row {unknown[0]}"
            raise ValueError(f"column {self.treatment}: expected {expected}, got {got}")
        return codes.astype(np.int32)


def check_complete(table: Any, names: Sequence[str]) -> None:
    """Raises ValueError where a row has no value in one of the columns.

    Args:
        table: a row group, a pyarrow table.
        names: of the columns.
    """
    for name in names:
        gaps = table.column(name).is_null(nan_is_null=True).to_numpy()
        if gaps.any():
            more = f" ({gaps.sum()} in all)" if gaps.sum() > 1 else ""
            raise ValueError(f"column {name}: expected a value in every row, got none in row {gaps.argmax()}{more}")


def code_column(column: Column, cells: Any) -> Float64[np.ndarray, " rows"]:
    """Returns a column as `to_numbers` does.

    Args:
        column: what it is.
        cells: a chunked array of pyarrow.

    Raises:
        ValueError: infinity, a gap in a column of numbers without any, or values of another kind.
    """
    import pyarrow as arrow

    if arrow.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    return _numbers(column, cells, arrow) if column.levels is None else _codes(column, column.levels, cells, arrow)


def _numbers(column: Column, cells: Any, arrow: Any) -> Float64[np.ndarray, " rows"]:
    if not (is_number(cells.type) or arrow.types.is_decimal(cells.type) or arrow.types.is_null(cells.type)):
        raise ValueError(f"column {column.name}: expected numbers, as in training, got {cells.type}")
    values = cells.cast(arrow.float64(), safe=False).to_numpy()
    wrong = np.isinf(values) if column.gaps else ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        expected = "finite numbers" if np.isinf(values[row]) else "a number in every row, as in training"
        got = "none" if np.isnan(values[row]) else values[row]
        raise ValueError(f"column {column.name}: expected {expected}, got {got} in row {row}")
    return values


def _codes(column: Column, levels: tuple[Any, ...], cells: Any, arrow: Any) -> Float64[np.ndarray, " rows"]:
    from pyarrow.compute import index_in  # pyright: ignore[reportAttributeAccessIssue] (made as it loads)

    gap = np.nan if column.gaps else -1.0
    if arrow.types.is_null(cells.type):
        return np.full(len(cells), gap)
    text = isinstance(levels[0], str)
    if text != (arrow.types.is_string(cells.type) or arrow.types.is_large_string(cells.type)):
        expected = f"categories of {'text' if text else 'numbers'}, as in training"
        raise ValueError(f"column {column.name}: expected {expected}, got {cells.type}")
    if not text and not arrow.types.is_integer(cells.type):  # truth values and decimals too
        cells = cells.cast(arrow.float64(), safe=False)
    known = [level for level in levels if text or not arrow.types.is_integer(cells.type) or level == int(level)]
    found = index_in(cells, value_set=arrow.array(known).cast(cells.type))
    places = np.array([*map(levels.index, known), -1], np.float64)
    codes = places[found.fill_null(len(known)).to_numpy()]
    codes[cells.is_null(nan_is_null=True).to_numpy()] = gap
    return codes
