"""A model of the corpus in both frameworks, over the same weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Pair:
    """A reference and a port of it, ready to run.

    Args:
        name: of the pair.
        reference: a torch module, in eval mode.
        loss: takes the module and the batch by their names.
        model: the port: a module, or a function of its parameters and inputs.
        params: its parameters, converted from the reference's.
        port_loss: as `loss`, for the port.
        batch: arrays by name.
    """

    name: str
    reference: torch.nn.Module
    loss: Callable[..., Any]
    model: Any
    params: Any
    port_loss: Callable[..., Any]
    batch: Mapping[str, np.ndarray]


def stir(module: torch.nn.Module, seed: int, size: float = 0.05) -> None:
    """Moves every parameter a little: fresh ones are zeros and ones here and there, which hide a fault."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in filter(lambda parameter: parameter.requires_grad, module.parameters()):
            parameter.add_(size * torch.randn(parameter.shape, generator=drawn))
