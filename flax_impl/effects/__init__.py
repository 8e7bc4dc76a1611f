"""From a table to treatment effects: estimators, intervals, reports, pictures."""

from torch_ref.common.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
