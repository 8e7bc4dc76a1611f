"""Names another function: tanh for erf, another activation, a softmax over another axis, another reduction."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..comparison.activations import ACTIVATIONS, elu, leaky_relu
from ..report.entries import Finding
from .cut import Cut
from .words import neat, plain

_Function = Callable[[np.ndarray], np.ndarray]
_MOST = 24
_LARGEST = 1 << 18  # numbers of a value that whole activations are tried at
_EACH = 0.05  # of the numbers are of each sign
_SAMPLE = 16  # numbers that are looked at first
# What is one operation is told as such.
_CLIPS = ("jax.nn.relu6", "jax.nn.hard_tanh", "jax.nn.hard_sigmoid")
_SINGLE = ("jax.nn.relu", "jax.nn.sigmoid", "jnp.tanh")
_NO_ACTIVATIONS = ("jnp.exp", "jnp.square", "jnp.abs", "jax.nn.softmax")
_erf = np.vectorize(math.erf, otypes=[np.float64])
_UNARY: dict[str, _Function] = {
    "tanh": np.tanh,
    "logistic": ACTIVATIONS["jax.nn.sigmoid"],
    "erf": _erf,
    "erfc": lambda x: 1 - _erf(x),
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "square": np.square,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "neg": np.negative,
    "sign": np.sign,
    "relu": lambda x: np.maximum(x, 0),
}
_REDUCED: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "mean": np.mean,
    "largest": np.max,
    "smallest": np.min,
    "product": np.prod,
}
_REDUCES = {"reduce_sum": "sum", "reduce_max": "largest", "reduce_min": "smallest", "reduce_prod": "product"}
# What a GELU is made of: the exact one and the approximation part within.
_WITHIN: dict[str, _Function] = {
    "erf(x / sqrt(2))": lambda x: _erf(x / math.sqrt(2)),
    "1 + erf(x / sqrt(2))": lambda x: 1 + _erf(x / math.sqrt(2)),
    "tanh of GELU's cubic": lambda x: np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "1 + tanh of GELU's cubic": lambda x: 1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}
_SIMPLE = {**{name: of for name, of in ACTIVATIONS.items() if name != "jax.nn.softmax"}, **_WITHIN}
_WHOLE = {"erf": "jax.nn.gelu(approximate=False)", "tanh": "jax.nn.gelu(approximate=True)"}


def unary_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a function of one argument in whose place another gives the reference's value."""
    ours = {plain(cut.reference.operations[i].name) for i in cut.ours}
    names = sorted(_UNARY, key=lambda name: plain(name) not in ours)
    for i in reversed(cut.working[-_MOST:]):
        operation = cut.port.operations[i]
        if operation.name not in _UNARY or len(operation.inputs) != 1 or cut.port.values[operation.outputs[0]].size < 2:
            continue
        array = cut.port.arrays.get(operation.inputs[0])
        if array is None:
            continue
        for name in names:
            if name == operation.name:
                continue
            with np.errstate(all="ignore"):
                made = _UNARY[name](np.asarray(array, np.float64))
            if cut.works({operation.outputs[0]: made}):
                yield replace(_instead(plain(operation.name), plain(name)), operation=i)
                return


def whole_activation_causes(cut: Cut) -> Iterator[Finding]:
    """Yields the activations that make each side's value of one that both have, where both are known ones."""
    for value in cut.theirs_given:
        x = cut.port.arrays.get(value)
        if x is None or x.shape != cut.own.shape or not 4 <= x.size <= _LARGEST or cut.port.values[value].constant:
            continue
        x = np.asarray(x, np.float64)
        ours, theirs = _whole(x, cut.own), _whole(x, cut.wanted)
        if theirs == "no activation" and ours not in (None, "no activation", *_SINGLE, *_CLIPS):
            text = f"the port applies {ours} once more than the reference: leave it out"
            yield Finding(text, kind="function")
            return
        if ours and theirs and ours != theirs and "no activation" not in (ours, theirs):
            yield _instead(ours, theirs)
            return


def _whole(x: np.ndarray, after: np.ndarray) -> str | None:
    """Returns the name of the activation that makes one array of the other, with its slope where it has one."""
    with np.errstate(all="ignore"):
        few = [array.ravel()[:_SAMPLE] for array in (x, after)]
        for name, function in ACTIVATIONS.items():
            if name not in _NO_ACTIVATIONS and _equal(function(few[0]), few[1]) and _equal(function(x), after):
                return name
        negative = x < 0
        both = _EACH < negative.mean() < 1 - _EACH  # of one sign, any factor would do
        if not both or not _equal(x[~negative], after[~negative]):
            return None
        alpha, slope = (float(np.median(after[negative] / of(x[negative]))) for of in (np.expm1, lambda low: low))
        if _equal(elu(x, alpha), after):
            return f"jax.nn.elu(alpha={neat(alpha)})"
        return f"jax.nn.leaky_relu(negative_slope={neat(slope)})" if _equal(leaky_relu(x, slope), after) else None


