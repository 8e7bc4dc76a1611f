"""How good estimated effects are, where the expected outcomes mu0 and mu1 are known."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .hub.checks import check_rows, check_shape


def sqrt_pehe(
    y0: Float[Tensor | np.ndarray, "rows out"],
    y1: Float[Tensor | np.ndarray, "rows out"],
    mu0: Float[Tensor | np.ndarray, "rows out"],
    mu1: Float[Tensor | np.ndarray, "rows out"],
) -> Float[Tensor, ""]:
    """Returns the root mean square error of the estimated effects, in the unit of the outcome.

    PEHE is the precision in estimation of heterogeneous effect.

    Twin: `flax_impl.sqrt_pehe`.

    Args:
        y0: estimated outcomes without treatment [rows, out].
        y1: estimated outcomes with treatment [rows, out].
        mu0: expected outcomes without treatment [rows, out].
        mu1: expected outcomes with treatment [rows, out].

    Returns:
        A number [] of at least 0.

    Raises:
        ValueError: the shapes differ, or there are no rows; nothing is broadcast.

    Example:
        >>> zeros, ones = np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)
        >>> estimated = np.array([[0], [2]], np.float32)  # one effect is too small by 1, one too large by 1
        >>> float(sqrt_pehe(y0=zeros, y1=estimated, mu0=zeros, mu1=ones))
        1.0

    Source: Hill, "Bayesian nonparametric modeling for causal inference", 2011.
    """
    return torch.sqrt(torch.mean(_errors(y0, y1, mu0, mu1) ** 2))


def ate_error(
    y0: Float[Tensor | np.ndarray, "rows out"],
    y1: Float[Tensor | np.ndarray, "rows out"],
    mu0: Float[Tensor | np.ndarray, "rows out"],
    mu1: Float[Tensor | np.ndarray, "rows out"],
) -> Float[Tensor, ""]:
    """Returns the absolute error of the average treatment effect, in the unit of the outcome.

    Twin: `flax_impl.ate_error`.

    Args:
        y0: estimated outcomes without treatment [rows, out].
        y1: estimated outcomes with treatment [rows, out].
        mu0: expected outcomes without treatment [rows, out].
        mu1: expected outcomes with treatment [rows, out].

    Returns:
        A number [] of at least 0.

    Raises:
        ValueError: the shapes differ, or there are no rows; nothing is broadcast.

    Example:
        >>> zeros, ones = np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)
        >>> estimated = np.array([[0], [2]], np.float32)  # one effect is too small by 1, one too large by 1
        >>> float(ate_error(y0=zeros, y1=estimated, mu0=zeros, mu1=ones))
        0.0

    Source: Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    return torch.abs(torch.mean(_errors(y0, y1, mu0, mu1)))


def _errors(y0: Any, y1: Any, mu0: Any, mu1: Any) -> Tensor:
    """Returns by how much each estimated effect is too large."""
    check_rows("y0", y0)
    for name, array in (("y1", y1), ("mu0", mu0), ("mu1", mu1)):
        check_shape(name, array, tuple(y0.shape))
    y0, y1, mu0, mu1 = (torch.as_tensor(array) for array in (y0, y1, mu0, mu1))
    errors = (y1 - y0) - (mu1 - mu0)
    return errors if errors.is_floating_point() else errors.double()
