"""The other direction: the reference is in JAX, and what is held against it is a module in torch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

import flax_impl
import torch_ref
from flax_impl.parity import Finding, StepReport, check_parity, check_step, torch_state
from flax_impl.parity.conversion.conversion import Conversion
from flax_impl.parity.conversion.expressions import Cut, Entry, Joined, Moved, Summed
from flax_impl.parity.report.direction import exchanged, of_torch
from tests.parity.test_step import WIDTH, Block, Decoder, X, ported, separate, squares
from torch_ref.recording import record_tape, with_drawn_state, with_state


class Fault(Block):
    """A block in torch with a fault: a name of one, or none."""

    fault = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        eps = 1e-4 if self.fault == "epsilon" else 1e-5
        h = nn.functional.layer_norm(x, (WIDTH,), self.norm.weight, self.norm.bias, eps)
        q, k, v = (part.reshape(*x.shape[:2], 2, -1).transpose(1, 2) for part in self.qkv(h).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / (WIDTH // 2) ** 0.5
        mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
        mixed = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(x.shape)
        out = nn.functional.linear(mixed, self.out.weight, None if self.fault == "bias" else self.out.bias)
        x = x + out
        kind = "tanh" if self.fault == "gelu" else "none"
        hidden = nn.functional.gelu(self.hidden(x), approximate=kind)
        if self.fault == "detach":
            hidden = hidden.detach()
        return x + self.back(hidden)


def port_in_torch(fault: str) -> nn.Module:
    """Returns a port with weights of its own."""
    port = Decoder()
    torch.manual_seed(5)
    port.blocks = nn.ModuleList(Fault() for _ in range(len(port.blocks)))
    for block in port.blocks:
        setattr(block, "fault", fault)  # noqa: B010
    return port


def held_against_jax(fault: str) -> StepReport:
    batch, params = {"x": X}, separate(Decoder())
    port = port_in_torch(fault)
    with jax.numpy_rank_promotion("allow"):
        tape = record_tape(with_drawn_state(port), batch, squares)
        port = with_state(port, torch_state(tape, ported(), params, batch, squares))
        tape = record_tape(port, batch, squares)
        return check_step(tape, ported(), batch, squares, params=params, port="torch")


def test_the_references_weights_make_an_honest_port_agree() -> None:
    report = held_against_jax("")
    assert report.passed, str(report)
    assert "operations of jax" in str(report)


@pytest.mark.parametrize(
    ("fault", "line", "cause", "certain"),
    [
        (
            "epsilon",
            "nn.functional.layer_norm(",
            "epsilon is 1e-5 in the reference, 0.0001 in the port: use 1e-5",
            True,
        ),
        pytest.param("gelu", "functional.gelu(", "use torch.nn.functional.gelu", True, marks=pytest.mark.slow),
        # One iteration of a scan is mended, which proves little.
        pytest.param("bias", "x = x + out", "which the port does not: add it", False, marks=pytest.mark.slow),
        pytest.param(
            "detach",
            "hidden.detach()",
            "with detach(), the reference does not: take the detach() off",
            False,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_in_torch_is_found_and_named_for_torch(fault: str, line: str, cause: str, certain: bool) -> None:
    report = held_against_jax(fault)
    assert not report.passed
    place = report.to_json()["places"][0]
    assert any(line in found for found in place["port"]["lines"]), place["port"]
    assert any("test_step.py" in found for found in place["reference"]["lines"])
    assert cause in place["cause"][0]["text"]
    assert place["cause"][0]["certain"] == certain
    text = str(report)
    assert text.index("   reference ") < text.index("   port ")
    assert ("with the port's value put into the reference here" in text) == place["proved"]
    assert "<b>reference</b>" in report._repr_html_()


class LateHead(nn.Module):
    """A head on a body whose gradient is stopped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)).detach())


def late_head(params: Any, x: Any) -> Any:
    h = jnp.tanh(x @ params["w"] + params["a"][None])
    return h @ params["v"] + params["b"][None]


def stopped_head(params: Any, x: Any) -> Any:
    h = jax.lax.stop_gradient(jnp.tanh(x @ params["w"] + params["a"][None]))
    return h @ params["v"] + params["b"][None]


