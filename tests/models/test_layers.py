"""Activations at their kinks, and initial weights as torch draws them."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import scaled_difference

CONFIG = {"in_features": 64, "representation_features": [128, 96], "head_features": [80], "out_features": 50}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(torch_ref.models.ACTIVATIONS))
def test_activation(name: str) -> None:
    points = np.concatenate([np.linspace(-6, 6, 49), [0.0, -0.0, 1e-300, -1e-300, 40.0, -40.0]])
    x = torch.tensor(points, requires_grad=True)
    value = torch_ref.models.ACTIVATIONS[name](x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    port = flax_impl.models.ACTIVATIONS[name]
    assert scaled_difference(np.asarray(port(jnp.asarray(points))), value.detach().numpy()) <= 1e-15
    assert scaled_difference(np.asarray(jax.vmap(jax.grad(port))(jnp.asarray(points))), slope.numpy()) <= 1e-15


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
@pytest.mark.parametrize(
    ("model", "config"),
    [("TwoHead", CONFIG), ("TwoInTwoOut", {"in_features": 64, "hidden_features": [128, 96], "out_features": 50})],
)
def test_initial_weights_are_torchs(side: Any, model: str, config: dict[str, Any]) -> None:
    """Each layer's weight and bias come from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    weights: dict[str, list[np.ndarray]] = {}
    for seed in range(5):
        for name, array in side(model, config, seed=seed).weights().items():
            weights.setdefault(name, []).append(array)
    for name, drawn in weights.items():
        fan_in = drawn[0].shape[1] if name.endswith("weight") else weights[name.replace("bias", "weight")][0].shape[1]
        values = np.concatenate([array.ravel() for array in drawn]).astype(float)
        bound = 1 / math.sqrt(fan_in)
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() >= 0.95 * bound
        assert values.var() == pytest.approx(bound**2 / 3, rel=6 / math.sqrt(len(values)))
        assert scipy.stats.kstest(values, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_linens_own_initial_weights_would_not_pass() -> None:
    values = np.asarray(nn.Dense(128).init(jax.random.key(0), jnp.zeros((1, 64)))["params"]["kernel"]).ravel()
    bound = 1 / math.sqrt(64)
    assert scipy.stats.kstest(values, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue < 1e-3


def test_initial_weights_follow_the_seed() -> None:
    one, same, other = (FlaxSide("TwoHead", CONFIG, seed=seed).weights() for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(one["head0.layer0.weight"], one["head1.layer0.weight"])


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_an_mlp_without_layers_passes_its_input_on(side: Any) -> None:
    config = {"in_features": 2, "representation_features": [], "head_features": [], "final_activation": "identity"}
    model = side("TwoHead", config)
    weights = model.weights()
    assert sorted(weights) == [f"head{i}.layer0.{leaf}" for i in (0, 1) for leaf in ("bias", "weight")]
    x = np.array([[1.0, 2.0]], np.float32)
    expected = [x @ weights[f"head{i}.layer0.weight"].T + weights[f"head{i}.layer0.bias"] for i in (0, 1)]
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-6)
