"""The two-head and the two-input/two-output model in Flax: pure functions, jitted, the head picked with `jnp.where`.

The names here are what most users need; the rest is in the rooms. Nothing is imported before it is used.

- `models`: the models in Linen and in NNX, their layers and their weights. `training`: losses, optimisers, `fit`, many
  trainings at once, devices and hosts.
- `effects`: from a table to treatment effects, with intervals, pictures and a face for scikit-learn.
- `serving`: writes trained models for processes without this package.
- `parity`: holds a port against its reference, and says where and why they part.
- `data`: tables with a treatment, and made-up ones. `commands`: what the console command `twohead` runs.
"""

from torch_ref.common.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
