"""How good estimated effects are, where the expected outcomes mu0 and mu1 are known."""

from typing import Any

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_rows

from .columns import row_weights


def sqrt_pehe(
    y0: Float[np.ndarray, "rows out"],
    y1: Float[np.ndarray, "rows out"],
    mu0: Float[np.ndarray, "rows out"],
    mu1: Float[np.ndarray, "rows out"],
    w: Float[np.ndarray, " rows"] | None = None,
) -> float:
    """Returns the root mean square error of the estimated effects, in the unit of the outcome.

    PEHE is the precision in estimation of heterogeneous effect.

    Args:
        y0: estimated outcomes without treatment [rows, out].
        y1: estimated outcomes with treatment [rows, out].
        mu0: expected outcomes without treatment [rows, out].
        mu1: expected outcomes with treatment [rows, out].
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.

    Returns:
        A number of at least 0.

    Raises:
        ValueError: the shapes differ, there are no rows, or weights are negative or all zero; nothing is broadcast.

    Example:
        >>> zeros, ones = np.zeros((2, 1)), np.ones((2, 1))
        >>> estimated = np.array([[0.0], [2.0]])  # one effect is too small by 1, one too large by 1
        >>> sqrt_pehe(y0=zeros, y1=estimated, mu0=zeros, mu1=ones)
        1.0

    Source: Hill, "Bayesian nonparametric modeling for causal inference", 2011.
    """
    errors = _errors(y0, y1, mu0, mu1)
    return float(np.sqrt(np.mean(_row_weights(w, errors) * errors**2)))


def ate_error(
    y0: Float[np.ndarray, "rows out"],
    y1: Float[np.ndarray, "rows out"],
    mu0: Float[np.ndarray, "rows out"],
    mu1: Float[np.ndarray, "rows out"],
    w: Float[np.ndarray, " rows"] | None = None,
) -> float:
    """Returns the absolute error of the average treatment effect, in the unit of the outcome.

    Args:
        y0: estimated outcomes without treatment [rows, out].
        y1: estimated outcomes with treatment [rows, out].
        mu0: expected outcomes without treatment [rows, out].
        mu1: expected outcomes with treatment [rows, out].
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.

    Returns:
        A number of at least 0.

    Raises:
        ValueError: the shapes differ, there are no rows, or weights are negative or all zero; nothing is broadcast.

    Example:
        >>> zeros, ones = np.zeros((2, 1)), np.ones((2, 1))
        >>> ate_error(y0=zeros, y1=np.array([[0.0], [2.0]]), mu0=zeros, mu1=ones)  # the errors cancel
        0.0

    Source: Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    errors = _errors(y0, y1, mu0, mu1)
    return float(np.abs(np.mean(_row_weights(w, errors) * errors)))


def _errors(y0: Any, y1: Any, mu0: Any, mu1: Any) -> np.ndarray:
    """Returns by how much each estimated effect is too large, in float64."""
    y0, y1, mu0, mu1 = (np.asarray(array, np.float64) for array in (y0, y1, mu0, mu1))
    check_rows("y0", y0)
    for name, array in (("y1", y1), ("mu0", mu0), ("mu1", mu1)):
        check_shape(name, array, y0.shape)
    return (y1 - y0) - (mu1 - mu0)


def _row_weights(w: Any, errors: np.ndarray) -> np.ndarray:
    """Returns weights whose mean is 1, shaped so that they multiply the errors of each row."""
    return row_weights(w, len(errors)).reshape(-1, *[1] * (errors.ndim - 1))
