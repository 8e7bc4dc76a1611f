"""What a port does otherwise is named, each name by a tiny pair; a near miss is not named."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax import lax

from flax_impl.parity import StepReport, check_step
from torch_ref.recording import record_tape

WIDTH, HEADS, LENGTH = 8, 2, 4
DRAWN = np.random.default_rng(0)
X = DRAWN.normal(size=(3, LENGTH, WIDTH)).astype(np.float32)
IMAGE = DRAWN.normal(size=(2, 3, 6, 6)).astype(np.float32)
SHAPES = {"w": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "b": (WIDTH,), "s": (WIDTH,), "k": (4, 3, 3, 3), "m": (144, 5)}
WEIGHTS = {name: (0.4 * DRAWN.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


class Made(torch.nn.Module):
    """A function as a module, with the weights that it asks for."""

    def __init__(self, function: Callable[..., torch.Tensor], names: str) -> None:
        super().__init__()
        self.function = function
        for name in names:
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(WEIGHTS[name])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.parameters())


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def report_of(
    reference: Callable[..., Any], port: Callable[..., Any], names: str, x: np.ndarray = X, loss: Any = squares
) -> StepReport:
    tape = record_tape(Made(reference, names), {"x": x}, loss)
    params = {name: WEIGHTS[name] for name in names}
    with jax.numpy_rank_promotion("allow"):
        return check_step(tape, lambda p, x: port(x, *(p[n] for n in names)), {"x": x}, loss, params=params)


def norm(x: Any, eps: float = 1e-5, ddof: int = 0) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps)


def grouped(x: Any, count: int) -> Any:
    parts = x.reshape(*x.shape[:-1], count, -1)
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    return ((parts - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)


def heads(x: Any) -> Any:
    return x.reshape(x.shape[0], LENGTH, HEADS, -1)


def angles(of: Any) -> tuple[Any, Any]:
    positions = of.arange(LENGTH)[:, None] * of.asarray([1.0, 0.1, 0.01, 0.001])[None]
    return of.cos(positions), of.sin(positions)


def turned_torch(x: torch.Tensor) -> torch.Tensor:
    cos, sin = angles(torch)
    a, b = x[..., :4], x[..., 4:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def turned(x: Any) -> Any:
    """A rotary embedding of pairs side by side."""
    cos, sin = angles(jnp)
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


def scores(q: Any, k: Any, scale: float, of: Any) -> Any:
    return of.einsum("bqhd,bkhd->bhqk", heads(q), heads(k)) / scale


def causal(diagonal: int) -> Any:
    return jnp.tril(jnp.ones((LENGTH, LENGTH), bool), diagonal)


def of_torch_attention(x: Any, w: Any, v: Any) -> Any:
    found = scores(x @ w, x @ v, 2.0, torch)
    return found.masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf).softmax(-1)


def attention(diagonal: int = 0, scale: float = 2.0, swapped: bool = False) -> Any:
    def run(x: Any, w: Any, v: Any) -> Any:
        w, v = (v, w) if swapped else (w, v)
        return jax.nn.softmax(jnp.where(causal(diagonal), scores(x @ w, x @ v, scale, jnp), -1e9))

    return run


def convolution(padding: Any = ((1, 1), (1, 1)), stride: int = 1, dilation: int = 1) -> Any:
    numbers = ("NCHW", "OIHW", "NCHW")
    return lambda x, k: lax.conv_general_dilated(
        x, k, (stride, stride), padding, rhs_dilation=(dilation, dilation), dimension_numbers=numbers
    )


def pooled(x: Any, count: bool) -> Any:
    window = ((1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = lax.reduce_window(x, 0.0, lax.add, *window)
    return sums / (9 if count else lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, *window))


def flat(of: Callable[..., Any], x: Any, kernel: Any, weight: Any) -> Any:
    return of(x, kernel).reshape(len(x), -1) @ weight


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], str, np.ndarray, str]] = {
    "epsilon": (
        lambda x, s, b: F.layer_norm(x, (WIDTH,), s, b),
        lambda x, s, b: norm(x, 1e-6) * s + b,
        "sb", X, "epsilon is 1e-6 in the port, 1e-5 in the reference: pass epsilon=1e-5",
    ),
    "epsilon, fast variance": (
        lambda x, w, s, b: F.layer_norm(x @ w, (WIDTH,), s, b, eps=1e-12),
        lambda x, w, s, b: norm(x @ w, 1e-3) * s + b,
        "wsb", X, "epsilon is 0.001 in the port, 1e-12 in the reference: pass epsilon=1e-12",
    ),
    "gelu": (lambda x, w: F.gelu(x @ w), lambda x, w: jax.nn.gelu(x @ w), "w", X, "use jax.nn.gelu(approximate=False)"),
    "silu": (lambda x, w: F.silu(x @ w), lambda x, w: jax.nn.gelu(x @ w), "w", X, "use jax.nn.silu"),
    "slope": (
        lambda x, w: F.leaky_relu(x @ w, 0.2), lambda x, w: jax.nn.leaky_relu(x @ w), "w", X,
        "use jax.nn.leaky_relu(negative_slope=0.2)",
    ),
    "elu": (lambda x, w: F.elu(x @ w), lambda x, w: jax.nn.elu(x @ w, 0.5), "w", X, "0.5"),
    "residual": (
        lambda x, w, v: (x @ w) + (x @ w).tanh() @ v, lambda x, w, v: jnp.tanh(x @ w) @ v, "wv", X,
        "does not add what",
    ),
    "bias": (lambda x, w, b: x @ w + b, lambda x, w, b: x @ w, "wb", X, "does not add the parameter `b`"),
    "norm's scale": (
        lambda x, s, b: F.layer_norm(x, (WIDTH,), s, b), lambda x, s, b: norm(x) + b, "sb", X,
        "does not multiply by the parameter `s`",
    ),
    "norm": (
        lambda x, w, v: F.layer_norm(x @ w, (WIDTH,)) @ v, lambda x, w, v: x @ w @ v, "wv", X, "norm",
    ),
    "unbiased variance": (
        lambda x, w: F.layer_norm(x @ w, (WIDTH,)), lambda x, w: norm(x @ w, ddof=1), "w", X,
        "divides by 7 where the reference has 8",
    ),
    "scale": (of_torch_attention, attention(scale=8.0), "wv", X, "divides by 8 where the reference has 2"),
    "mask": (of_torch_attention, attention(1), "wv", X, "jnp.tril(..., 0)"),
    "query and key": (of_torch_attention, attention(swapped=True), "wv", X, "order"),
    "softmax axis": (
        lambda x, w: (x @ w).softmax(-1), lambda x, w: jax.nn.softmax(x @ w, 1), "w", X,
        "jax.nn.softmax(axis=1) where the reference applies jax.nn.softmax(axis=2)",
    ),
    "concatenation": (
        lambda x, w: torch.cat([x @ w, x.tanh()], -1), lambda x, w: jnp.concatenate([jnp.tanh(x), x @ w], -1),
        "w", X, "the halves of axis 2 are exchanged",
    ),
    "rotary": (
        lambda x, w: turned_torch(x @ w), lambda x, w: turned(x @ w), "w", X, "pairs the neighbours of the last axis",
    ),
    "wrong weight": (lambda x, w, v: x @ w @ v, lambda x, w, v: x @ w @ w, "wv", X, "takes the parameter `w`"),
    "transposed weight": (lambda x, w: x @ w, lambda x, w: x @ w.T, "w", X, "transposed"),
    "mean for sum": (lambda x, w: (x @ w).sum(1), lambda x, w: (x @ w).mean(1), "w", X, "4"),
    "heads": (
        lambda x, w: (x @ w).reshape(3, LENGTH, HEADS, 4).transpose(1, 2).softmax(-1),
        lambda x, w: jax.nn.softmax((x @ w).reshape(3, HEADS, LENGTH, 4)), "w", X, "order",
    ),
    "repeat against tile": (
        lambda x, w: heads(x @ w).repeat_interleave(2, 2).softmax(-1) * torch.arange(1, 5)[:, None],
        lambda x, w: jax.nn.softmax(jnp.tile(heads(x @ w), (1, 1, 2, 1))) * jnp.arange(1, 5)[:, None],
        "w", X, "order",
    ),
    "channels last": (
        lambda x, k, m: flat(lambda x, k: F.conv2d(x, k, padding=1), x, k, m),
        lambda x, k, m: flat(lambda x, k: convolution()(x, k).transpose(0, 2, 3, 1), x, k, m), "km", IMAGE,
        "x.transpose(0, 3, 1, 2)",
    ),
    "average pool": (
        lambda x, k: F.avg_pool2d(F.conv2d(x, k, padding=1), 3, 2, 1), lambda x, k: pooled(convolution()(x, k), False),
        "k", IMAGE, "9",
    ),
    "padding": (
        lambda x, k: F.conv2d(x, k, padding=1, stride=2), convolution("SAME", 2), "k", IMAGE, "padding",
    ),
    "clipped": (lambda x, w: (x @ w).exp(), lambda x, w: jnp.exp(jnp.clip(x @ w, -1, 1)), "w", X, "clips to -1 and 1"),
    "sign": (lambda x, w: x - x @ w, lambda x, w: x + x @ w, "w", X, "adds where the reference subtracts"),
    "stopped": (
        lambda x, w, v: (x @ w).tanh() @ v, lambda x, w, v: lax.stop_gradient(jnp.tanh(x @ w)) @ v, "wv", X,
        "stop_gradient",
    ),
    "no epsilon": (
        lambda x, w: F.layer_norm(x @ w, (WIDTH,)), lambda x, w: norm(x @ w, 0.0), "w", X,
        "does not add 1e-5",
    ),
    "one half twice": (
        lambda x, w, v: torch.cat([(x @ w).tanh(), (x @ v).sin()], -1).softmax(-1),
        lambda x, w, v: jax.nn.softmax(jnp.concatenate([jnp.tanh(x @ w), jnp.tanh(x @ w)], -1)), "wv", X,
        "both halves of axis 2 are the first one",
    ),
    "kink": (
        lambda x, s: (x * s).relu() + 1, lambda x, s: jnp.maximum(x * s, 0) + 1, "s", np.where(X > 0.5, 0, X),
        "is at its kink",
    ),
    "elu twice": (
        lambda x, w: F.elu(x @ w).sin(), lambda x, w: jnp.sin(jax.nn.elu(jax.nn.elu(x @ w))), "w", X,
        "applies jax.nn.elu once more",
    ),
    "groups of a norm": (
        lambda x, w: F.group_norm((x @ w).transpose(1, 2), 2).transpose(1, 2).tanh(),
        lambda x, w: jnp.tanh(grouped(x @ w, 4)), "w", X, "has 4 groups in the port where the reference has 2",
    ),
    "running sum": (lambda x, w: (x @ w).cumsum(1), lambda x, w: x @ w, "w", X, "does not do what the reference does"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """As in most people's code."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if i % 5 else []) for i, case in enumerate(CASES)]
)
def test_a_difference_is_named(case: str) -> None:
    reference, port, names, x, words = CASES[case]
    report = report_of(reference, port, names, x)
    assert not report.passed
    causes = report.causes[0]
    assert causes, report
    assert words in causes[0].text, causes


