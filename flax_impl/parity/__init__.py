"""Comparing what two frameworks computed, in numpy only."""

from .compare import largest_difference, relative_difference, scaled_difference

__all__ = ["largest_difference", "relative_difference", "scaled_difference"]
