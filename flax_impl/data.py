"""Tables with a treatment and an outcome, made-up ones, and the curves of the two-input/two-output model."""

from torch_ref.common.data.columns import Column
from torch_ref.common.data.features import describe, to_numbers
from torch_ref.common.data.load import load_curves, load_data, load_features
from torch_ref.common.data.simulation import curves, synthetic
from torch_ref.common.data.treatment_data import Scales, TreatmentData, treatment_weights

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