NEAR: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "an activation of its own": (lambda x, w: F.gelu(x @ w), lambda x, w: (x @ w) * jnp.sin(x @ w), "w"),
    "two functions at once": (lambda x, w: (x @ w).tanh() * 2, lambda x, w: jnp.sin(1.1 * (x @ w)) * 3, "w"),
    "a mask and another function": (
        lambda x, w: (x @ w).relu() * 2, lambda x, w: jnp.where(x @ w > 0.1, jnp.sin(x @ w), 0.3), "w",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NEAR)
def test_a_near_miss_is_not_named(case: str) -> None:
    reference, port, names = NEAR[case]
    report = report_of(reference, port, names)
    assert not report.passed
    assert not any(cause.certain for causes in report.causes for cause in causes), report
    assert not report.causes[0], report


def half(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean() / 2


def summed(model: Any, x: Any) -> Any:
    return (model(x) ** 2).sum()


@pytest.mark.parametrize(
    ("loss", "words"),
    [(half, "half the reference's, as optax.l2_loss has it"), (summed, "a sum where that is a mean over 96")],
)
def test_a_factor_of_the_whole_loss(loss: Any, words: str) -> None:
    tape = record_tape(Made(lambda x, w: (x @ w).tanh(), "w"), {"x": X}, squares)
    params = {"w": WEIGHTS["w"]}
    report = check_step(tape, lambda p, x: jnp.tanh(x @ p["w"]), {"x": X}, loss, params=params)
    assert report.causes[0], report
    assert words in report.causes[0][0].text
    assert report.causes[0][0].certain


def test_a_turned_output_of_the_same_shape_differs() -> None:
    """Though every loss and gradient agrees: of two shapes it would be a layout."""
    square = X[:, :, :LENGTH]
    weight = WEIGHTS["w"][:LENGTH, :LENGTH]
    model = Made(lambda x, w: (x @ w[:LENGTH, :LENGTH]).tanh(), "w")
    tape = record_tape(model, {"x": square}, squares)
    turned = check_step(
        tape, lambda p, x: jnp.tanh(x @ weight).swapaxes(1, 2), {"x": square}, squares, params={"w": WEIGHTS["w"]}
    )
    assert not turned.passed
    assert "transpose" in str(turned)


def test_weights_that_differ_have_no_name() -> None:
    tape = record_tape(Made(lambda x, w: (x @ w).tanh(), "w"), {"x": X}, squares)
    params = {"w": WEIGHTS["w"] + 0.01 * WEIGHTS["w"] ** 2}
    report = check_step(tape, lambda p, x: jnp.tanh(x @ p["w"]), {"x": X}, squares, params=params)
    assert report.causes[0] == ()


def test_a_cause_is_shown() -> None:
    reference, port, names, x, words = CASES["epsilon"]
    report = report_of(reference, port, names, x)
    assert f"   cause      {words}" in str(report)
    assert report.to_json()["places"][0]["cause"] == [{"text": words, "certain": True}]


def test_an_error_costs_the_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr("flax_impl.parity.naming.names.Cut.of", broken)
    reference, port, names, x, _ = CASES["epsilon"]
    report = report_of(reference, port, names, x)
    assert report.causes == ((),)
    assert report.places[0].proved
