"""Trains a model in plain PyTorch: losses, optimisers, `fit`, early stopping, several processes."""

from ..common.lazy import attach, require

require("torch", "torch_ref", extra="torch")
__getattr__, __dir__, __all__ = attach(__name__, __file__)
