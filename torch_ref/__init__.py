"""The two-head and the two-input/two-output model in plain PyTorch: the reference that `flax_impl` is proved against.

The names here are what most users need; the rest is in the rooms. Nothing is imported before it is used.

- `models`: the models, their layers and their weights. `training`: losses, optimisers, `fit`, several processes.
- `recording`: runs a model and writes down everything it computes, to hold a port against.
- `data`: tables with a treatment, and made-up ones.
- `common`: what both packages share, in numpy only: checks, settings, batches, data, files, traces.
"""

from .common.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
