"""The dtype in which torch makes and draws floating numbers where none is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Gives a context in which that is the default dtype.

    Args:
        dtype: such as `torch.float64`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
