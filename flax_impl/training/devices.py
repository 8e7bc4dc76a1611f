"""Devices and hosts: which part of each array lies where, and where compiled programs are kept.

The compiled program is the one of a single device. JAX splits it by where its arguments lie, so a mean over a batch is
the mean over the whole batch, whatever rows a device holds.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from torch_ref.common.checks.arguments import check_integer
from torch_ref.common.checks.peers import PEER_LOST, check_processes, peers_not_found

_SHORT = 248  # bytes that processes tell one another at once


def initialize_distributed(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of a training; called once, before anything else of JAX.

    A process whose peers vanish ends within half a minute, even where it waits for them inside a compiled program.

    Twin: `torch_ref.training.initialize_distributed`.

    Args:
        coordinator: host and port of process 0, such as `"10.0.0.1:5700"`; None, with the two others, takes them from
            the cluster, where JAX knows it (Slurm, Kubernetes, Open MPI, Cloud TPU).
        processes: how many processes there are.
        process_id: the number of this one, from 0.

    Raises:
        ValueError: only some of the three are given, or they make no sense.
        ConnectionError: the others were not to be found.

    Example:
        >>> initialize_distributed("10.0.0.1:5700", processes=2, process_id=0)  # doctest: +SKIP
        >>> initialize_distributed("10.0.0.1:5700", processes=2)
        Traceback (most recent call last):
            ...
        ValueError: process_id: expected all of coordinator, processes, process_id, or none, got None
    """
    check_processes(coordinator, processes, process_id)
    try:
        jax.distributed.initialize(coordinator, processes, process_id, heartbeat_timeout_seconds=20)
    except (RuntimeError, ValueError) as error:  # JAX's own words for a time that is over, or an unknown cluster
        raise ConnectionError(f"coordinator: {peers_not_found(coordinator)}: {error}") from error


def cache_compilations(folder: str | os.PathLike[str]) -> None:
    """Keeps what is compiled from now on in a folder, where the next process finds it; call it before anything else.

    JAX itself keeps only what takes a second to compile, and a training takes less.

    Args:
        folder: where to keep it; it is made if it is not there.

    Raises:
        OSError: the folder cannot be made.

    Example:
        >>> import tempfile
        >>> before = jax.config.jax_compilation_cache_dir
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache_compilations(folder)
        ...     jax.config.jax_compilation_cache_dir == str(Path(folder).resolve())
        True
        >>> jax.config.update("jax_compilation_cache_dir", before)
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def raising_lost_peers(mesh: Mesh | None) -> Iterator[None]:
    """Raises ConnectionError when a peer process dies."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if is_shared(mesh):
            raise ConnectionError(f"mesh: {PEER_LOST}: {error}") from error
        raise


