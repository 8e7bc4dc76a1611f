"""Devices."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from .fact import Found, fact

LOSS, TREATED = np.array([4.0, 1.0, 1.0, 1.0]), np.array([True, False, True, True])


@fact(
    "a head's mean over two devices, 1 and 2 of its rows on them",
    torch="DDP averages the devices' means",
    jax="`jit` over a sharded array: the mean over all rows",
    use="in torch: `world_size * local_sum / all_reduced_count`",
)
def mean_over_devices() -> Found:
    halves = [slice(0, 2), slice(2, 4)]
    parts = [torch.tensor(LOSS[rows])[torch.tensor(TREATED[rows])] for rows in halves]
    whole = jnp.where(TREATED, LOSS, 0).sum() / TREATED.sum()
    means, sums = (torch.stack([of(part) for part in parts]) for of in (torch.mean, torch.sum))
    return Found(means.mean(), whole, whole, torch_mended=(2 * sums / int(TREATED.sum())).mean())


@fact(
    "where an array lies",
    torch="`tensor.to(device)`; mixing devices is an error",
    jax="on the default device, {jax} here or an accelerator; committed by `jax.device_put`",
)
def where_arrays_lie() -> Found:
    with jax.default_device(jax.devices("cpu")[0]):
        return Found(values={"jax": next(iter(jnp.zeros(1).devices())).platform})
