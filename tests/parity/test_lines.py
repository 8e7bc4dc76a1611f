"""check_parity names the lines of a fault on both sides, of the step that it first shows in."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.parity import Report, html_page, load_trace

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


class Net(torch.nn.Module):
    """Two layers, the second one of which another module holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.silu(self.first(x)))


class Port(nn.Module):
    """The same, and a fault of choice."""

    fault: str = ""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(5, name="first", dtype=self.dtype)(x)
        x = jax.nn.gelu(x) if self.fault == "gelu" else jax.nn.silu(x)
        x = 3 * x if self.fault == "scaled" else x
        if self.fault == "stopped":
            x = jax.lax.stop_gradient(x)
        return nn.Dense(2, name="second", dtype=self.dtype)(x)


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def recorded(**settings: Any) -> Any:
    batches = [{"x": X}, {"x": X + 1}]
    return torch_ref.record(Net(), batches, squares, optimizer=torch_ref.SGD(lr=0.1), progress=False, **settings)


def checked(reference: Any, port: nn.Module) -> Report:
    with jax.numpy_dtype_promotion("standard"):
        return flax_impl.check_parity(reference, port, squares, optimizer=optax.sgd(0.1), progress=False)


def test_the_lines_travel_with_the_trace(tmp_path: Path) -> None:
    reference = recorded()
    reference.save(tmp_path / "trace.safetensors")
    loaded = load_trace(tmp_path / "trace.safetensors")
    assert list(loaded.tapes) == [0]
    assert [str(o) for o in loaded.tapes[0].operations] == [str(o) for o in reference.tapes[0].operations]
    assert loaded.arrays.keys() == reference.arrays.keys()
    for name, array in reference.tapes[0].arrays.items():
        np.testing.assert_array_equal(loaded.tapes[0].arrays[name], array)
    report = checked(loaded, Port("gelu"))
    assert "torch.nn.functional.silu(self.first(x))" in str(report)
    assert 'jax.nn.gelu(x) if self.fault == "gelu"' in " ".join(str(report).split())


@pytest.mark.parametrize(
    ("fault", "of_torch", "of_port"),
    [
        ("gelu", "torch.nn.functional.silu", "jax.nn.gelu(x)"),
        ("scaled", "self.second(", "3 * x"),
        ("stopped", "torch.nn.functional.silu", "jax.lax.stop_gradient(x)"),
    ],
)
def test_a_fault_has_a_line_on_both_sides(fault: str, of_torch: str, of_port: str) -> None:
    report = checked(recorded(), Port(fault))
    assert not report.passed
    assert report.operations is not None
    place = report.operations.to_json()["places"][0]
    assert of_torch in place["reference"]["lines"][0]
    assert of_port in " ".join(place["port"]["lines"])
    assert "<h3>Operations</h3>" in html_page([report])


def shown(model: Any, x: Any) -> Any:
    return model(x + 1)


@pytest.mark.parametrize("fault", ["", "gelu"])
def test_forward_has_lines_of_its_own(fault: str, tmp_path: Path) -> None:
    """What `forward` computes may go another way than the loss: both are recorded."""
    recorded(forward=shown).save(tmp_path / "trace.safetensors")
    reference = load_trace(tmp_path / "trace.safetensors")
    assert list(reference.forward_tapes) == [0]

    def other(model: Any, x: Any) -> Any:
        return shown(model, jnp.sin(x)) if fault else shown(model, x)

    with jax.numpy_dtype_promotion("standard"):
        settings = {"optimizer": optax.sgd(0.1), "progress": False}
        report = flax_impl.check_parity(reference, Port(), squares, forward=other, **settings)
    assert report.passed is not bool(fault)
    if fault:
        assert report.operations is not None
        assert "jnp.sin(x)" in " ".join(str(report.operations).split())
        assert "applies sin" in report.diagnosis[0].text


def test_a_step_without_a_tape_says_how_to_get_one() -> None:
    report = checked(recorded(tapes=[1]), Port("gelu"))
    assert report.operations is None
    assert "torch_ref.record(..., tapes=[0])" in str(report)
    assert recorded(tapes=()).tapes == {}


def in_float64(port: nn.Module) -> Report:
    with jax.enable_x64(True):
        batch, sgd = {"x": X.astype(np.float64)}, torch_ref.SGD(lr=0.1)
        reference = torch_ref.record(Net().double(), [batch], squares, optimizer=sgd, progress=False)
        return checked(reference, port)


def test_a_port_may_compute_in_float32_beside_a_float64_reference() -> None:
    """As it would in a float32 training; the report says where."""
    report = in_float64(Port(dtype=jnp.float32))
    assert report.passed
    assert "the port computes in float32 at 3 lines, and was run in float64 there" in str(report)
    assert 'name="first", dtype=self.dtype)(x)' in str(report)
    assert not in_float64(Port("gelu", jnp.float32)).passed
    assert in_float64(Port()).in_float32 == ()


def test_precision_is_said_to_be_no_other_operation() -> None:
    report = in_float64(Port(dtype=jnp.bfloat16))
    assert not report.passed
    told = " ".join(str(report).split())
    assert "what differs is the precision it is computed in" in told
    assert "bfloat16 at tests/parity/test_lines.py" in told


def test_a_step_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tapes: expected steps from 0 to 1, got 2"):
        recorded(tapes=[2])
