"""How good estimated effects are, where the expected outcomes mu0 and mu1 are known."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_rows


def sqrt_pehe(
    y0: Float[Array | np.ndarray, "rows out"],
    y1: Float[Array | np.ndarray, "rows out"],
    mu0: Float[Array | np.ndarray, "rows out"],
    mu1: Float[Array | np.ndarray, "rows out"],
) -> Float[Array, ""]:
    """Returns the root mean square error of the estimated effects, in the unit of the outcome.

    PEHE is the precision in estimation of heterogeneous effect.

    Twin: `flax_impl.effects.sqrt_pehe`.

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
    return jnp.sqrt(jnp.mean(_errors(y0, y1, mu0, mu1) ** 2))


def ate_error(
    y0: Float[Array | np.ndarray, "rows out"],
    y1: Float[Array | np.ndarray, "rows out"],
    mu0: Float[Array | np.ndarray, "rows out"],
    mu1: Float[Array | np.ndarray, "rows out"],
) -> Float[Array, ""]:
    """Returns the absolute error of the average treatment effect, in the unit of the outcome.

    Twin: `flax_impl.effects.ate_error`.

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
    return jnp.abs(jnp.mean(_errors(y0, y1, mu0, mu1)))


def _errors(y0: Any, y1: Any, mu0: Any, mu1: Any) -> Array:
    """Returns by how much each estimated effect is too large."""
    check_rows("y0", y0)
    for name, array in (("y1", y1), ("mu0", mu0), ("mu1", mu1)):
        check_shape(name, array, tuple(y0.shape))
    return jnp.asarray((y1 - y0) - (mu1 - mu0))  # numpy's float64 keeps its digits until here
