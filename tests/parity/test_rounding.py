"""Honest ports that differ from their reference by rounding only, where it is seen or grows: none is accused."""

from collections.abc import Callable
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
from flax_impl.parity import Report
from flax_impl.parity.comparison.bounds import ADDED_UP, Bounds
from torch_ref.recording.rounding import tables_of

X = np.random.default_rng(0).normal(size=(6, 5, 4))


class Angles(torch.nn.Module):
    """Holds angles with the digits of float32, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.angles: torch.Tensor
        self.register_buffer("angles", 1 / 10 ** (torch.arange(4).float() / 3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.cos(torch.arange(5)[:, None].to(self.angles) * self.angles)


class Turned(torch.nn.Module):
    """A layer on what the angles turn, less its mean: the bias has no gradient but rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn, self.layer = Angles(), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.turn(x))
        return torch.sin(x - x.mean((0, 1), keepdim=True))


class PortOfTurned(nn.Module):
    """The same; makes the angles itself, from another base where that is asked for."""

    base: float = 10.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        angles = 1 / self.base ** (jnp.arange(4, dtype=self.dtype) / 3)
        x = x * jnp.cos(jnp.arange(5)[:, None] * angles)
        x = nn.Dense(3, name="layer", dtype=self.dtype)(x)
        return jnp.sin(x - x.mean((0, 1), keepdims=True))


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def checked(port: nn.Module, optimizer: Any, model: Callable[[], torch.nn.Module] = Turned) -> tuple[Any, Report]:
    settings = {"optimizer": optimizer, "progress": False}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        reference = torch_ref.record(model().double(), [{"x": X}] * 3, squares, **settings)
        return reference, flax_impl.check_parity(reference, port, squares, **settings)


@pytest.mark.parametrize("dtype", [None, jnp.float32])
@pytest.mark.parametrize("optimizer", [torch_ref.SGD(lr=0.1), torch_ref.Adam(lr=0.1)])
def test_a_table_in_float32_and_a_gradient_that_cancels(optimizer: Any, dtype: Any) -> None:
    reference, report = checked(PortOfTurned(dtype=dtype), optimizer)
    assert report.passed, report
    assert reference.metadata["tables"] == ["turn.angles"]
    assert ("the port computes in float32" in str(report)) == (dtype is not None)


def test_another_table_is_a_fault() -> None:
    assert not checked(PortOfTurned(10.001), torch_ref.SGD(lr=0.1))[1].passed


def test_what_rounding_does_to_a_training_is_measured() -> None:
    """Adam makes whole steps of a gradient that is rounding only, so two honest trainings part there."""
    reference, report = checked(PortOfTurned(), torch_ref.Adam(lr=0.1, eps=1e-30))
    assert report.passed, report
    assert Bounds(reference).free(2, "update", "layer.bias") > 1e-3
    exact = Bounds(checked(PortOfTurned(), torch_ref.SGD(lr=0.1), model=PlainlyTurned)[0])
    assert exact.free(2, "update", "layer.weight") == ADDED_UP


class PlainlyTurned(Turned):
    """The same with the angles in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.turn.angles = 1 / 10 ** (torch.arange(4).double() / 3)


def test_what_is_a_table() -> None:
    """Not a mask, a count, a module of torch's own, or what is trained."""
    model = Turned().double()
    assert list(tables_of(model)) == ["turn.angles"]
    model.turn.angles = torch.where(torch.arange(4) > 1, torch.finfo(torch.float32).min, 0.0).double()
    assert not tables_of(model)
    model.turn.plain = torch.rand(3)  # no buffer, so double() left it in float32
    assert list(tables_of(model)) == ["turn.plain"]
    assert not tables_of(torch.nn.BatchNorm1d(3).float().double())


class Frozen(torch.nn.Module):
    """Adds a table that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)
        self.table = torch.nn.Parameter(torch.rand(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.table


class PortOfFrozen(nn.Module):
    """The same."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        table = jax.lax.stop_gradient(self.param("table", nn.initializers.zeros, (3,)))
        return nn.Dense(3, name="layer")(x) + table


def test_a_frozen_parameter_that_decays_is_named() -> None:
    report = checked(PortOfFrozen(), torch_ref.AdamW(lr=0.1), Frozen)[1]
    assert [str(finding) for finding in report.diagnosis] == [
        "the port moves `table`, which the reference has frozen (requires_grad=False): keep the optimiser off, with "
        "optax.multi_transform and optax.set_to_zero"
    ]
    assert optax.multi_transform
    assert optax.set_to_zero


class Mixed(nn.Module):
    """The plain layer, which computes in a dtype of its own."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(nn.Dense(3, name="layer", dtype=self.dtype)(x).astype(x.dtype))


class Plain(torch.nn.Module):
    """The same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x))


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_the_precision_that_both_sides_are_written_in(dtype: Any) -> None:
    """In float64 the step agrees; the report says where less was written."""
    batch = {"x": X.astype(np.float32)}
    reference = torch_ref.recording.record_tape(Plain(), batch, squares, progress=False)
    with jax.numpy_dtype_promotion("standard"):
        report = flax_impl.parity.check_step(reference, Mixed(dtype), batch, squares, progress=False)
    assert report.passed
    told = " ".join(str(report).split())
    if dtype is None:
        assert report.precisions == []
        assert "precision" not in told
    else:
        assert "bfloat16 at tests/parity/test_rounding.py" in told
        assert "float32 in the reference (tests/parity/test_rounding.py" in told
        assert "return torch.tanh(self.layer(x))" in told
        assert report.to_json()["precisions"] == [str(precision) for precision in report.precisions]
