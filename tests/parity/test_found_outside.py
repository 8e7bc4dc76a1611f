"""What a user from outside ran into: honest ports that were accused, faults that passed, causes that were wrong."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import torch_ref
from flax_impl.parity import StepReport, check_parity, check_step

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(6, 4)).astype(np.float32)
LONG = _RNG.normal(size=(2, 5, 4)).astype(np.float32)


def checked(reference: torch.nn.Module, port: Any, losses: tuple[Any, Any], **settings: Any) -> StepReport:
    batch = settings.pop("batch", {"x": X})
    tape = torch_ref.recording.record_tape(reference, batch, losses[0], progress=False)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return check_step(tape, port, batch, losses[1], progress=False, **settings)


def cubes(model: Any, x: Any) -> Any:
    return (model(x) ** 3).mean()


class Towers(torch.nn.Module):
    """Two of the same shapes, but for their ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = (torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh())
        self.actor = torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))
        layers = (torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh())
        self.critic = torch.nn.Sequential(*layers, torch.nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.actor(x), self.critic(x)


class PortOfTowers(nn.Module):
    """The same, by other names."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        def tower(name: str, width: int) -> jax.Array:
            h = jnp.tanh(nn.Dense(8, name=f"{name}_0")(x))
            return nn.Dense(width, name=f"{name}_2")(jnp.tanh(nn.Dense(8, name=f"{name}_1")(h)))

        return tower("pi", 3), tower("v", 1)


def of_both(model: Any, x: Any) -> Any:
    policy, value = model(x)
    return (policy**2).mean() + (value**3).mean()


def test_towers_of_the_same_shapes_keep_their_ends() -> None:
    report = checked(Towers(), PortOfTowers(), (of_both, of_both))
    assert report.passed, report
    assert '"params.v_0.kernel": sd["critic.0.weight"].T' in str(report.weight_map)
    assert "perhaps" not in str(report.weight_map)


class Blocks(torch.nn.Module):
    """Fresh norms hold ones and zeros: adding those says nothing of which they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.n1, self.n2, self.n3 = (torch.nn.LayerNorm(4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.a(self.n1(x))
        return self.n3(x + self.b(self.n2(x)))


class PortOfBlocks(nnx.Module):
    """The same, by other names."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.before, self.between, self.last = (nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs) for _ in range(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.first(self.before(x))
        return self.last(x + self.second(self.between(x)))


def test_fresh_norms_and_biases_are_told_apart() -> None:
    report = checked(Blocks(), PortOfBlocks(), (cubes, cubes))
    assert report.passed, report
    assert '"first.bias": sd["a.bias"]' in str(report.weight_map)
    assert '"second.bias": sd["b.bias"]' in str(report.weight_map)


def test_the_params_of_an_nnx_module_are_taken() -> None:
    reference = torch.nn.Linear(4, 3)

    class Port(nnx.Module):
        def __init__(self) -> None:
            self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.fc(x)

    right = {"fc": {"kernel": reference.weight.detach().numpy().T, "bias": reference.bias.detach().numpy()}}
    assert checked(reference, Port(), (cubes, cubes), params=right).passed
    held = Port()
    nnx.update(held, right)
    wrong = jax.tree.map(lambda array: array + 1, right)
    assert not checked(reference, held, (cubes, cubes), params=wrong).passed
    with pytest.raises(ValueError, match="params: expected entries of the module, got others"):
        checked(reference, Port(), (cubes, cubes), params={"gone": right["fc"]})


class Probabilities(torch.nn.Module):
    """Returns what the port only makes within its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.fc(x))


@pytest.mark.parametrize("weight", [0.1, 0.2])
def test_a_port_may_return_logits(weight: float) -> None:
    """And a fault of its loss is not hidden by that."""
    batch = {"x": X, "y": _RNG.integers(0, 2, (6, 1)).astype(np.float32)}

    def of_torch(model: Any, x: Any, y: Any) -> Any:
        return F.binary_cross_entropy(model(x), y) + 0.1 * (x**2).mean()

    def of_port(model: Any, x: Any, y: Any) -> Any:
        return optax.sigmoid_binary_cross_entropy(model(x), y).mean() + weight * (x**2).mean()

    class Port(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1, name="fc")(x)

    report = checked(Probabilities(), Port(), (of_torch, of_port), batch=batch)
    assert report.passed == (weight == 0.1), report
    assert "returns another value of the same computation" in str(report)
    if not report.passed:
        assert [cause.text for causes in report.causes for cause in causes] == [
            "the port multiplies by 0.2 where the reference has 0.1: use 0.1"
        ]


def test_a_port_may_return_logits_in_a_training_too() -> None:
    batch = {"x": X.astype(np.float64), "y": _RNG.integers(0, 2, (6, 1)).astype(np.float64)}

    class Port(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1, name="fc")(x)

    def of_torch(model: Any, x: Any, y: Any) -> Any:
        return F.binary_cross_entropy(model(x), y)

    def of_port(model: Any, x: Any, y: Any) -> Any:
        return optax.sigmoid_binary_cross_entropy(model(x), y).mean()

    settings = {"optimizer": torch_ref.SGD(lr=0.1), "progress": False}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        reference = torch_ref.record(Probabilities().double(), [batch] * 2, of_torch, **settings)
        report = check_parity(reference, Port(), of_port, **settings)
    assert report.passed, report


Params = dict[str, Any]


def line(params: Params, x: Any) -> Any:
    return x @ params["w"] + params["b"]


def standardised(params: Params, x: Any) -> Any:
    y = line(params, x)
    return (y - y.mean()) / (y.std() + 1e-8)


class Standardised(torch.nn.Module):
    """Divides by the unbiased deviation of its batch, which is no constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return (y - y.mean()) / (y.std() + 1e-8)


def test_a_number_of_the_batch_is_no_constant() -> None:
    shapes = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    report = checked(Standardised(), standardised, (cubes, cubes), shapes=shapes)
    assert not report.passed
    assert not any("constant" in cause.text for causes in report.causes for cause in causes), report


class Causal(torch.nn.Module):
    """Attention that sees the past."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.triu(torch.full((5, 5), float("-inf")), diagonal=1)
        return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) + hidden, -1) @ x