def test_a_gradient_that_torch_never_had_is_missed_by_nobody() -> None:
    """All of torch's gradients agree; what is behind its `detach` has none there, and one in the port."""
    model, batch = LateHead(), {"x": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = {
        "w": state["body.weight"].T, "a": state["body.bias"], "v": state["head.weight"].T, "b": state["head.bias"],
    }  # fmt: skip
    tape = record_tape(model, batch, squares)
    assert check_step(tape, stopped_head, batch, squares, params=params).passed
    report = check_step(tape, late_head, batch, squares, params=params)
    assert not report.passed
    place = report.to_json()["places"][0]
    assert any("detach()" in line for line in place["reference"]["lines"])
    assert any("jnp.tanh" in line for line in place["port"]["lines"])
    assert "put it through jax.lax.stop_gradient" in place["cause"][0]["text"]


@pytest.mark.usefixtures("x64")
def test_a_training_of_a_port_in_torch() -> None:
    model, batches = torch_ref.TwoInTwoOut(hidden_features=2), [torch_ref.data.curves(points=5) for _ in range(3)]
    twin = flax_impl.TwoInTwoOut(hidden_features=2)

    def trained(optimizer: Any) -> Any:
        return torch_ref.record(model.double(), batches, torch_ref.JointLoss(), optimizer=optimizer, progress=False)

    def held(optimizer: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return check_parity(
                trained(optimizer), twin, flax_impl.JointLoss(), optimizer=optax.adamw(1e-2, weight_decay=0.1),
                port="torch", progress=False,
            )  # fmt: skip

    assert held(lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1)).passed
    report = held(lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.1))
    assert report.port == "torch"
    assert report.diagnosis[0].text.startswith("the reference decays the parameters apart from the gradient")
    assert report.diagnosis[0].text.endswith("use torch.optim.AdamW")


def test_the_map_turned_round_gives_what_it_was_made_of() -> None:
    drawn = np.random.default_rng(0)
    shapes = {"qkv": (6, 4), "one": (2, 3), "two": (2, 3), "a": (5,), "b": (5,), "unused": (3,)}
    made = {
        "q": Moved(Cut(Entry("qkv"), 3, 0, 0), None, (1, 0), None),
        "k": Cut(Entry("qkv"), 3, 1, 0),
        "v": Cut(Entry("qkv"), 3, 2, 0),
        "both": Joined((Entry("one"), Entry("two")), 0, new=True),
        "bias": Summed((Entry("a"), Entry("b"))),
    }
    found = Conversion(made, shapes, unused=("unused",))
    state = {name: drawn.normal(size=shape) for name, shape in shapes.items()}
    weights = found.arrays(state)
    back = found.state(weights)
    assert sorted(back) == ["a", "b", "one", "qkv", "two"]
    assert not back["b"].any()
    for name in ("qkv", "one", "two"):
        np.testing.assert_array_equal(back[name], state[name])
    again = found.arrays(back)
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)


def test_weights_that_are_one_in_torch_must_agree() -> None:
    found = Conversion({"in": Entry("w"), "out": Moved(Entry("w"), None, (1, 0), None)}, {"w": (2, 3)})
    array = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(found.state({"in": array, "out": array.T})["w"], array)
    with pytest.raises(ValueError, match="expected out to be what it shares with others"):
        found.state({"in": array, "out": array.T + 1})
    with pytest.raises(ValueError, match="expected one named out, got none"):
        found.state({"in": array})


def test_the_sides_change_places_in_words_and_not_in_code() -> None:
    text = "the port adds `the port.w` at port.py:3, which the reference does not"
    assert exchanged(text).startswith("the reference adds")
    found = of_torch(Finding("the port takes what `x = a[b]: the port` gives where the reference takes what `y` gives"))
    assert found.text == "the reference takes what `x = a[b]: the port` gives where the port takes what `y` gives"
    flat = "the port flattens the axes of [2, 3, 4, 5] as they are: x.transpose(0, 3, 1, 2) before the reshape"
    assert of_torch(Finding(flat)).text.endswith("as they are: x.permute(0, 2, 3, 1) before the reshape")
    kept = "the running statistics keep 0.99 in the port, 0.9 in the reference: pass momentum=0.9"
    assert "keep 0.99 in the reference, 0.9 in the port: pass momentum=0.01" in of_torch(Finding(kept)).text
    missing = of_torch(Finding("the port does not multiply by 2, which the reference does", kind="missing"))
    assert (missing.kind, missing.text[-12:]) == ("extra", "leave it out")


def test_unusable_arguments() -> None:
    tape = record_tape(LateHead(), {"x": np.ones((5, 4), np.float32)}, squares)
    with pytest.raises(ValueError, match="port: expected one of"):
        check_step(tape, late_head, {"x": np.ones((5, 4), np.float32)}, squares, params={}, port="tensorflow")
    with pytest.raises(ValueError, match="port: expected a tape"):
        torch_state(None, late_head, {}, {}, squares)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state: expected entries of the module, got 'other'"):
        with_state(LateHead(), {"other": np.ones(2)})
    with pytest.raises(ValueError, match="state: expected entries of the module, got others"):
        with_state(LateHead(), {"body.bias": np.ones(2)})
