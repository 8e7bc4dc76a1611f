"""How good estimated effects are, where the expected outcomes mu0 and mu1 are known."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .hub.checks import check_shape


def sqrt_pehe(
    y0: Float[Array | np.ndarray, "rows out"],
    y1: Float[Array | np.ndarray, "rows out"],
    mu0: Float[Array | np.ndarray, "rows out"],
    mu1: Float[Array | np.ndarray, "rows out"],
) -> Float[Array, ""]:
    """Returns the root mean square error of the estimated effects, in the unit of the outcome.

    PEHE is the precision in estimation of heterogeneous effect.

    Twin: `torch_ref.sqrt_pehe`.

    Args:
        y0: estimated outcomes without treatment.
        y1: estimated outcomes with treatment.
        mu0: expected outcomes without treatment.
        mu1: expected outcomes with treatment.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Source: Hill, "Bayesian nonparametric modeling for causal inference", 2011.
    """
    y0, y1, mu0, mu1 = _alike(y0=y0, y1=y1, mu0=mu0, mu1=mu1)
    return jnp.sqrt(jnp.mean(((y1 - y0) - (mu1 - mu0)) ** 2))


def ate_error(
    y0: Float[Array | np.ndarray, "rows out"],
    y1: Float[Array | np.ndarray, "rows out"],
    mu0: Float[Array | np.ndarray, "rows out"],
    mu1: Float[Array | np.ndarray, "rows out"],
) -> Float[Array, ""]:
    """Returns the absolute error of the average treatment effect, in the unit of the outcome.

    Twin: `torch_ref.ate_error`.

    Args:
        y0: estimated outcomes without treatment.
        y1: estimated outcomes with treatment.
        mu0: expected outcomes without treatment.
        mu1: expected outcomes with treatment.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Source: Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    y0, y1, mu0, mu1 = _alike(y0=y0, y1=y1, mu0=mu0, mu1=mu1)
    return jnp.abs(jnp.mean(y1 - y0) - jnp.mean(mu1 - mu0))


def _alike(**arrays: Array | np.ndarray) -> tuple[Array, ...]:
    for name, array in arrays.items():
        check_shape(name, array, tuple(arrays["y0"].shape))
    return tuple(jnp.asarray(array) for array in arrays.values())
