"""A port that computes in bfloat16 beside a float64 reference: its rounding is none of its faults."""

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from flax_impl.parity import StepReport, check_step
from flax_impl.parity.recording.operations.numbers import exact_numbers, unrounded
from torch_ref.common.tape.tape import Operation
from torch_ref.common.tape.writer import TapeWriter
from torch_ref.recording import record_tape

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


class Reference(nn.Module):
    """GELU by its formula, and a scale that no short number is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.up(x) * 8**-0.25
        return self.down(0.5 * h * (1 + torch.tanh(0.7978845608 * (h + 0.044715 * h**3))))


class Port(linen.Module):
    """The same in bfloat16; `cubic` may be off."""

    cubic: float = 0.044715

    @linen.compact
    def __call__(self, x: Any) -> Any:
        h = linen.Dense(8, dtype=jnp.bfloat16, name="up")(x)
        h = h / 8**0.25
        h = 0.5 * h * (1 + jnp.tanh(0.7978845608 * (h + self.cubic * h**3)))
        return linen.Dense(3, dtype=jnp.bfloat16, name="down")(h)


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def checked(port: Port) -> StepReport:
    with jax.numpy_dtype_promotion("standard"):
        return check_step(record_tape(Reference(), {"x": X}, squares), port, {"x": X}, squares)


def test_rounding_is_no_fault() -> None:
    report = checked(Port())
    assert report.passed, str(report)
    assert {precision.port for precision in report.precisions} == {"bfloat16"}


@pytest.mark.parametrize("cubic", [0.044715 * 1.01, 0.044715 / 1.01])
def test_one_in_a_hundred_is(cubic: float) -> None:
    report = checked(Port(cubic))
    assert not report.passed
    place = report.to_json()["places"][0]
    assert any("self.cubic" in line for line in place["port"]["lines"])
    assert any("0.044715" in line for line in place["reference"]["lines"])
    assert "0.044715" in place["cause"][0]["text"]


def test_a_literal_is_the_references_number_or_its_power() -> None:
    writer = TapeWriter()
    x = writer.value(np.arange(3.0), "float32")
    writer.operations.append(Operation("aten.mul", (x,), (x,), {"other": 8**-0.25}))
    numbers = exact_numbers(writer.finish("torch"))

    def rounded(number: float) -> float:
        return float(np.asarray(number).astype(jnp.bfloat16).astype(float))

    for number in (8**-0.25, 8**0.25, 8**0.5, 8**-0.5, 2 / np.sqrt(np.pi)):
        assert unrounded(rounded(number), "bfloat16", numbers) == pytest.approx(number, rel=1e-12)
        assert unrounded(-rounded(number), "bfloat16", numbers) == pytest.approx(-number, rel=1e-12)
    assert unrounded(rounded(8**-0.25 * 1.01), "bfloat16", numbers) == rounded(8**-0.25 * 1.01)
