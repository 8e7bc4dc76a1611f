"""The dtype that torch computes in: where none is asked for, and in place of float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ..common.tape.literals import as_written


class _Lifted(TorchDispatchMode):
    """Gives every operation its float32 arguments, and the float32 that it asks for, in float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(map(_narrow, args)) or any(map(_narrow, kwargs.values())):
            args, kwargs = tree_map(_in_float64, (args, dict(kwargs)))
        found = func(*args, **kwargs)
        return tree_map(_in_float64, found) if _narrow(found) else found


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Gives a context in which that is the dtype of floating numbers where none is asked for.

    Args:
        dtype: such as `torch.float64`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def all_in_float64() -> Iterator[None]:
    """Gives a context in which nothing is computed in float32; what rounds more than that stays as it is written."""
    with default_dtype(torch.float64), _Lifted():
        yield


def exact(tensor: Tensor) -> Tensor:
    """Returns a tensor in float64; a single number of float32 keeps its decimal digits.

    Args:
        tensor: of floating numbers.
    """
    found = tensor.double()
    if tensor.numel() == 1 and tensor.dtype is torch.float32:
        found.fill_(as_written(tensor.item()))
    return found


def _in_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return exact(value) if value.dtype is torch.float32 else value
    return torch.float64 if value is torch.float32 else value


def _narrow(value: Any) -> bool:
    """Returns whether there is a float32 in a value; `tree_map` would take as long as all the rest."""
    if isinstance(value, list | tuple):
        return any(map(_narrow, value))
    return value is torch.float32 or (isinstance(value, Tensor) and value.dtype is torch.float32)
