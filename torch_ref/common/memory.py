"""Gives memory back to the system: the C library keeps what is freed between small pieces that are still in use."""

import ctypes
import sys


def release() -> None:
    """Gives freed memory back, where the C library can be asked to; it takes a fraction of a second."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
