"""How exactly a training computes; its parameters and its optimiser stay in the parameters' dtype."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# What torch calls them. On a CPU products are exact in any case.
PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "highest"}


@contextmanager
def matmul_precision(precision: str, device: str) -> Iterator[None]:
    """Gives a context in which products are computed with that precision.

    Twin: `flax_impl.precision.matmul_precision`, in which they are traced.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    try:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
