"""Recording: by hand values, on any module, which is left as it was; and the same by both sides."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import flax_impl
import torch_ref
from flax_impl.parity import scaled_difference
from torch_ref.recording.calls import Capture, rows_of_calls

X = np.array([[1.0, 2.0], [3.0, -1.0]])
Y = np.array([[1.0], [0.0]])
BATCH = {"x": X, "y": Y}


def squares(model: Any, x: Any, y: Any) -> Any:
    return ((model(x) - y) ** 2).mean()


def linear() -> torch.nn.Linear:
    model = torch.nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -1.0]]))
        model.bias.fill_(0.25)
    return model


def record(
    model: torch.nn.Module, batches: Any = (BATCH,), loss: Any = squares, **more: Any
) -> torch_ref.recording.Trace:
    return torch_ref.record(model, batches, loss, progress=False, **more)


def test_hand_values() -> None:
    model = torch.nn.Sequential(linear())
    arrays = record(model, optimizer=torch_ref.SGD(lr=0.1, momentum=0.9)).arrays
    # outputs 0.5 - 2 + 0.25 = -1.25 and 1.5 + 1 + 0.25 = 2.75; errors -2.25 and 2.75; the mean halves what 2 doubles
    np.testing.assert_allclose(arrays["0/activation/0"], [[-1.25], [2.75]])
    np.testing.assert_allclose(arrays["0/output/0"], [[-1.25], [2.75]])
    np.testing.assert_allclose(arrays["0/loss/0"], (2.25**2 + 2.75**2) / 2)
    np.testing.assert_allclose(arrays["0/cotangent/0"], [[-2.25], [2.75]])
    np.testing.assert_allclose(arrays["0/grad/0.weight"], [[-2.25 + 3 * 2.75, -4.5 - 2.75]])
    np.testing.assert_allclose(arrays["0/grad/0.bias"], [0.5])
    np.testing.assert_allclose(arrays["0/grad/x"], np.outer([-2.25, 2.75], [0.5, -1.0]))
    np.testing.assert_allclose(arrays["0/state/0.bias.momentum_buffer"], [0.5])
    np.testing.assert_allclose(arrays["0/update/0.bias"], [0.25 - 0.05])
    np.testing.assert_allclose(arrays["0/param/0.bias"], [0.25])


def test_the_model_and_the_optimiser_are_left_as_they_were() -> None:
    model = torch.nn.Sequential(linear(), torch.nn.BatchNorm1d(1).double())
    optimizer = torch.optim.Adam(model.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace = record(model, [BATCH] * 3, optimizer=optimizer)
    assert trace.metadata["optimizer"]["name"] == "Adam"
    assert not optimizer.state
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not np.array_equal(trace.arrays["2/update/0.weight"], trace.arrays["0/param/0.weight"])
    assert trace.metadata["buffers"] == ["1.running_mean", "1.running_var"]


def test_what_works_in_place_does_not_change_the_record() -> None:
    model = torch.nn.Sequential(linear(), torch.nn.ReLU(inplace=True))
    arrays = record(model).arrays
    np.testing.assert_allclose(arrays["0/activation/0"], [[-1.25], [2.75]])
    np.testing.assert_allclose(arrays["0/activation/1"], [[0], [2.75]])
    np.testing.assert_allclose(arrays["0/cotangent/0"], [[0], [2.75]])


def test_frozen_tied_and_unused_parameters() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Linear(2, 2) for _ in range(3))
            self.b.weight = self.a.weight
            self.a.bias.requires_grad_(False)
            self.register_buffer("scratch", torch.ones(1), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)).sum(1, keepdim=True)

    trace = record(Odd().double(), [BATCH] * 2)
    assert set(trace.phase(0, "param")) == {"a.weight", "a.bias", "b.bias", "c.weight", "c.bias"}
    assert trace.metadata["frozen"] == ["a.bias"]
    assert not trace.arrays["0/grad/c.weight"].any()
    np.testing.assert_array_equal(trace.arrays["1/update/c.weight"], trace.arrays["0/param/c.weight"])
    np.testing.assert_array_equal(trace.arrays["1/update/a.bias"], trace.arrays["0/param/a.bias"])


def test_a_module_that_is_called_twice_has_two_entries() -> None:
    class Siamese(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * self.layer(z)

    trace = record(Siamese(), [{"x": X, "z": 2 * X, "y": Y}], lambda model, x, z, y: ((model(x, z) - y) ** 2).mean())
    assert trace.metadata["calls"] == ["layer", "layer#1"]
    assert trace.metadata["inputs"] == ["x", "z"]
    np.testing.assert_allclose(trace.arrays["0/activation/layer#1"], [[-2.75], [5.25]])


def test_a_loss_that_splits_the_batch_is_followed_row_by_row() -> None:
    """Even where rows are equal: which is which is told by a number, not by what they hold."""
    model = torch_ref.TwoHead(3, [4], [2]).double()
    x = np.repeat(np.random.default_rng(0).normal(size=(3, 3)), 2, axis=0)
    t = np.array([0, 1, 0, 1, 1, 0], np.int32)
    batch = {"x": x, "t": t, "y": np.arange(6.0)[:, None]}

    def forward(model: Any, x: Any, **batch: Any) -> Any:
        return model(x)

    trace = record(model, [batch], torch_ref.FactualLoss(), forward=forward)
    for head, rows in (("head0", t == 0), ("head1", t == 1)):
        cotangent = trace.arrays[f"0/cotangent/{head}.layer1"]
        assert (np.abs(cotangent[rows]) > 0).all()
        assert not cotangent[~rows].any()
    assert (np.abs(trace.arrays["0/cotangent/representation"]).sum(1) > 0).all()
    assert "0/activation/head0" not in record(model, [batch], torch_ref.FactualLoss()).arrays  # nowhere are all rows


def test_rows_that_are_mixed_are_not_guessed() -> None:
    model, x = linear(), torch.tensor(X)

    def both(model: Any, x: Any) -> Any:
        return (model(x[:1]) + model(x.mean(0, keepdim=True))).sum()

    with Capture(model) as seen:
        both(model, x)
    assert rows_of_calls(seen.roots, both, {"x": x}, ["x"]) is None
    trace = record(model, [{"x": X}], both)
    assert set(trace.phase(0, "output")) == {"0", "1"}


def test_float32_comes_with_its_own_noise() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    trace = record(model, [BATCH] * 2)
    assert trace.dtype == "float32"
    assert trace.arrays["0/grad/0.weight"].dtype == np.float64
    noise = trace.phase(1, "noise")
    entries = {
        f"{phase}/{name}" for phase in ("activation", "grad", "state", "update") for name in trace.phase(1, phase)
    }
    assert entries <= set(noise)
    assert 0 < noise["grad/0.weight"] < 1e-5
    start = trace.arrays["0/param/0.weight"]
    np.testing.assert_array_equal(start, start.astype(np.float32))
    assert trace.params(1)["0.weight"].dtype == np.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Sequential(linear(), torch.nn.Dropout(0.5)),
        lambda: torch.nn.TransformerEncoderLayer(2, 1, 2, dropout=0.1, batch_first=True).double(),
    ],
)
def test_dropout_that_draws_is_refused(make: Callable[[], torch.nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"^model: expected no dropout that draws.*eval\(\)"):
        record(make())
    record(make().eval(), loss=lambda model, x, y: model(x).sum())


class Written(torch.nn.Linear):
    """Multiplies by a number in the default dtype, and adds a mask that its own dtype's smallest number fills."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        filled = torch.full((1,), torch.finfo(self.weight.dtype).min / (2 if self.lifts else 1e300))
        return super().forward(input) * torch.tensor(0.3) + 0 * filled

    lifts = False


