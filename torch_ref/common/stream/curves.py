"""Parquet files as data of the two-input/two-output model."""

from typing import Any

from ..checks.arrays import check_names
from ..data.load import CURVES, curve_columns
from .source import column_names, naming
from .table import ParquetTable


def stream_curves(source: Any, *, window: int | None = None) -> ParquetTable:
    """Opens Parquet files as data of a two-input/two-output model, larger than memory; `load_curves` reads them whole.

    Args:
        source: as for `ParquetTable`; columns are named x1, x2, y1, y2, or x1_a, x1_b, … where there are several of a
            kind.
        window: as for `ParquetTable`.

    Raises:
        FileNotFoundError: as `ParquetTable`.
        ImportError: as `ParquetTable`.
        ValueError: as `ParquetTable`; no column is of one of the kinds.
    """
    columns = curve_columns(column_names(source))
    with naming(str(source)):
        check_names(columns, CURVES, ())
    return ParquetTable(source, columns, window)
