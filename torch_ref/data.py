"""Tables with a treatment and an outcome, made-up ones, and the curves of the two-input/two-output model."""

from .common.data.columns import Column
from .common.data.features import describe, to_numbers
from .common.data.load import load_curves, load_data, load_features
from .common.data.simulation import curves, synthetic
from .common.data.treatment_data import Scales, TreatmentData, treatment_weights

__all__ = [
    "Column",
    "Scales",
    "TreatmentData",
    "curves",
    "describe",
    "load_curves",
    "load_data",
    "load_features",
    "synthetic",
    "to_numbers",
    "treatment_weights",
]