def test_what_a_model_makes_in_the_default_dtype() -> None:
    """It is recorded in float64: a number has the digits that it is written with, and a mask its dtype's smallest."""
    batch = {"x": np.ones((3, 2))}
    model = Written(2, 1).double()
    trace = torch_ref.record(model, [batch], lambda model, x: model(x).sum(), tapes=(), progress=False)
    with torch.no_grad():
        exact = torch.nn.functional.linear(torch.ones(3, 2).double(), model.weight, model.bias).sum() * 0.3
    np.testing.assert_allclose(trace.arrays["0/loss/0"], exact.numpy(), rtol=1e-15)
    single = Written(2, 1)
    single.lifts = True
    assert torch_ref.record(single, [batch], lambda model, x: model(x).sum(), tapes=(), progress=False).steps == 1
    assert torch.get_default_dtype() == torch.float32


def test_unknown_inputs_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs: expected one of 'x', 'y', got 'z'"):
        record(linear(), inputs=["z"])
    with pytest.raises(ValueError, match="dtype of the model: expected one of 'float32', 'float64', got 'float16'"):
        record(linear().half())


@pytest.mark.usefixtures("x64")
def test_both_sides_record_the_same() -> None:
    """The port by itself: from its own parameters, under torch's names by the one rule."""
    torch_model = torch_ref.TwoInTwoOut(2, [4, 3]).double()
    model = flax_impl.TwoInTwoOut(2, [4, 3])
    generator = np.random.default_rng(0)
    batches = [{name: generator.normal(size=(5, 2)) for name in ("x1", "x2")} for _ in range(3)]
    batches = [{**batch, "y1": batch["x1"][:, :1], "y2": batch["x2"][:, :1]} for batch in batches]
    reference = record(torch_model, batches, torch_ref.JointLoss())
    params = flax_impl.models.from_numpy(model, torch_ref.models.to_numpy(torch_model))
    found = flax_impl.record(model, params, batches, flax_impl.JointLoss(), progress=False)
    arrays = {key: array for key, array in reference.arrays.items() if "/noise/" not in key}
    assert found.arrays.keys() == arrays.keys()
    assert found.metadata["calls"] == reference.metadata["calls"]
    assert max(scaled_difference(found.arrays[key], array) for key, array in arrays.items()) < 1e-12


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1, name="out")(nn.BatchNorm(use_running_average=False, name="norm")(x))


