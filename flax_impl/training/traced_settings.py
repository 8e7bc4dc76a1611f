"""Settings as pytrees: a compiled training takes what only scales (rates, decays, bounds) as values.

What is raised to a power or subtracted from 1 stays a Python number: in float32, 1 - 0.999 alone costs four digits.
"""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import fields
from typing import Any, TypeVar

import jax

from torch_ref.common.settings.optimizers import SGD, Adam, AdamW, RMSprop
from torch_ref.common.settings.schedules import Constant, Cosine, Exponential, StepDecay

_Settings = TypeVar("_Settings")


def traced(*leaves: str) -> Callable[[type[_Settings]], type[_Settings]]:
    """Makes a dataclass a pytree of these fields; the others belong to its structure, and so does its name.

    With `jax.tree_util.register_dataclass` (jaxlib 0.10.2) the structures of two classes with equal fields are equal,
    and a compiled Adam could be taken for an AdamW.
    """

    def register(settings: type[_Settings]) -> type[_Settings]:
        names = [field.name for field in fields(settings)]  # pyright: ignore[reportArgumentType] (a dataclass)
        static = [name for name in names if name not in leaves]

        def flatten(made: _Settings) -> tuple[list[Any], tuple[Any, ...]]:
            return [getattr(made, name) for name in leaves], (settings, *(getattr(made, name) for name in static))

        def unflatten(structure: tuple[Any, ...], values: Iterable[Any]) -> _Settings:
            made = object.__new__(settings)  # without the checks: JAX also puts in what is no number
            for name, value in zip((*leaves, *static), (*values, *structure[1:]), strict=True):
                object.__setattr__(made, name, value)
            return made

        jax.tree_util.register_pytree_node(settings, flatten, unflatten)
        return settings

    return register


def without_idle_decay(settings: _Settings) -> _Settings:
    """Returns the settings with None for a weight decay of 0.

    As a value that may be anything, it has every step of Adam read all parameters twice more, to add nothing.
    """
    if getattr(settings, "weight_decay", None) != 0:
        return settings
    lean = copy(settings)
    object.__setattr__(lean, "weight_decay", None)  # without the checks: nobody else is to give it
    return lean


def as_pytree(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a loss or the like as a pytree: settings as they are, any other function as one without leaves."""
    return jax.tree_util.Partial(call) if jax.tree_util.all_leaves([call]) else call


_SHARED = ("lr", "clip_norm", "schedule")
traced(*_SHARED, "momentum", "weight_decay")(SGD)
traced(*_SHARED, "eps", "weight_decay")(Adam)
traced(*_SHARED, "eps", "weight_decay")(AdamW)
traced(*_SHARED, "eps", "weight_decay", "momentum")(RMSprop)
traced()(Constant)
traced()(StepDecay)
traced()(Exponential)
traced("eta_min")(Cosine)
