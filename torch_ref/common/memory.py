"""Gives memory back to the system: the C library keeps what is freed between small pieces that are still in use."""

import ctypes
import sys

_MUCH = 1 << 30  # bytes: it takes a fraction of a second


def release(used: int) -> None:
    """Gives freed memory back, where the C library can be asked to and it was much.

    Args:
        used: how many bytes were used and freed, about.
    """
    if used > _MUCH and sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
