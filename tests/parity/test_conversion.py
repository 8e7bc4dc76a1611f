"""Weights found by their values: whatever a port stacks, joins, cuts or turns, the map is found, and prints as code."""

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from flax_impl.parity import check_step
from flax_impl.parity.conversion.expressions import Cut, Entry, Joined, Moved, Summed, layouts
from tests.parity.test_step import WIDTH, Decoder, X, ported, separate, squares
from torch_ref.recording import record_tape

FAR = np.random.default_rng(3)


def pasted(report: Any, state: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the printed code gives, run as a person would run it."""
    found: dict[str, Any] = {"np": np, "sd": {name: tensor.detach().numpy() for name, tensor in state.items()}}
    exec(str(report.weight_map), found)
    return found["params"]


def shapes_of(params: Any) -> Any:
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))


def same(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_stacked_layers_and_split_projections() -> None:
    model = Decoder()
    with jax.numpy_rank_promotion("allow"):
        tape = record_tape(model, {"x": X}, squares)
        wanted = separate(model)
        report = check_step(tape, ported(), {"x": X}, squares, shapes=shapes_of(wanted))
    assert report.passed
    assert report.weight_map is not None
    assert not report.weight_map.guessed
    same(report.convert(model.state_dict()), wanted)
    code = pasted(report, model.state_dict())
    same({name: code[name] for name in wanted}, wanted)


def test_given_weights_are_explained() -> None:
    model = Decoder()
    with jax.numpy_rank_promotion("allow"):
        tape = record_tape(model, {"x": X}, squares)
        report = check_step(tape, ported(), {"x": X}, squares, params=separate(model))
    code = pasted(report, model.state_dict())
    same({name: code[name] for name in separate(model)}, separate(model))


def test_a_port_with_a_fault_gets_its_weights_all_the_same() -> None:
    model = Decoder()
    with jax.numpy_rank_promotion("allow"):
        tape = record_tape(model, {"x": X}, squares)
        wanted = separate(model)
        report = check_step(tape, ported(eps=1e-3), {"x": X}, squares, shapes=shapes_of(wanted))
    assert not report.passed
    same(report.convert(model.state_dict()), wanted)


class Image(nn.Module):
    """A convolution, flattened, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(x)).flatten(1))


def test_channels_last_after_a_flatten() -> None:
    torch.manual_seed(0)
    model, x = Image(), FAR.normal(size=(2, 2, 4, 4)).astype(np.float32)

    def port(params: Any, x: Any) -> Any:
        x = jax.lax.conv_general_dilated(
            x.transpose(0, 2, 3, 1), params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params["bias"].reshape(1, 1, 1, -1)).reshape(len(x), -1)
        return x @ params["w"] + params["b"].reshape(1, -1)

    shapes = {"kernel": (3, 3, 2, 3), "bias": (3,), "w": (48, 5), "b": (5,)}
    tape = record_tape(model, {"x": x}, squares)
    report = check_step(tape, port, {"x": x}, squares, shapes={n: np.zeros(s, np.float32) for n, s in shapes.items()})
    assert report.passed, report
    assert 'sd["out.weight"].reshape(5, 3, 4, 4).transpose(2, 3, 1, 0).reshape(48, 5)' in str(report.weight_map)


class Scanned(linen.Module):
    """A cell of Linen's over the time steps."""

    cell: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> Any:
        return linen.RNN(self.cell(8), time_major=True)(x)


@pytest.mark.parametrize(
    ("kind", "cell"),
    [(nn.LSTM, linen.OptimizedLSTMCell), pytest.param(nn.GRU, linen.GRUCell, marks=pytest.mark.slow)],
    ids=["lstm", "gru"],
)
def test_gates_and_merged_biases(kind: Any, cell: Any) -> None:
    torch.manual_seed(0)
    x = FAR.normal(size=(3, 2, 4)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        tape = record_tape(kind(4, 8), {"x": x}, lambda model, x: (model(x)[0] ** 2).mean())
        report = check_step(tape, Scanned(cell), {"x": x}, squares)
    assert report.passed, report
    assert "bias_ih_l0" in str(report.weight_map)
    assert "bias_hh_l0" in str(report.weight_map)


def test_fresh_weights_of_zeros_go_by_their_names() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    for layer in model:
        nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def port(params: Any, x: Any) -> Any:
        for layer in params:
            x = x @ layer["kernel"] + layer["bias"].reshape(1, 1, -1)
        return x

    shapes = [{"kernel": np.zeros((WIDTH, WIDTH), "f"), "bias": np.zeros(WIDTH, "f")} for _ in range(2)]
    report = check_step(record_tape(model, {"x": X}, squares), port, {"x": X}, squares, shapes=shapes)
    assert report.passed
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    state = model.state_dict()
    for i, layer in enumerate(report.convert(state)):
        same(layer["kernel"], state[f"{i}.weight"].numpy().T)
        same(layer["bias"], state[f"{i}.bias"].numpy())


def test_what_is_missing_is_named() -> None:
    model = nn.Linear(WIDTH, 2)
    tape = record_tape(model, {"x": X}, squares)
    with pytest.raises(ValueError, match=r"params: expected the port's parameters, or their shapes in `shapes`"):
        check_step(tape, lambda params, x: x @ params["w"], {"x": X}, squares)
    report = check_step(tape, linen.Dense(2), {"x": X}, squares)
    with pytest.raises(ValueError, match=r"state: expected entries named .*bias"):
        report.convert({"weight": model.weight})
    with pytest.raises(ValueError, match=r"weight: expected shape"):
        report.convert({"weight": model.weight[:, 1:], "bias": model.bias})


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Moved(Entry("w"), None, (1, 0), None), 'sd["w"].T'),
        (Cut(Entry("w"), 3, 1, 0), 'np.split(sd["w"], 3)[1]'),
        (Summed((Entry("a"), Entry("b"))), '(sd["a"] + sd["b"])'),
        (Joined((Entry("a"), Entry("b")), 1), 'np.concatenate([sd["a"], sd["b"]], 1)'),
        (
            Joined(tuple(Entry(f"h.{i}.w") for i in range(4)), 0, new=True),
            'np.stack([sd[f"h.{i}.w"] for i in range(4)])',
        ),
    ],
)
def test_an_expression_is_code(made: Any, text: str) -> None:
    assert str(made) == text


def test_layouts_are_all_of_the_wanted_shape() -> None:
    array = FAR.normal(size=(6, 4))
    for wanted in ((4, 6), (4, 2, 3), (2, 3, 4), (24,), (4, 3, 2)):
        made = list(layouts(Entry("w"), array.shape, wanted))
        assert made
        assert all(layout.of({"w": array}).shape == wanted for layout in made)
        assert len(set(map(str, made))) == len(made)