def activation_causes(cut: Cut) -> Iterator[Finding]:
    """Yields the functions that make each side's value of one that both have, or a part of such a function."""
    for value in cut.theirs_given or [cut.exchange.port]:
        x = cut.port.arrays.get(value)
        if x is None or x.shape != cut.own.shape or x.size < 4 or cut.port.values[value].constant:
            continue
        x = np.asarray(x, np.float64)
        theirs = _recognised(x, cut.gives)
        if theirs is None or theirs == "no activation":
            continue
        # Where all numbers are positive, ELU and none at all are the same.
        ours = _recognised(x, lambda made: made.shape == cut.own.shape and _equal(made, cut.own))
        if ours is None:
            names = [plain(cut.port.operations[i].name) for i in cut.working]
            ours = next((name for name in reversed(names) if name in ("tanh", "sigmoid", "erf")), None)
        if ours in _WITHIN or theirs in _WITHIN:
            ours, theirs = (_gelu(name) for name in (ours, theirs))
        if ours is not None and theirs is not None and ours != theirs:
            yield _instead(ours, theirs)
            return


def group_causes(cut: Cut) -> Iterator[Finding]:
    """Yields another number of groups of a group norm."""
    for value in cut.theirs_given:
        x = cut.port.arrays.get(value)
        if x is None or cut.own.ndim < 3 or x.size != cut.own.size or x.size > _LARGEST:
            continue
        x = np.asarray(x, np.float64).reshape(cut.own.shape)  # its groups may be an axis already
        ours, theirs = (_groups(x, after, cut) for after in (cut.own, cut.wanted))
        if ours and theirs and ours != theirs:
            text = f"the norm has {ours} groups in the port where the reference has {theirs}"
            yield Finding(f"{text}: pass num_groups={theirs}", kind="reduction")
            return


def _groups(x: np.ndarray, after: np.ndarray, cut: Cut) -> int | None:
    """Returns with how many groups a norm makes one array of the other, up to a scale and a shift of each channel."""
    channels, rows = x.shape[-1], len(x)
    epsilons = {number for number in cut.known_numbers if 0 < number < 1e-2} or {1e-5, 1e-6}
    for count in (n for n in range(1, channels + 1) if channels % n == 0):
        grouped = x.reshape(rows, -1, count, channels // count)
        mean, variance = (of(grouped, (1, 3), keepdims=True) for of in (np.mean, np.var))
        for epsilon in epsilons:
            normal = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(-1, channels)
            made = after.reshape(-1, channels)
            centred = normal - normal.mean(0)
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = (centred * (made - made.mean(0))).sum(0) / (centred**2).sum(0)
            if np.isfinite(scale).all() and _equal(centred * scale + made.mean(0), made):
                return count
    return None


def reduction_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a reduction in whose place another, or one over other axes, gives the reference's value."""
    for i in reversed(cut.working):
        operation = cut.port.operations[i]
        if operation.name not in _REDUCES or len(operation.inputs) != 1:
            continue
        array = cut.port.arrays.get(operation.inputs[0])
        if array is None or array.size < 2 or "axes" not in operation.constants:
            continue
        axes, own = tuple(operation.constants["axes"]), _REDUCES[operation.name]
        shape = cut.port.values[operation.outputs[0]].shape
        for name, function in _REDUCED.items():
            if name != own and cut.works({operation.outputs[0]: function(array, axes)}):
                text = f"the port takes the {own} over axes {list(axes)} where the reference takes the {name}"
                yield Finding(text, kind="reduction", operation=i)
                return
        for other in itertools.combinations(range(array.ndim), len(axes)):
            made = _REDUCED[own](array, other)
            if other != axes and made.shape == shape and cut.works({operation.outputs[0]: made}):
                text = (
                    f"the port takes the {own} over axes {list(axes)} where the reference takes it over {list(other)}"
                )
                yield Finding(text, kind="reduction", operation=i)
                return


def _recognised(x: np.ndarray, fits: Callable[[np.ndarray], bool]) -> str | None:
    with np.errstate(all="ignore"):
        for name, function in _SIMPLE.items():
            if fits(np.asarray(function(x))):
                return name
        for axis in range(x.ndim - 1, -1, -1):
            shares = np.exp(x - x.max(axis, keepdims=True))
            shares = shares / shares.sum(axis, keepdims=True)
            for name, made in (("softmax", shares), ("log_softmax", np.log(shares))):
                if fits(made):
                    return f"jax.nn.{name}(axis={axis})"
    return None


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.abs(b).max(initial=0.0))
    return bool(np.isfinite(a).all()) and float(np.abs(a - b).max(initial=0.0)) <= 1e-9 * scale


def _gelu(name: str | None) -> str | None:
    """Returns the whole activation that a part belongs to."""
    if name is None:
        return None
    return next((whole for part, whole in _WHOLE.items() if part in name), name)


def _instead(ours: str, theirs: str) -> Finding:
    return Finding(f"the port applies {ours} where the reference applies {theirs}: use {theirs}", kind="function")
