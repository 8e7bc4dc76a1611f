"""Keeps compiled programs on disk for the next process."""

import os
from pathlib import Path

import jax


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
