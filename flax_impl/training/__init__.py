"""Trains a model in JAX: losses, optimisers, `fit`, many trainings at once, devices and hosts."""

from torch_ref.common.lazy import attach, require

require("jax", "flax_impl", extra="jax")
__getattr__, __dir__, __all__ = attach(__name__, __file__)
