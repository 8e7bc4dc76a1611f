"""The known differences between torch and JAX, each a measurement; a file for each section of the guide."""

from . import (
    checkpoints,
    devices,
    initialisation,
    layers,
    loops,
    losses,
    masking,
    modules,
    optimizers,
    precision,
    randomness,
    weights,
)
from .fact import FACTS, Fact, Found, Measured, measure

__all__ = [
    "FACTS",
    "Fact",
    "Found",
    "Measured",
    "checkpoints",
    "devices",
    "initialisation",
    "layers",
    "loops",
    "losses",
    "masking",
    "measure",
    "modules",
    "optimizers",
    "precision",
    "randomness",
    "weights",
]
