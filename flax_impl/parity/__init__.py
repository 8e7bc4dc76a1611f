"""Checks a port against its reference: records, compares, finds the first divergence and names its cause."""

from torch_ref.common.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
