"""The propensity head: what a model with it returns and keeps, in torch, Linen and NNX; one without it is as it was."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, Side, TorchSide
from flax_impl.parity import scaled_difference
from tests.support.cases import nnx_of, same_error

PLAIN: dict[str, Any] = {
    "in_features": 3,
    "representation_features": [5],
    "head_features": [4],
    "final_activation": "identity",
}
CONFIG: dict[str, Any] = PLAIN | {"propensity_head": True}
HEAD = {"propensity.weight": (1, 5), "propensity.bias": (1,), "epsilon": (1,)}
X = np.random.default_rng(0).normal(size=(6, 3))
T = np.array([0, 1, 1, 0, 1, 0], np.int32)


def calls(weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the model in each framework as a function of arrays."""
    reference, port = TorchSide("TwoHead", CONFIG, weights=weights), FlaxSide("TwoHead", CONFIG, weights=weights)
    module = nnx_of(port.model)
    nnx.update(module, port.params)

    def of_torch(*arrays: np.ndarray, **asked: bool) -> Any:
        found = reference.model(*map(torch.tensor, arrays), **asked)
        return jax.tree.map(lambda tensor: tensor.detach().numpy(), found)

    def of_linen(*arrays: np.ndarray, **asked: bool) -> Any:
        return port.model.apply({"params": port.params}, *map(jnp.asarray, arrays), **asked)

    def of_nnx(*arrays: np.ndarray, **asked: bool) -> Any:
        return module(*map(jnp.asarray, arrays), **asked)

    return {"torch": of_torch, "linen": of_linen, "nnx": of_nnx}


@pytest.mark.usefixtures("x64")
def test_the_pair_comes_last() -> None:
    weights = TorchSide("TwoHead", CONFIG, dtype="float64").weights() | {"epsilon": np.array([0.25])}
    called = calls(weights)
    for call in called.values():
        outcomes, code, (logit, epsilon) = call(X, return_representation=True, return_propensity=True)
        factual, (again, _) = call(X, T, return_propensity=True)
        y0, y1 = call(X)
        assert logit.shape == (6,)
        assert epsilon.shape == (1,)
        assert float(epsilon[0]) == 0.25
        linear = np.asarray(code) @ weights["propensity.weight"][0] + weights["propensity.bias"]
        assert scaled_difference(np.asarray(logit), linear) <= 1e-12
        np.testing.assert_array_equal(np.asarray(logit), np.asarray(again))
        np.testing.assert_array_equal(np.asarray(outcomes), np.asarray((y0, y1)))
        assert scaled_difference(np.asarray(factual), np.where(T[:, None] == 1, y1, y0)) <= 1e-12
        np.testing.assert_array_equal(np.asarray(code), np.asarray(call(X, return_representation=True)[1]))
    expected = called["torch"](X, return_propensity=True)[1][0]
    for name in ("linen", "nnx"):
        assert scaled_difference(np.asarray(called[name](X, return_propensity=True)[1][0]), expected) <= 1e-12


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_the_head_adds_three_weights_and_moves_no_other(side: Any) -> None:
    """The first weights of the others are those of a model without it, bit for bit."""
    plain, with_head = side("TwoHead", PLAIN).weights(), side("TwoHead", CONFIG).weights()
    assert {name: array.shape for name, array in with_head.items() if name not in plain} == HEAD
    for name, array in plain.items():
        np.testing.assert_array_equal(array, with_head[name])
    np.testing.assert_array_equal(with_head["epsilon"], 0)
    bound = 1 / np.sqrt(5)
    for name in ("propensity.weight", "propensity.bias"):
        assert 0 < np.abs(with_head[name]).max() <= bound


def test_the_same_tree_in_nnx() -> None:
    model = flax_impl.TwoHead(**CONFIG)
    shapes = jax.tree.map(jnp.shape, model.init_params())
    assert jax.tree.map(jnp.shape, nnx_of(model).params) == shapes
    assert shapes["propensity"] == {"kernel": (5, 1), "bias": (1,)}
    assert jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3)))["params"]) == shapes


def test_files_go_any_way(tmp_path: Path) -> None:
    reference = TorchSide("TwoHead", CONFIG)
    reference.save(tmp_path / "torch.safetensors")
    model, params = flax_impl.load_model(tmp_path / "torch.safetensors")
    assert model.config == reference.model.config
    assert model.config["propensity_head"] is True
    flax_impl.save_model(tmp_path / "flax.safetensors", model, params)
    assert (tmp_path / "torch.safetensors").read_bytes() == (tmp_path / "flax.safetensors").read_bytes()
    again = torch_ref.load_model(tmp_path / "flax.safetensors")
    np.testing.assert_array_equal(again.state_dict()["propensity.weight"], params["propensity"]["kernel"].T)


def test_a_model_without_the_head_has_none_to_give() -> None:
    def ask(side: type[Side]) -> None:
        made = side("TwoHead", PLAIN)
        if isinstance(made, TorchSide):
            made.model(torch.zeros(2, 3), return_propensity=True)
        else:
            made.model.apply({"params": made.params}, jnp.zeros((2, 3)), return_propensity=True)

    expected = "return_propensity: expected a model with propensity_head, got one without"
    assert same_error(ValueError, ask) == expected
    with pytest.raises(ValueError, match=f"^{expected}$"):
        nnx_of(flax_impl.TwoHead(**PLAIN))(jnp.zeros((2, 3)), return_propensity=True)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_flag_is_true_or_false(value: Any) -> None:
    message = same_error(ValueError, lambda side: side("TwoHead", PLAIN | {"propensity_head": value}))
    assert message == f"propensity_head: expected True or False, got {value!r}"
