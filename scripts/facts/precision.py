"""Precision."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

import flax_impl

from .fact import Found, fact, outcome


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
        of_jax = [np.asarray(flax_impl.models.ACTIVATIONS[name](jnp.asarray(x))) for name in ("elu", "tanh", "sigmoid")]
    worst = [
        max(_ulps(np.asarray(f), e.numpy()) for f, e in zip(found, exact, strict=True)) for found in (of_torch, of_jax)
    ]
    return Found(values={"torch": worst[0], "jax": worst[1]})


@fact(
    "sum of whole numbers",
    torch="int32 adds up in int64: {torch}",
    jax="in int32: {jax}, for 2147483647 + 1",
    use="`jnp.sum(x, dtype=float)`, or 64-bit mode and int64",
)
def integer_sum() -> Found:
    array = np.array([2**31 - 1, 1], np.int32)
    reference = torch.tensor(array).sum()
    with jax.enable_x64(False):
        ported = np.asarray(jnp.asarray(array).sum())
    values = {"torch": str(int(reference)), "jax": str(int(ported))}
    return Found(reference, ported, jnp.sum(jnp.asarray(array), dtype=float), values=values)


@fact(
    "a bfloat16 input to a float32 layer",
    torch="{torch}",
    jax="{jax}, without a word",
    use="cast inputs where you mean it; `Dense(dtype=…)` says what it computes in",
)
def mixed_layer() -> Found:
    found = outcome(lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2, dtype=torch.bfloat16)))
    with jax.enable_x64(False):
        ones = jnp.ones((1, 2), jnp.bfloat16)
        layer = nn.Dense(2)
        ported = jnp.asarray(layer.apply(layer.init(jax.random.key(0), ones), ones)).dtype
    return Found(values={"torch": found, "jax": str(ported)})