def make_mesh(replicas: int = 1) -> Mesh:
    """Returns a mesh of all devices of all hosts, with the axes `replica` and `data`.

    Args:
        replicas: how many parts the trainings of `fit_replicas` are dealt to; the devices of each part share its
            batches. For a single training 1.

    Returns:
        The mesh [replicas, devices / replicas].

    Raises:
        ValueError: `replicas` is no whole number of at least 1, or the number of devices cannot be divided by it.

    Example:
        >>> mesh = make_mesh()
        >>> mesh.axis_names
        ('replica', 'data')
        >>> mesh.shape["data"] == jax.device_count()
        True
    """
    devices = jax.devices()
    replicas = check_integer("replicas", replicas, at_least=1)
    if len(devices) % replicas:
        raise ValueError(f"replicas: expected a divisor of the {len(devices)} devices, got {replicas}")
    shape = (replicas, len(devices) // replicas)
    return jax.make_mesh(shape, ("replica", "data"), (AxisType.Auto, AxisType.Auto))


@dataclass(frozen=True)
class Placement:
    """Puts arrays where a training wants them.

    Every device holds its share of the table's rows and takes its share of each batch; parameters are on all of them.

    Args:
        mesh: with the axes `replica` and `data`; None is the default device alone.

    Raises:
        ValueError: the mesh has other axes.
    """

    mesh: Mesh | None

    def __post_init__(self) -> None:
        if self.mesh is not None and set(self.mesh.axis_names) != {"replica", "data"}:
            raise ValueError(f"mesh: expected the axes 'replica' and 'data', got {self.mesh.axis_names}")

    def parts(self, axis: str) -> int:
        """Returns over how many devices an axis goes."""
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def agree(self, answer: bool) -> bool:
        """Returns the answer of process 0, where several share the mesh."""
        return tell_all(b"1" if answer else b"0") == b"1" if is_shared(self.mesh) else answer

    def table(self, array: np.ndarray, *lead: str) -> Array:
        """Places a table's rows, in a shape that tables of about as many rows share, so that they compile once.

        Args:
            array: [rows, …], after an axis for each of `lead`.
            lead: mesh axes.
        """
        rows = array.shape[len(lead)]
        unit = max(1, 2 ** (rows.bit_length() - 1) // 8)  # at most an eighth more
        unit = -(-unit // self.parts("data")) * self.parts("data")
        shape = (*array.shape[: len(lead)], -(-rows // unit) * unit, *array.shape[len(lead) + 1 :])
        gc.collect(0)  # JAX lets go of the last training's table, whose memory numpy lent it, when Python collects next
        padded = aligned(shape, array.dtype)
        padded[(*[slice(None)] * len(lead), slice(rows))] = array
        return self._put(padded, *lead, "data")

    def batches(self, array: np.ndarray, *lead: str) -> Array:
        """Places the row numbers or masks of some steps [steps, batch]: each device gets its part of each batch.

        Where a batch does not divide by the devices it is filled up, with False in its mask.
        """
        return self._put(self._filled(array, len(lead) + 1, self.parts("data")), *lead, None, "data")

    def share(self, array: np.ndarray) -> Array:
        """Places this process's rows of some steps' batches [steps, batch, …], beside those of the other processes."""
        if self.mesh is None:
            return self._put(array)
        array = self._filled(array, 1, self.parts("data") // self.process[1])
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, P(None, "data")), array)

    @property
    def process(self) -> tuple[int, int]:
        """Returns this process's number among those of the mesh, and how many there are."""
        if self.mesh is None:
            return 0, 1
        processes = sorted({device.process_index for device in self.mesh.devices.flat})
        return processes.index(jax.process_index()), len(processes)

    def whole(self, tree: Any, *lead: str, copy: bool = True) -> Any:
        """Places each leaf, but for the leading axes whole, on every device; on one device `copy` says whether anew."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=False), tree) if copy else tree
        return jax.tree.map(lambda leaf: self._put(fetch(leaf), *lead), tree)

    def home(self, tree: Any) -> Any:
        """Returns the tree as arrays of the default device, as if the training had been there."""
        return tree if self.mesh is None else jax.tree.map(lambda leaf: jax.device_put(fetch(leaf)), tree)

    @staticmethod
    def _filled(array: np.ndarray, axis: int, parts: int) -> np.ndarray:
        more = -array.shape[axis] % parts
        return np.pad(array, [(0, more if place == axis else 0) for place in range(array.ndim)]) if more else array

    def _put(self, array: np.ndarray, *axes: str | None) -> Array:
        if self.mesh is None:
            return jax.device_put(array, may_alias=True)
        sharding = NamedSharding(self.mesh, P(*axes))
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def fetch(array: Array | np.ndarray) -> np.ndarray:
    """Returns the array on this host, wherever its parts lie."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(array, tiled=True))


def is_shared(mesh: Mesh | None) -> bool:
    """Returns whether several processes share a training over this mesh."""
    return mesh is not None and jax.process_count() > 1


def tell_all(held: bytes) -> bytes:
    """Returns the bytes of process 0 in every process; each of them calls it as often as the others."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # One shape does for what is short, such as a yes, and a few for what is long: each is compiled once.
    began = broadcast_one_to_all(_in_length(len(held).to_bytes(8, "little") + held[:_SHORT], 8 + _SHORT)).tobytes()
    length = int.from_bytes(began[:8], "little")
    if length <= _SHORT:
        return began[8 : 8 + length]
    return broadcast_one_to_all(_in_length(held[:length], 1 << length.bit_length())).tobytes()[:length]


def _in_length(held: bytes, length: int) -> np.ndarray:
    return np.frombuffer(held.ljust(length, b"\0"), np.uint8)


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Returns zeros that begin where a CPU device takes them over without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
