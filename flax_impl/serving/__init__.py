"""Models for processes without this package: as StableHLO for jax, and as ONNX for any runtime."""

from torch_ref.common.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