def seeing(compare: Callable[[Any, Any], Any]) -> Callable[[Params, Any], Any]:
    def port(params: Params, x: Any) -> Any:
        scores = (x @ params["q"] + params["qb"]) @ (x @ params["k"] + params["kb"]).swapaxes(1, 2)
        seen = compare(jnp.arange(5)[:, None], jnp.arange(5)[None])
        return jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min), -1) @ x

    return port


def test_a_mask_that_hides_the_diagonal_too() -> None:
    reference = Causal()
    state = {name: tensor.detach().numpy() for name, tensor in reference.state_dict().items()}
    params = {"q": state["q.weight"].T, "qb": state["q.bias"], "k": state["k.weight"].T, "kb": state["k.bias"]}
    settings = {"batch": {"x": LONG}, "params": params}
    assert checked(reference, seeing(jnp.greater_equal), (cubes, cubes), **dict(settings)).passed
    report = checked(reference, seeing(jnp.greater), (cubes, cubes), **dict(settings))
    assert report.causes[0][0].text == (
        "the port's mask ends at diagonal -1 where the reference's ends at 0: jnp.tril(..., 0)"
    )


def test_the_line_that_called_us_is_not_the_models() -> None:
    report = checked(Standardised(), standardised, (cubes, cubes), shapes={"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)})
    lines = [str(line) for side in (report.partners.reference, report.partners.port)
             for operation in side.operations for line in operation.lines]  # fmt: skip
    assert lines
    assert not any("record_tape" in line or "check_step" in line for line in lines)