class Parent(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


class Child(Parent):
    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * super().__call__(x)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_the_port_records_any_module(kind: str) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x, y = X.astype(np.float32), Y.astype(np.float32)
        if kind == "linen":
            model: Any = LinenNorm()
            params: Any = model.init(jax.random.key(0), x)
        else:
            model, params = nnx.Sequential(Child(nnx.Rngs(0)), nnx.Linear(1, 1, rngs=nnx.Rngs(1))), None
        trace = flax_impl.record(model, params, [{"x": x, "y": y}] * 2, squares, optimizer=optax.adam(1e-2))
    if kind == "linen":
        assert trace.metadata["calls"] == ["norm", "out"]
        assert trace.metadata["buffers"] == ["norm.running_mean", "norm.running_var"]
        np.testing.assert_allclose(trace.arrays["0/buffer/norm.running_mean"], 0.01 * x.mean(0), rtol=1e-5)
    else:
        assert trace.metadata["calls"] == ["layers.0.layer", "layers.0", "layers.1"]
        twice = 2 * trace.arrays["0/activation/layers.0.layer"]
        np.testing.assert_allclose(trace.arrays["0/activation/layers.0"], twice, rtol=1e-6)
    np.testing.assert_array_equal(
        trace.params(1)[next(iter(trace.params(1)))], next(iter(trace.phase(0, "update").values()))
    )
    assert any(array.any() for array in trace.phase(0, "cotangent").values())


def test_a_module_of_neither_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="model: expected a module of Linen's or NNX's, got"):
        flax_impl.record(jnp.tanh, {}, [BATCH], squares)
    with pytest.raises(ValueError, match="params: expected a Linen module's parameters, got None"):
        flax_impl.record(LinenNorm(), None, [BATCH], squares)


def test_torch_optimisers_of_all_kinds_are_taken() -> None:
    for optimizer in (torch.optim.SGD, lambda p: torch.optim.Adagrad(p, lr=0.1), torch_ref.RMSprop()):
        trace = record(linear(), [BATCH] * 2, lambda model, x, y: F.mse_loss(model(x), y), optimizer=optimizer)
        assert len(trace.metadata["optimizer"]["lr"]) == 3
