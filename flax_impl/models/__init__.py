"""The models in Linen and in NNX, the layers they are made of, and their weights."""

from torch_ref.common.lazy import attach, require

require("jax", "flax_impl", extra="jax")
__getattr__, __dir__, __all__ = attach(__name__, __file__)
