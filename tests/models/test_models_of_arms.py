"""Several arms and embeddings of categories: the models in torch, Linen and NNX."""

from collections.abc import Callable
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

NET: dict[str, Any] = {"representation_features": [5], "head_features": [4], "final_activation": "sigmoid"}
CONFIG: dict[str, Any] = NET | {"in_features": 3}
WITH_CODES: dict[str, Any] = NET | {"in_features": 5, "embeddings": [[3, 2], [4, 1]], "arms": 3}
X = np.random.default_rng(0).normal(size=(6, 3))
CODES = np.array([[0, 3], [2, 1], [-1, 0], [1, 4], [2, -1], [0, 2]], np.float64)
T = np.array([0, 2, 1, 0, 2, 1], np.int32)

Call = Callable[..., Any]


def weights_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """First weights in float64, with tables that are not zero."""
    weights, generator = TorchSide("TwoHead", config, dtype="float64").weights(), np.random.default_rng(1)
    drawn = {n: generator.normal(size=a.shape) for n, a in weights.items() if n.startswith("embedding.")}
    return weights | drawn


def calls(config: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[str, Call]:
    """Returns the model in each framework as a function of arrays."""
    reference, port = TorchSide("TwoHead", config, weights=weights), FlaxSide("TwoHead", config, weights=weights)
    module = nnx_of(port.model)
    nnx.update(module, port.params)

    def of_torch(*arrays: np.ndarray) -> Any:
        return jax.tree.map(lambda found: found.detach().numpy(), reference.model(*map(torch.tensor, arrays)))

    return {
        "torch": of_torch,
        "linen": lambda *arrays: port.model.apply({"params": port.params}, *map(jnp.asarray, arrays)),
        "nnx": lambda *arrays: module(*map(jnp.asarray, arrays)),
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("arms", [2, 3, 5])
def test_there_is_an_outcome_for_each_arm_and_t_picks_one(arms: int) -> None:
    config = CONFIG | {"arms": arms}
    weights, t = weights_of(config), np.array([0, arms - 1, 1, 0, arms - 1, 1], np.int32)
    assert {name.partition(".")[0] for name in weights} == {"representation", *(f"head{arm}" for arm in range(arms))}
    for name, call in calls(config, weights).items():
        outcomes = call(X)
        assert len(outcomes) == arms, name
        picked = np.stack([np.asarray(outcomes[arm])[row] for row, arm in enumerate(t)])
        assert scaled_difference(np.asarray(call(X, t)), picked) <= 1e-12, name
    model = TorchSide("TwoHead", config, weights=weights).model
    assert model.concatenated(torch.tensor(X)).shape == (6, arms)


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_two_arms_are_what_they_were(side: type[Side]) -> None:
    """The same first weights, the same bits; and the pick of one arm of two is a single `where`."""
    plain, given = side("TwoHead", CONFIG), side("TwoHead", CONFIG | {"arms": 2, "embeddings": None})
    batch = {"x": X.astype(np.float32), "t": T % 2, "y": X[:, :1].astype(np.float32)}
    found, expected = (made.evaluate(made.package.FactualLoss(), batch) for made in (given, plain))
    assert plain.weights().keys() == given.weights().keys()
    for name, array in plain.weights().items():
        np.testing.assert_array_equal(given.weights()[name], array)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    one, other = expected["output/1"], expected["output/0"]
    np.testing.assert_array_equal(expected["output/factual"], np.where(batch["t"][:, None] == 1, one, other))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_many_batches_at_once(api: str) -> None:
    call = calls(CONFIG | {"arms": 3}, weights_of(CONFIG | {"arms": 3}))[api]
    x, t = np.stack([X, 2 * X, -X]), np.stack([T, T[::-1], np.zeros_like(T)])
    together = jax.vmap(call)(x, t)
    for batch in range(3):
        assert scaled_difference(np.asarray(together[batch]), np.asarray(call(x[batch], t[batch]))) <= 1e-12


def test_an_arm_that_is_none_is_the_first_under_jit() -> None:
    made = FlaxSide("TwoHead", CONFIG | {"arms": 3})
    pick = jax.jit(lambda t: made.model.apply({"params": made.params}, X.astype(np.float32), t))
    np.testing.assert_array_equal(pick(np.array([0, 7, 1, -1, 2, 1])), pick(np.array([0, 0, 1, 0, 2, 1])))


@pytest.mark.usefixtures("x64")
def test_codes_take_their_rows_and_unseen_ones_zeros() -> None:
    weights = weights_of(WITH_CODES)
    assert weights["embedding.table0"].shape == (3, 2)
    assert weights["embedding.table1"].shape == (4, 1)
    assert weights["representation.layer0.weight"].shape == (5, 6)
    rows = [np.vstack([weights[f"embedding.table{i}"], np.zeros((1, width))]) for i, width in enumerate((2, 1))]
    known = np.where((CODES >= 0) & (CODES < [3, 4]), CODES, [3, 4]).astype(int)
    columns = np.column_stack([X, rows[0][known[:, 0]], rows[1][known[:, 1]]])
    plain = {name: array for name, array in weights.items() if not name.startswith("embedding.")}
    expected = calls(NET | {"in_features": 6, "arms": 3}, plain)["torch"](columns)
    for name, call in calls(WITH_CODES, weights).items():
        found = call(np.column_stack([X, CODES]))
        assert scaled_difference(np.stack(found), np.stack(expected)) <= 1e-12, name


@pytest.mark.parametrize("code", [-1.0, 3.0, 0.5, np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_level_gives_zeros_and_no_gradient(code: float) -> None:
    table = np.arange(1.0, 7.0, dtype=np.float32).reshape(3, 2)
    codes = np.array([[code], [2.0]], np.float32)
    embedding: Any = torch_ref.models.Embedding([(3, 2)])
    torch_ref.models.from_numpy(embedding, {"table0": table})
    of_torch = embedding(torch.tensor(codes))
    of_torch.sum().backward()
    assert of_torch.tolist() == [[0.0, 0.0], [5.0, 6.0]]
    assert embedding.table0.grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    linen: Any = flax_impl.models.Embedding([(3, 2)])
    module = flax_impl.models.nnx.Embedding([(3, 2)])
    nnx.update(module, {"table0": jnp.asarray(table)})
    assert module(jnp.asarray(codes)).tolist() == of_torch.tolist()
    assert linen.apply({"params": {"table0": table}}, codes).tolist() == of_torch.tolist()
    gradient = jax.grad(lambda table: linen.apply({"params": {"table0": table}}, codes).sum())(jnp.asarray(table))
    assert gradient.tolist() == embedding.table0.grad.tolist()


def test_tables_start_at_zero_and_move_no_other_weight() -> None:
    for side in (TorchSide, FlaxSide):
        weights, plain = side("TwoHead", WITH_CODES).weights(), side("TwoHead", NET | {"in_features": 6, "arms": 3})
        tables = {name for name in weights if name.startswith("embedding.")}
        assert tables == {"embedding.table0", "embedding.table1"}
        assert not any(weights[name].any() for name in tables)
        for name, array in plain.weights().items():
            np.testing.assert_array_equal(weights[name], array)


def test_gates_have_the_columns_that_are_no_codes(tmp_path: Path) -> None:
    gated = WITH_CODES | {"input_groups": [1, 2]}
    start = TorchSide("TwoHead", gated).weights() | {"gate.scale": np.array([0.0, 1.0], np.float32)}
    start["embedding.table0"] = np.ones((3, 2), np.float32)
    x = np.column_stack([X, CODES]).astype(np.float32)
    other = x + np.array([9, 0, 0, 0, 0], np.float32)  # the first column is turned off
    for side in (TorchSide, FlaxSide):
        made = side("TwoHead", gated, weights=start)
        np.testing.assert_array_equal(made.predict(x), made.predict(other))
        assert np.abs(np.subtract(made.predict(x), made.predict(x * [1, 1, 1, -1, 1]))).max() > 1e-4
    message = same_error(ValueError, lambda side: side("TwoHead", WITH_CODES | {"input_groups": [1, 2, 2]}))
    assert message == "input_groups: expected 3 columns in all groups, got 5"


def test_files_go_any_way(tmp_path: Path) -> None:
    reference = TorchSide("TwoHead", WITH_CODES)
    reference.save(tmp_path / "torch.safetensors")
    model, params = flax_impl.load_model(tmp_path / "torch.safetensors")
    assert model.config == reference.model.config == nnx_of(model).config
    assert model.config["embeddings"] == [[3, 2], [4, 1]]
    assert model.config["arms"] == 3
    flax_impl.save_model(tmp_path / "flax.safetensors", model, params)
    assert (tmp_path / "torch.safetensors").read_bytes() == (tmp_path / "flax.safetensors").read_bytes()
    again = torch_ref.load_model(tmp_path / "flax.safetensors")
    assert isinstance(again, torch_ref.TwoHead)
    assert again.arms == nnx_of(model).arms == 3
    assert again.code_columns == model.code_columns == nnx_of(model).code_columns == 2
    assert jax.tree.map(jnp.shape, nnx_of(model).params) == jax.tree.map(jnp.shape, params)


REFUSED = {
    "one arm": ({"arms": 1}, "arms: expected a whole number of at least 2, got 1"),
    "half an arm": ({"arms": 2.5}, "arms: expected a whole number of at least 2, got 2.5"),
    "propensities": (
        {"arms": 3, "propensity_head": True},
        "propensity_head: expected False, as it is for two arms, got True with arms=3",
    ),
    "no tables": ({"embeddings": []}, "embeddings: expected pairs of levels and width, got []"),
    "numbers": ({"embeddings": 3}, "embeddings: expected pairs of levels and width, got 3"),
    "no pair": ({"embeddings": [3]}, "embeddings[0]: expected a pair of levels and width, got 3"),
    "no level": ({"embeddings": [[2, 1], [0, 1]]}, "embeddings[1]: expected a whole number of at least 1, got 0"),
    "too many levels": ({"embeddings": [[2**25, 1]]}, "embeddings[0]: expected at most 16777216 levels, got 33554432"),
    "too many tables": (
        {"embeddings": [[2, 1]] * 4},
        "embeddings: expected at most 3, as `x` has columns, got 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments(case: str) -> None:
    config, message = REFUSED[case]
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG | config)) == message


def test_an_arm_that_the_model_lacks() -> None:
    t = np.array([0, 1, 3, 0, 2, 3], np.int32)
    x = X.astype(np.float32)

    def call(side: type[Side]) -> None:
        made = side("TwoHead", CONFIG | {"arms": 3})
        if isinstance(made, TorchSide):
            made.model(torch.tensor(x), torch.tensor(t))
        else:
            made.model.apply({"params": made.params}, x, jnp.asarray(t))

    expected = "t: expected 0 to 2 in every row, got 3 in row 2 (2 in all)"
    assert same_error(ValueError, call) == expected
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG | {"arms": 3}).predict(x, t)) == expected
    for side in (TorchSide, FlaxSide):
        assert side("TwoHead", CONFIG | {"arms": 4}).predict(x, t)[0].shape == (6, 1)
