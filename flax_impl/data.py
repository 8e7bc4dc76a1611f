"""Tables with a treatment and an outcome, made-up ones, and the curves of the two-input/two-output model."""

from torch_ref.common.data.columns import Column
from torch_ref.common.data.features import describe, to_numbers
from torch_ref.common.data.load import load_curves, load_data, load_features
from torch_ref.common.data.simulation import curves, synthetic
from torch_ref.common.data.treatment_data import Scales, TreatmentData, treatment_weights
from torch_ref.common.stream.convert import csv_to_parquet
from torch_ref.common.stream.order import WindowShuffle
from torch_ref.common.stream.statistics import ColumnStatistics
from torch_ref.common.stream.table import ParquetTable, stream_data

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
