"""Devices."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import NamedSharding, PartitionSpec

from .fact import Found, fact, outcome

LOSS, TREATED = np.array([4.0, 1.0, 1.0, 1.0]), np.array([True, False, True, True])


@fact(
    "a head's mean over two devices, 1 and 2 of its rows on them",
    torch="DDP averages the devices' means",
    jax="`jit` over a sharded array: the mean over all rows, on however many devices",
    use="in torch: `world_size * local_sum / all_reduced_count`",
)
def mean_over_devices() -> Found:
    halves = [slice(0, 2), slice(2, 4)]
    parts = [torch.tensor(LOSS[rows])[torch.tensor(TREATED[rows])] for rows in halves]
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    by_rows = NamedSharding(mesh, PartitionSpec("rows"))
    loss, treated = (jax.device_put(array, by_rows) for array in (LOSS, TREATED))
    whole = jax.jit(lambda loss, treated: jnp.where(treated, loss, 0).sum() / treated.sum())(loss, treated)
    means, sums = (torch.stack([of(part) for part in parts]) for of in (torch.mean, torch.sum))
    return Found(means.mean(), whole, whole, torch_mended=(2 * sums / int(TREATED.sum())).mean())


@fact(
    "where an array lies",
    torch="where it was made; two devices in one sum: {torch}",
    jax="wherever JAX likes, committed: {free}; after `jax.device_put(x, device)`: {put}",
)
def where_arrays_lie() -> Found:
    mixed = outcome(lambda: torch.zeros(1) + torch.zeros(1, device="meta"))
    free = jnp.zeros(1)
    put = jax.device_put(free, jax.devices()[0])
    return Found(values={"torch": mixed, "free": str(free.committed), "put": str(put.committed)})
