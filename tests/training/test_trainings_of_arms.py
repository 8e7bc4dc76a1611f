"""Losses and trainings of several arms, with embeddings: in torch, Linen and NNX."""

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.distributed as dist
from flax import nnx
from hypothesis import given, settings, strategies as st

import flax_impl
import torch_ref
from flax_impl.commands.recipes import Recipe, arms_config, check, reference
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.models.pure import params_of
from flax_impl.parity import largest_difference
from tests.support.cases import nnx_of, same_error

NET: dict[str, Any] = {"representation_features": [6], "head_features": [5], "final_activation": "identity"}
PACKAGES = {"torch": torch_ref, "flax": flax_impl}
Arrays = dict[str, np.ndarray]


def config_for(arms: int, embedding: bool) -> dict[str, Any]:
    more: dict[str, Any] = {"in_features": 5, "embeddings": [[4, 2]]} if embedding else {"in_features": 4}
    return NET | {"arms": arms} | more


def data_of(arms: int, embedding: bool, rows: int = 40) -> Arrays:
    """Rows of all arms but the last but one, which stays empty; of two, all."""
    generator = np.random.default_rng(arms)
    present = [arm for arm in range(arms) if arms == 2 or arm != arms - 2]
    x = generator.normal(size=(rows, 4))
    if embedding:
        x = np.column_stack([x, generator.integers(-1, 4, rows)])
    t = generator.choice(present, rows).astype(np.int32)
    return {"x": x, "t": t, "y": generator.normal(size=(rows, 1)) + t[:, None], "w": generator.uniform(0.5, 2, rows)}


