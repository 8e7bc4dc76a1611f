"""The usual activations in numpy, to recognise one by its numbers."""

import math
from collections.abc import Callable

import numpy as np

Activation = Callable[[np.ndarray], np.ndarray]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Returns ELU with that alpha."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky_relu(x: np.ndarray, slope: float = 0.01) -> np.ndarray:
    """Returns leaky ReLU with that slope."""
    return np.where(x > 0, x, slope * x)


# By the name that is shown, in JAX's words; the first that fits is the answer, so the simplest come first.
ACTIVATIONS: dict[str, Activation] = {
    "no activation": lambda x: x,
    "jax.nn.relu": lambda x: np.maximum(x, 0),
    "jax.nn.elu": elu,
    "jax.nn.leaky_relu": leaky_relu,
    "jax.nn.sigmoid": _sigmoid,
    "jnp.tanh": np.tanh,
    "jax.nn.silu": lambda x: x * _sigmoid(x),
    "jax.nn.gelu(approximate=False)": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "jax.nn.gelu(approximate=True)": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "x * jax.nn.sigmoid(1.702 * x)": lambda x: x * _sigmoid(1.702 * x),
    "jax.nn.softplus": lambda x: np.logaddexp(x, 0),
    "jax.nn.selu": lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772),
    "jax.nn.relu6": lambda x: np.clip(x, 0, 6),
    "jax.nn.hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "jax.nn.hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "jax.nn.hard_tanh": lambda x: np.clip(x, -1, 1),
    "jax.nn.log_sigmoid": lambda x: -np.logaddexp(-x, 0),
    "jax.nn.soft_sign": lambda x: x / (1 + np.abs(x)),
    "jax.nn.mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "jnp.exp": np.exp,
    "jnp.square": np.square,
    "jnp.abs": np.abs,
    "jax.nn.softmax": lambda x: (
        np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
}
