"""Tables with a treatment and an outcome, made-up ones, and the curves of the two-input/two-output model."""

from .common.data.columns import Column
from .common.data.features import describe, to_numbers
from .common.data.load import load_curves, load_data, load_features
from .common.data.simulation import curves, synthetic
from .common.data.treatment_data import Scales, TreatmentData, treatment_weights
from .common.stream.convert import csv_to_parquet
from .common.stream.order import WindowShuffle
from .common.stream.statistics import ColumnStatistics
from .common.stream.table import ParquetTable, stream_data

__all__ = [
    "Column",
    "ColumnStatistics",
    "ParquetTable",
    "Scales",
    "TreatmentData",
    "WindowShuffle",
    "csv_to_parquet",
    "curves",
    "describe",
    "load_curves",
    "load_data",
    "load_features",
    "stream_data",
    "synthetic",
    "to_numbers",
    "treatment_weights",
]
