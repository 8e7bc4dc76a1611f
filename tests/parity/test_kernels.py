"""What nobody can look into: a kernel in Pallas counts as one operation, and torch's own functions are looked into."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.experimental import pallas
from torch import nn

from flax_impl.parity import StepReport, check_step
from torch_ref.recording import record_tape

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Cube(torch.autograd.Function):
    """A function with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return grad_outputs[0] * 3 * ctx.saved_tensors[0] ** 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(Cube.apply(torch.tanh(self.first(x))))


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


@jax.custom_vjp
def tanh_kernel(x: jax.Array) -> jax.Array:
    def run(given: Any, made: Any) -> None:
        made[...] = jnp.tanh(given[...])

    return pallas.pallas_call(run, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = tanh_kernel(x)
    return y, y


tanh_kernel.defvjp(_forward, lambda y, grad: (grad * (1 - y * y),))


def checked(power: int) -> StepReport:
    model = Net()
    held = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    params = {
        "first": (held["first.weight"].T, held["first.bias"][None]),
        "second": (held["second.weight"].T, held["second.bias"][None]),
    }

    def port(params: Any, x: Any) -> Any:
        h = tanh_kernel(x @ params["first"][0] + params["first"][1])
        return h**power @ params["second"][0] + params["second"][1]

    return check_step(record_tape(model, {"x": X}, squares), port, {"x": X}, squares, params=params)


def test_a_kernel_is_one_operation() -> None:
    """It runs in float32, whose rounding is no difference."""
    report = checked(3)
    assert report.passed, str(report)
    assert "pallas_call" in {operation.name for operation in report.partners.port.operations}


def test_a_fault_after_a_kernel_has_its_line() -> None:
    report = checked(2)
    assert not report.passed
    place = report.to_json()["places"][0]
    assert "integer_pow" in place["port"]["operation"]
    assert "raises to the power 2 where the reference has 3" in place["cause"][0]["text"]
