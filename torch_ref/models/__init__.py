"""The models in plain PyTorch, the layers they are made of, and their weights."""

from ..common.lazy import attach, require

require("torch", "torch_ref", extra="torch")
__getattr__, __dir__, __all__ = attach(__name__, __file__)
