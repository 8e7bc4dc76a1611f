"""Precision."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

import flax_impl

from .fact import Found, fact


@fact(
    "a float64 array",
    torch="stays {torch}",
    jax="becomes {jax} unless 64-bit mode is on",
    use="`jax.config.update('jax_enable_x64', True)`, or `with jax.enable_x64(True)`",
)
def float64_arrays() -> Found:
    array = np.array([1 / 3])
    with jax.enable_x64(False):
        ported = jnp.asarray(array)
    with jax.enable_x64(True):
        mended = jnp.asarray(array)
    reference = torch.tensor(array)
    names = {"torch": str(reference.dtype).removeprefix("torch."), "jax": str(ported.dtype)}
    return Found(reference, np.asarray(ported), mended, values=names)


@fact(
    "a numpy float64 number times a float32 array",
    torch="{torch}",
    jax="{jax} in 64-bit mode",
    use="`float(number)`: a Python number takes the array's dtype; `jax.numpy_dtype_promotion('strict')` in tests",
)
def promotion() -> Found:
    number, array = np.float64(1 / 3), np.ones(1, np.float32)
    reference = torch.tensor(array) * number
    ported, mended = jnp.asarray(array) * number, jnp.asarray(array) * float(number)
    values = {"torch": str(reference.dtype).removeprefix("torch."), "jax": str(ported.dtype)}
    return Found(reference, ported, mended, values=values)


@fact("sum of 4096 ones in float16", torch="{torch}", jax="{jax}")
def half_precision_sum() -> Found:
    ones = np.ones(4096, np.float16)
    found = torch.tensor(ones).sum(), jnp.asarray(ones).sum()
    return Found(*found, values=dict(zip(("torch", "jax"), found, strict=True)))


def _ulps(values: np.ndarray, exact: np.ndarray) -> int:
    """Returns the largest error in units of float32's last place, rounded up to a power of two: CPUs differ."""
    errors = np.abs(values.astype(float) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    return int(2 ** np.ceil(np.log2(max(errors.max(), 0.5))))


@fact(
    "ELU, tanh and sigmoid in float32",
    torch="within {torch} units of the last place",
    jax="within {jax}",
    use="nothing: it is why float32 is judged by a distance to float64, and not by equality",
)
def last_places() -> Found:
    x = np.linspace(-5, 5, 4001).astype(np.float32)
    wide = torch.tensor(x.astype(float))
    exact = [torch.nn.functional.elu(wide), wide.tanh(), wide.sigmoid()]
    tensor = torch.tensor(x)
    of_torch = [torch.nn.functional.elu(tensor), tensor.tanh(), tensor.sigmoid()]
    with jax.enable_x64(False):
        of_jax = [np.asarray(flax_impl.ACTIVATIONS[name](jnp.asarray(x))) for name in ("elu", "tanh", "sigmoid")]
    worst = [
        max(_ulps(np.asarray(f), e.numpy()) for f, e in zip(found, exact, strict=True)) for found in (of_torch, of_jax)
    ]
    return Found(values={"torch": worst[0], "jax": worst[1]})
