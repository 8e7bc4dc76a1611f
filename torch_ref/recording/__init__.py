"""Runs a model in PyTorch and writes down everything that it computes."""

from ..common.lazy import attach, require

require("torch", "torch_ref", extra="torch")
__getattr__, __dir__, __all__ = attach(__name__, __file__)
