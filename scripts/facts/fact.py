"""What a known difference is: a measurement in both frameworks, with words that its numbers are put into."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import jax
import numpy as np
import torch

ROUNDING = 1e-12  # in float64, below it two results are the same (gate A of the harness)


@dataclass(frozen=True)
class Found:
    """What was measured, in float64 unless the words say otherwise.

    Args:
        torch: what torch computes.
        jax: what JAX computes where the port is written as it first comes to mind.
        mended: what JAX computes where it is written as the fact says; None where nothing has to be done.
        torch_mended: what torch computes then, where it is torch's side that is to be changed.
        values: numbers and words for the texts, such as defaults, read from the libraries.
        coarse: whether only the power of ten of a difference is the same everywhere, as with lost digits.
        rounding: the share of torch's largest value up to which two results are the same; in float32 it is larger.
    """

    torch: Any = None
    jax: Any = None
    mended: Any = None
    _: KW_ONLY
    torch_mended: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    coarse: bool = False
    rounding: float = ROUNDING


@dataclass(frozen=True)
class Fact:
    """A known difference, or something that people ask about and that is the same.

    Args:
        key: its name in tests and messages.
        section: of the guide.
        what: what it is about.
        torch: what torch does; `{names}` stand for measured values.
        jax: what Flax, optax or JAX does.
        use: what to write in JAX for torch's result; empty where nothing has to be done.
        measure: finds it out.
    """

    key: str
    section: str
    what: str
    torch: str
    jax: str
    use: str
    measure: Callable[[], Found]


@dataclass(frozen=True)
class Measured:
    """A fact with its numbers, as the table shows them.

    Args:
        key: of the fact.
        section: of the guide.
        what: what it is about.
        torch: what torch does.
        jax: what JAX does.
        apart: how far the two are apart.
        use: what to write in JAX.
        then: how far they are apart then.
    """

    key: str
    section: str
    what: str
    torch: str
    jax: str
    apart: str
    use: str
    then: str


FACTS: dict[str, Fact] = {}


def fact(what: str, *, torch: str, jax: str, use: str = "") -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Makes a measurement a fact of the section that its file is named after."""

    def register(measure: Callable[[], Found]) -> Callable[[], Found]:
        key = measure.__name__
        if key in FACTS:
            raise ValueError(f"{key}: expected one fact of this name, got two")
        section = measure.__module__.rpartition(".")[2]
        FACTS[key] = Fact(key, section, what, torch, jax, use, measure)
        return measure

    return register


def measure(one: Fact) -> Measured:
    """Returns the fact with its numbers; in float64, and with JAX's usual promotion, whatever the caller has set."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.default_matmul_precision("highest"),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        found = one.measure()
    values = {name: shown(value) for name, value in found.values.items()}
    apart = distance(found.jax, found.torch, found.coarse, found.rounding)
    reference = found.torch if found.torch_mended is None else found.torch_mended
    then = distance(found.mended, reference, found.coarse, found.rounding)
    of_torch, of_jax = (text.format(**values) for text in (one.torch, one.jax))
    return Measured(one.key, one.section, one.what, of_torch, of_jax, apart, one.use, then)


def distance(ours: Any, theirs: Any, coarse: bool = False, rounding: float = ROUNDING) -> str:
    """Returns how far two results are apart, as a share of the reference's largest number, in words.

    Two digits are all that is shown: further ones differ from machine to machine.
    """
    if ours is None or theirs is None:
        return ""
    ours, theirs = as_numpy(ours), as_numpy(theirs)
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)} for {list(theirs.shape)}"
    if not np.isfinite(theirs).all() or not np.isfinite(ours).all():
        same = np.array_equal(ours, theirs, equal_nan=True)
        return "same" if same else f"{shown(ours)} for {shown(theirs)}"
    apart, size = np.abs(ours - theirs).max(), np.abs(theirs).max()
    share = apart / size if size else apart
    if share <= rounding:
        return "same"
    return f"about 1e{round(np.log10(share)):03d}" if coarse else f"{share:.1e}"


def shown(value: Any) -> str:
    """Returns a value as the table has it: numbers with at most four digits, arrays of numbers in a row."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    array = as_numpy(value)
    if array.ndim and not np.isfinite(array).all():
        return "NaN" if np.isnan(array).any() else "infinity"
    if array.ndim:
        return ", ".join(shown(entry) for entry in array.ravel())
    if np.isnan(array):
        return "NaN"
    return "infinity" if np.isinf(array) else f"{float(array):.4g}"


def as_numpy(value: Any) -> np.ndarray:
    """Returns a tensor, a JAX array or a number as numpy."""
    return np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, np.float64)


def outcome(call: Callable[[], object]) -> str:
    """Returns the name of the error that a call ends in, or that it takes what it was given."""
    try:
        call()
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return type(error).__name__
    return "takes them"
