"""A port under `shard_map`, its data over one axis of a mesh and a layer over the other: faults in it are placed."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AbstractMesh, PartitionSpec as P
from torch import nn

from flax_impl.parity import check_step
from torch_ref.common.tape.tape import Tape
from torch_ref.recording import record_tape

MESH = AbstractMesh((4, 2), ("data", "model"))  # traced only: a check runs on one device, whatever the mesh
SPLIT = {"g": P(), "b": P(), "up": P(None, "model"), "ub": P("model"), "down": P("model", None), "db": P()}
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def usual_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Layer(nn.Module):
    """A norm and two layers beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 16), nn.Linear(16, 6)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def sharded(fault: str = "") -> Callable[[Any, Any], Any]:
    """Returns the port; a fault is named by what is done."""

    def shard(p: Any, x: Any) -> Any:
        mean = x.mean(0 if fault == "mean over rows" else -1, keepdims=True)
        apart = x - (0 if fault == "not centred" else mean)
        variance = (apart**2).sum(-1, keepdims=True) / (5 if fault == "unbiased" else 6)
        eps = {"epsilon": 1e-3, "no epsilon": 0.0}.get(fault, 1e-5)
        root = variance + eps if fault == "no root" else jnp.sqrt(variance + eps)
        h = apart / root
        h = h if fault == "no scale" else h * p["g"]
        h = h if fault == "no shift" else h + p["b"]
        h = h[:, ::-1] if fault == "turned" else h
        h = h @ p["up"]
        h = h if fault == "no bias" else h + p["ub"]
        h = jax.lax.stop_gradient(h) if fault == "stopped" else h
        h = jax.nn.relu(h) if fault == "relu" else jax.nn.gelu(h, approximate=fault == "tanh")
        y = h @ p["down"]
        y = y + p["db"] if fault == "bias on every device" else y
        y = y + x if fault == "residual on every device" else y
        y = 1.01 * y if fault == "1% more" else y
        y = -y if fault == "the sign" else y
        y = jax.lax.pmean(y, "model") if fault == "mean for sum" else jax.lax.psum(y, "model")
        y = y if fault in ("bias on every device", "no last bias") else y + p["db"]
        y = y.clip(-0.5, 0.5) if fault == "clipped" else y
        return y if fault in ("residual on every device", "no residual") else x + y

    def run(p: Any, x: Any) -> Any:
        return jax.shard_map(shard, mesh=MESH, in_specs=(SPLIT, P("data", None)), out_specs=P("data", None))(p, x)

    return run


@pytest.fixture(scope="module")
def reference() -> Tape:
    return record_tape(Layer(), {"x": X}, squares)


def weights() -> dict[str, np.ndarray]:
    held = {name: tensor.detach().numpy() for name, tensor in Layer().named_parameters()}
    return {
        "g": held["norm.weight"], "b": held["norm.bias"], "up": held["up.weight"].T, "ub": held["up.bias"],
        "down": held["down.weight"].T, "db": held["down.bias"],
    }  # fmt: skip


def test_a_sharded_port_agrees_and_gets_its_weights(reference: Tape) -> None:
    assert check_step(reference, sharded(), {"x": X}, squares, params=weights()).passed
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights().items()}
    report = check_step(reference, sharded(), {"x": X}, squares, shapes=shapes)
    assert report.passed
    for name, array in report.convert(Layer().state_dict()).items():
        np.testing.assert_array_equal(array, weights()[name])


FAULTS = (
    ("mean over rows", "mean = x.mean("),
    ("not centred", "root = "),  # torch's mean of squares is a variance that is not centred
    ("unbiased", "variance = "),
    ("epsilon", "root = "),
    ("no epsilon", "root = "),
    ("no root", "h = apart / root"),
    ("no scale", "h = h if fault == \"no shift\""),
    ("no shift", "h = h @ p[\"up\"]"),
    ("turned", "h = h[:, ::-1]"),
    ("no bias", "jax.nn.gelu"),
    ("relu", "jax.nn.relu"),
    ("tanh", "jax.nn.gelu"),
    ("stopped", "jax.lax.stop_gradient"),
    ("bias on every device", "y = h @ p[\"down\"]"),  # torch has no part of this sum
    ("residual on every device", "y = h @ p[\"down\"]"),
    ("1% more", "y = 1.01 * y"),
    ("the sign", "y = -y"),
    ("mean for sum", "jax.lax.pmean"),
    ("no last bias", "else x + y"),
    ("no residual", "p[\"db\"]"),
    ("clipped", "y = y.clip("),
)  # fmt: skip


# Every sixth in the quick suite.
@pytest.mark.parametrize(
    ("fault", "line"),
    [pytest.param(*fault, marks=[pytest.mark.slow] if i % 6 else []) for i, fault in enumerate(FAULTS)],
)
def test_a_fault_in_a_shard_is_placed(reference: Tape, fault: str, line: str) -> None:
    report = check_step(reference, sharded(fault), {"x": X}, squares, params=weights())
    assert not report.passed
    place = report.to_json()["places"][0]
    said = [*place["port"]["lines"], *(place["port"]["after"] or [])]
    assert any(line in one for one in said), (said, report.to_json()["places"][0]["cause"])