@pytest.mark.usefixtures("x64")
@given(
    st.integers(2, 5),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.sampled_from(("per_head", "batch")),
    st.booleans(),
)
@settings(max_examples=6)
def test_a_loss_is_the_hand_split(arms: int, rows: int, seed: int, reduction: Any, masked: bool) -> None:
    """The model's outcomes are the columns of x."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(rows, arms)), generator.normal(size=(rows, 1))
    t, w = generator.integers(0, arms, rows), generator.exponential(size=rows)
    weights = tuple(generator.uniform(size=arms).tolist())
    mask = generator.random(rows) < (0.7 if masked else 1)
    y[~mask] = np.nan
    expected = []
    for arm in range(arms):
        own = (t == arm) & mask
        count = own.sum() if reduction == "per_head" else mask.sum()
        expected.append(weights[arm] * (w[own] * (x[own, arm] - y[own, 0]) ** 2).sum() / max(count, 1))
    asked: dict[str, Any] = {"arms": arms, "reduction": reduction, "head_weights": weights}
    arrays = {"x": x, "t": t, "y": y, "w": w, "mask": mask}

    def outcomes(x: Any) -> Any:
        return tuple(x[:, arm : arm + 1] for arm in range(arms))

    def factual(x: Any, t: Any) -> Any:
        return jnp.take_along_axis(x, t[:, None], axis=1)

    loss = torch_ref.FactualLoss(**asked)
    found = loss(outcomes, **{name: torch.tensor(array) for name, array in arrays.items()})
    np.testing.assert_allclose([float(part) for part in found], expected, rtol=1e-12)
    assert sum(loss.counts(t=torch.tensor(t), mask=torch.tensor(mask))) == mask.sum() * (
        arms if reduction == "batch" else 1
    )
    found = flax_impl.FactualLoss(**asked)(factual, **{name: jnp.asarray(array) for name, array in arrays.items()})
    np.testing.assert_allclose([float(part) for part in found], expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("balance", ["linear_mmd", pytest.param("rbf_mmd", marks=pytest.mark.slow)])
def test_the_penalty_is_the_mean_over_all_pairs(balance: str) -> None:
    config, batch = config_for(4, False), data_of(4, False)
    side = TorchSide("TwoHead", config, dtype="float64")
    code = side.model.representation(torch.tensor(batch["x"])).detach()
    w, t = torch.tensor(batch["w"]), batch["t"]
    apart = torch_ref.training.BALANCES[balance]
    by_pair = [float(apart(code[t == a], code[t == b], w[t == a], w[t == b])) for a, b in combinations(range(4), 2)]
    assert sum(value > 1e-4 for value in by_pair) == 3  # those without the empty arm
    found = {}
    for made in (side, FlaxSide("TwoHead", config, weights=side.weights())):
        loss = made.package.CFRLoss(balance=balance, balance_weight=0.7, arms=4)
        found[made.backend] = made.evaluate(loss, batch, forward=False)
        assert found[made.backend]["loss/4"] == pytest.approx(0.7 * np.mean(by_pair), rel=1e-12)
    assert largest_difference(found["flax"], found["torch"]) <= 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("arms", "embedding"),
    [
        (3, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, False), (2, True), (3, False), (5, False), (5, True))
        ),
    ],
)
def test_outputs_gradients_and_twenty_steps(arms: int, embedding: bool, measured: list[str]) -> None:
    config, data = config_for(arms, embedding), data_of(arms, embedding)
    side = TorchSide("TwoHead", config, dtype="float64")
    start = side.weights()
    if embedding:
        start["embedding.table0"] = np.random.default_rng(0).normal(size=(4, 2))
        side = TorchSide("TwoHead", config, weights=start)
    port = FlaxSide("TwoHead", config, weights=start)
    once = [made.evaluate(made.package.FactualLoss(arms=arms), data) for made in (side, port)]
    worst = largest_difference(once[1], once[0])
    fits: dict[str, Any] = {"steps": 20, "batch_size": 16, "progress": False}
    losses = {made.backend: made.fit(data, loss=made.package.FactualLoss(arms=arms), **fits) for made in (side, port)}
    module = nnx_of(port.model)
    nnx.update(module, flax_impl.models.from_numpy(port.model, start))
    params, losses["nnx"] = flax_impl.fit(
        module, params_of(module), data, loss=flax_impl.FactualLoss(arms=arms), **fits
    )
    assert losses["torch"].shape == (20, arms)
    ends = (port.weights(), flax_impl.models.to_numpy(params))
    worst = max(worst, *(largest_difference(end, side.weights()) for end in ends))
    measured.append(f"{arms} arms{', embedding' * embedding}, float64, 20 steps: {worst:.1e} apart (at most 1e-12)")
    assert worst <= 1e-12
    for name in ("flax", "nnx"):
        np.testing.assert_allclose(losses[name], losses["torch"], rtol=1e-12, atol=1e-14)
    if arms > 2:
        assert not losses["torch"][:, arms - 2].any()
        for name in (name for name in start if name.startswith(f"head{arms - 2}")):
            np.testing.assert_array_equal(side.weights()[name], start[name])


@pytest.mark.usefixtures("x64")
def test_replicas_and_early_stopping_end_as_fits() -> None:
    config, data = config_for(3, True), data_of(3, True)
    side = TorchSide("TwoHead", config, dtype="float64")
    port = FlaxSide("TwoHead", config, weights=side.weights())
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), port.params)
    fits: dict[str, Any] = {
        "epochs": 6, "batch_size": 16, "validation_rows": np.arange(10), "patience": 2, "progress": False,
        "optimizer": torch_ref.Adam(lr=0.1),
    }  # fmt: skip
    losses = {made.backend: made.fit(data, loss=made.package.FactualLoss(arms=3), **fits) for made in (side, port)}
    assert losses["torch"].shape[1] == 4
    np.testing.assert_allclose(losses["flax"], losses["torch"], rtol=1e-11)
    assert largest_difference(port.weights(), side.weights()) <= 1e-11
    params, found = flax_impl.fit_replicas(port.model, twice, data, loss=flax_impl.FactualLoss(arms=3), **fits)
    np.testing.assert_array_equal(found[1], losses["flax"])
    for n in range(2):
        one = flax_impl.models.to_numpy(jax.tree.map(lambda leaf, n=n: leaf[n], params))
        assert largest_difference(one, port.weights()) == 0


@pytest.mark.parametrize("api", ["torch", "linen", "nnx"])
def test_bfloat16_rounds_no_code(api: str) -> None:
    """Codes 256 to 259 are two numbers in bfloat16."""
    config = config_for(3, False) | {"in_features": 5, "embeddings": [[400, 2]]}
    batch = data_of(3, False, rows=4) | {"t": np.array([0, 1, 2, 0], np.int32)}
    batch["x"] = np.column_stack([batch["x"], [256, 257, 258, 259]])
    fits: dict[str, Any] = {"steps": 1, "precision": "bfloat16", "progress": False, "optimizer": torch_ref.SGD(lr=1.0)}
    if api == "torch":
        side = TorchSide("TwoHead", config)
        side.fit(batch, loss=torch_ref.FactualLoss(arms=3), **fits)
        after = side.weights()
    else:
        model: Any = flax_impl.TwoHead(**config) if api == "linen" else nnx_of(flax_impl.TwoHead(**config))
        params, _ = flax_impl.fit(model, model.init_params(), batch, loss=flax_impl.FactualLoss(arms=3), **fits)
        after = flax_impl.models.to_numpy(params)
    moved = np.flatnonzero(after["embedding.table0"].any(axis=1))
    assert moved.tolist() == [256, 257, 258, 259]


def test_processes_divide_by_the_rows_of_each_arm() -> None:
    """A group of one process: the same losses and weights, through DistributedDataParallel."""
    data = data_of(3, True)
    loss = torch_ref.FactualLoss(arms=3)
    t, mask = torch.tensor([0, 2, 2, 1]), torch.tensor([True, True, True, False])
    assert loss.counts(t=t, mask=mask) == (1, 0, 2)
    assert torch_ref.FactualLoss(arms=3, reduction="batch").counts(t=t, mask=mask) == (3, 3, 3)
    alone, shared = TorchSide("TwoHead", config_for(3, True)), TorchSide("TwoHead", config_for(3, True))
    expected = alone.fit(data, loss=loss, steps=4, batch_size=16, progress=False)
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage] (torch exports it nowhere else)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        found = shared.fit(data, loss=loss, steps=4, batch_size=16, progress=False, process_group=dist.group.WORLD)
    finally:
        dist.destroy_process_group()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert largest_difference(shared.weights(), alone.weights()) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "embedding"), [(2, True), (3, True), (3, False), (5, True)])
def test_whole_pairs(arms: int, embedding: bool) -> None:
    recipe = Recipe(steps=5, config=arms_config(arms, embedding))
    found = check(recipe, reference(recipe))
    assert found.passed, (str(found.first_divergence), found.diagnosis)
    assert not found.unmatched
    assert found.model == ("two-head" + f", {arms} arms" * (arms > 2) + ", embedding" * embedding)


REFUSED = {
    "weights": (
        lambda p: p.FactualLoss(arms=3, head_weights=(1, 1)),
        "head_weights: expected 3 numbers, got (1, 1)",
    ),
    "a weight": (
        lambda p: p.FactualLoss(arms=3, head_weights=(1, 1, -1)),
        "head_weights[2]: expected a finite number of at least 0, got -1",
    ),
    "arms": (lambda p: p.FactualLoss(arms=1), "arms: expected a whole number of at least 2, got 1"),
    "targeted": (
        lambda p: p.TargetedLoss(arms=3),
        "arms: expected 2, as targeted regularisation is for two arms, got 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings(case: str) -> None:
    call, message = REFUSED[case]
    assert same_error(ValueError, lambda side: call(PACKAGES[side.backend])) == message


def test_weights_of_the_parts_are_one_where_none_are_given() -> None:
    for package in PACKAGES.values():
        assert package.FactualLoss(arms=3).head_weights == (1.0, 1.0, 1.0)
        assert package.FactualLoss() == package.FactualLoss(head_weights=(1, 1), arms=2)


def test_an_arm_that_there_is_none_of() -> None:
    data = data_of(3, False)
    wrong = data | {"t": np.where(np.arange(40) == 7, 3, data["t"])}

    def fit(side: Any, arms: int, of_loss: int, data: Arrays) -> None:
        made = side("TwoHead", config_for(arms, False))
        made.fit(data, loss=made.package.FactualLoss(arms=of_loss), steps=1, progress=False)

    message = same_error(ValueError, lambda side: fit(side, 3, 3, wrong))
    assert message == "t: expected 0 to 2 in every row, got 3 in row 7"
    message = same_error(ValueError, lambda side: fit(side, 3, 2, data))
    assert message == "loss: expected one with arms=3, as the model has, got arms=2"
    message = same_error(ValueError, lambda side: fit(side, 2, 2, data))
    assert message.startswith("t: expected 0 or 1 in every row, got 2 in row ")


def test_a_model_of_other_arms_in_the_loss_itself() -> None:
    data = {name: torch.tensor(array.astype(np.float32)) for name, array in data_of(2, False).items()}
    with pytest.raises(ValueError, match=r"^model: expected outcomes under 2 arms, got 3$"):
        torch_ref.FactualLoss()(TorchSide("TwoHead", config_for(3, False)).model, **data)
