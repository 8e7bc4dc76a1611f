"""Gives a module other weights."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ..common.checks.arguments import check_integer


def with_state(model: nn.Module, state: Mapping[str, np.ndarray]) -> nn.Module:
    """Returns a copy of a module with these weights; those that are not named stay as they are.

    Args:
        model: it is left as it is.
        state: arrays by the names of `state_dict`, as `flax_impl.parity.torch_state` gives them.

    Returns:
        The copy, in the dtypes of the module.

    Raises:
        ValueError: an entry that the module does not have, or of another shape.

    Example:
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> with_state(model, {"hidden1.bias": np.ones(2)}).hidden1.bias.tolist()
        [1.0, 1.0]
    """
    copied = copy.deepcopy(model)
    try:
        unknown = copied.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()}, strict=False)[1]
    except RuntimeError as error:
        raise ValueError(f"state: expected entries of the module, got others: {error}") from error
    if unknown:
        raise ValueError(f"state: expected entries of the module, got {unknown[0]!r}, which it does not have")
    return copied


def with_drawn_state(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns a copy of a module in which no two parameters hold the same numbers.

    Fresh ones are zeros and ones here and there. Whoever finds out which weight is which by their numbers needs others.

    Args:
        model: it is left as it is.
        seed: of the numbers.

    Returns:
        The copy, each parameter moved by a tenth of a standard normal number.

    Raises:
        ValueError: `seed` is no whole number.

    Example:
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> bool((with_drawn_state(model).hidden1.bias == model.hidden1.bias).any())
        False
    """
    seed = check_integer("seed", seed, at_least=0)
    copied = copy.deepcopy(model)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            moved = 0.1 * torch.randn(parameter.shape, generator=drawn)
            parameter.add_(moved.to(parameter.device, parameter.dtype))
    return copied
