"""Targeted regularisation: against values by hand, against its twin, in whole trainings, and with faults in it."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.commands.recipes import Recipe, check, reference
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import largest_difference
from tests.support.cases import NNXSide, nnx_of, same_error
from tests.support.faults import Fault, kill

CONFIG: dict[str, Any] = {
    "in_features": 3, "representation_features": [5], "head_features": [4], "final_activation": "identity",
    "propensity_head": True,
}  # fmt: skip
WIDER: dict[str, Any] = CONFIG | {"in_features": 4}
TARGETED: dict[str, Any] = {"propensity_weight": 0.7, "targeted_weight": 1.3}
HARNESS: dict[str, Any] = {
    "config": {"propensity_head": True, "representation_features": [16, 6]},
    "loss": TARGETED,
}  # x is as wide
ARMS = {"mixed": [0, 1, 0, 0, 1, 0], "all 0": [0] * 6, "all 1": [1] * 6, "one row": [1]}

Arrays = dict[str, np.ndarray]


@pytest.fixture
def nan_is_an_error() -> Iterator[None]:
    with jax.debug_nans(True):
        yield


def batch_of(arm: str = "mixed") -> Arrays:
    generator = np.random.default_rng(0)
    t = np.array(ARMS[arm], np.int32)
    arrays = {"x": generator.normal(size=(len(t), 3)), "t": t, "y": generator.random((len(t), 1))}
    return arrays | {"w": generator.uniform(0.5, 2, len(t))}


def first_weights(epsilon: float = 0.3, steep: float = 1.0) -> Arrays:
    """Weights whose propensities are `steep`, and an epsilon that counts."""
    weights = TorchSide("TwoHead", CONFIG, dtype="float64").weights() | {"epsilon": np.array([epsilon])}
    return weights | {"propensity.weight": steep * weights["propensity.weight"]}


def evaluate(weights: Arrays, batch: Arrays, **loss: Any) -> list[Arrays]:
    """Returns what torch, Linen and NNX find: losses, and gradients by every weight and by x."""
    return [
        side("TwoHead", CONFIG, weights=weights).evaluate(made.TargetedLoss(**loss), batch, forward=False)
        for side, made in ((TorchSide, torch_ref), (FlaxSide, flax_impl), (NNXSide, flax_impl))
    ]


def assert_same_and_finite(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.isfinite(array).all(), name
        assert found[name].dtype == array.dtype == np.float64
    assert largest_difference(found, expected) <= 1e-12


class TestByHand:
    """Outcomes x and 2x, logits of g = 1/4, 3/4, 1/2 and one that the clip of 0.2 stops, and epsilon = 2."""

    X = np.array([[1.0], [3.0], [5.0], [2.0]])
    T = np.array([0, 1, 0, 1], np.int32)
    Y = np.array([[0.0], [4.0], [2.0], [1.0]])
    W = np.array([2.0, 1.0, 0.5, 2.0])
    LOGIT = (-math.log(3), math.log(3), 0.0, -50.0)
    H = (-1 / (3 / 4), 1 / (3 / 4), -2, 1 / 0.2)  # t/g - (1-t)/(1-g)
    ENTROPY = (-math.log(3 / 4), -math.log(3 / 4), math.log(2), 50.0)
    FACTUAL = (1, 6, 5, 4)

    def losses(self, settings: dict[str, Any], **arrays: Any) -> list[float]:
        by_x = dict(zip(self.X[:, 0], self.LOGIT, strict=True))

        def logits(x: Any) -> list[float]:
            return [by_x[value] for value in x[:, 0].tolist()]

        def of_torch(x: Any, return_propensity: bool) -> Any:
            return (x, 2 * x), (torch.tensor(logits(x), dtype=x.dtype), torch.tensor([2.0], dtype=x.dtype))

        def of_flax(x: Any, t: Any, return_propensity: bool) -> Any:
            return jnp.where(t[:, None] == 1, 2 * x, x), (jnp.asarray(logits(x)), jnp.array([2.0]))

        batch = {"x": self.X, "t": self.T, "y": self.Y} | arrays
        reference = torch_ref.TargetedLoss(**settings)(of_torch, **{k: torch.tensor(v) for k, v in batch.items()})
        port = flax_impl.TargetedLoss(**settings)(of_flax, **{k: jnp.asarray(v) for k, v in batch.items()})
        assert list(map(float, port)) == pytest.approx(list(map(float, reference)), rel=1e-12)
        return [float(part) for part in port]

    @pytest.mark.usefixtures("x64")
    @pytest.mark.parametrize("reduction", ["per_head", "batch"])
    @pytest.mark.parametrize("w", [None, W])
    @pytest.mark.parametrize("mask", [None, [True, True, False, True]])
    def test_four_rows(self, reduction: str, w: np.ndarray | None, mask: list[bool] | None) -> None:
        settings = {"reduction": reduction, "propensity_weight": 0.5, "targeted_weight": 3, "clip": 0.2}
        arrays = ({} if w is None else {"w": w}) | ({} if mask is None else {"mask": np.array(mask)})
        loss0, loss1, propensity, targeted = self.losses(settings, **arrays)
        counts = np.ones(4) if mask is None else np.array(mask, float)
        rows = counts * (1 if w is None else w)
        errors = [y - (f + 2 * h) for y, f, h in zip(self.Y[:, 0], self.FACTUAL, self.H, strict=True)]
        assert propensity == pytest.approx(0.5 * (rows @ self.ENTROPY) / counts.sum(), rel=1e-12)
        assert targeted == pytest.approx(3 * (rows @ np.square(errors)) / counts.sum(), rel=1e-12)
        squares = rows * np.square(self.Y[:, 0] - self.FACTUAL)
        divisors = [counts[arm == self.T].sum() if reduction == "per_head" else counts.sum() for arm in (0, 1)]
        expected = [squares[arm == self.T].sum() / divisors[arm] for arm in (0, 1)]
        assert [loss0, loss1] == pytest.approx(expected, rel=1e-12)

    @pytest.mark.usefixtures("x64")
    def test_of_a_binary_outcome_the_probability_is_targeted(self) -> None:
        y = np.array([[1.0], [0.0], [0.0], [1.0]])
        *_, targeted = self.losses({"criterion": "sigmoid_binary_cross_entropy", "clip": 0.2}, y=y)
        chances = [1 / (1 + math.exp(-f)) for f in self.FACTUAL]
        errors = [y - (p + 2 * h) for y, p, h in zip(y[:, 0], chances, self.H, strict=True)]
        assert targeted == pytest.approx(np.mean(np.square(errors)), rel=1e-12)

    @pytest.mark.usefixtures("x64")
    def test_columns_of_an_outcome_are_averaged(self) -> None:
        x = np.array([[1.0, 3.0]])
        batch = {"x": x, "t": np.array([0], np.int32), "y": np.zeros_like(x)}
        *_, targeted = self.losses({}, **batch)
        shift = 2 * self.H[0]
        assert targeted == pytest.approx(((1 + shift) ** 2 + (3 + shift) ** 2) / 2, rel=1e-12)


@pytest.mark.usefixtures("x64", "nan_is_an_error")
@pytest.mark.parametrize(
    ("arm", "steep", "criterion"),
    [*((arm, 1, "squared_error") for arm in ARMS), ("mixed", 20, "squared_error"),
     ("mixed", 1, "sigmoid_binary_cross_entropy")],
)  # fmt: skip
def test_twins_agree(arm: str, steep: float, criterion: str) -> None:
    """Steep propensities saturate: the clip holds the targeted part, and there its gradient is zero."""
    reference, *ports = evaluate(first_weights(steep=steep), batch_of(arm), criterion=criterion, **TARGETED)
    for found in ports:
        assert_same_and_finite(found, reference)
    assert {"grad/propensity.weight", "grad/propensity.bias", "grad/epsilon", "loss/3"} <= reference.keys()
    assert reference["grad/epsilon"].any()
    if steep > 1:
        weights, x = first_weights(steep=steep), batch_of(arm)["x"]
        code = TorchSide("TwoHead", CONFIG, weights=weights).model(torch.tensor(x), return_representation=True)[1]
        logit = code.detach().numpy() @ weights["propensity.weight"][0] + weights["propensity.bias"]
        assert np.abs(logit).max() > math.log(0.99 / 0.01) > np.abs(logit).min()  # some are clipped, and some are not
    for head in (0, 1):
        if head not in ARMS[arm]:
            for found in (reference, *ports):
                assert found[f"loss/{head}"] == 0
                assert not any(array.any() for name, array in found.items() if name.startswith(f"grad/head{head}"))


@pytest.mark.usefixtures("x64", "nan_is_an_error")
@pytest.mark.parametrize(
    ("value", "reduction"),
    [
        (np.nan, "per_head"),
        *(pytest.param(*bad, marks=pytest.mark.slow) for bad in ((np.inf, "batch"), (1e300, "per_head"))),
    ],
)
def test_masked_rows_do_not_count(value: float, reduction: str) -> None:
    batch, kept = batch_of(), np.array([True, True, False, True, False, True])
    dirty = {name: array.copy() for name, array in batch.items()} | {"mask": kept}
    for name in ("x", "y", "w"):
        dirty[name][~kept] = value
    dirty["t"][~kept] = 7
    settings = {"reduction": reduction, **TARGETED}
    only, *_ = evaluate(first_weights(), {name: array[kept] for name, array in batch.items()}, **settings)
    for found in evaluate(first_weights(), dirty, **settings):
        np.testing.assert_array_equal(found["grad/x"][~kept], 0)
        assert_same_and_finite(found | {"grad/x": found["grad/x"][kept]}, only)


@pytest.mark.usefixtures("x64", "nan_is_an_error")
def test_a_batch_whose_rows_are_all_masked_is_zero() -> None:
    batch = batch_of() | {"mask": np.zeros(6, bool)}
    batch["y"][:] = np.nan
    for found in evaluate(first_weights(), batch, **TARGETED):
        for name, array in found.items():
            np.testing.assert_array_equal(array, 0, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bound", [0.25, 0.75])
def test_the_slope_at_a_bound_is_torchs(bound: float) -> None:
    """Where the propensity is the bound, bit for bit, `jnp.clip` would give half of it."""
    clip, weights = 0.25, first_weights()
    logit = math.log(3) if bound == 0.75 else -math.log(3)
    (found,) = {float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))}
    clip = found if bound == 0.25 else 1 - found
    weights |= {"propensity.weight": 0 * weights["propensity.weight"], "propensity.bias": np.array([logit])}
    reference, *ports = evaluate(weights, batch_of(), clip=clip, propensity_weight=0)
    assert reference["grad/propensity.bias"].any()
    for found in ports:
        assert_same_and_finite(found, reference)


@pytest.mark.usefixtures("x64")
def test_without_its_weights_it_is_the_factual_loss() -> None:
    batch, weights = batch_of(), first_weights()
    for found, side in zip(
        evaluate(weights, batch, propensity_weight=0, targeted_weight=0), (TorchSide, FlaxSide, NNXSide), strict=True
    ):
        made = side("TwoHead", CONFIG, weights=weights)
        factual = made.evaluate(made.package.FactualLoss(), batch, forward=False)
        assert found.pop("loss/2") == found.pop("loss/3") == 0
        assert largest_difference(found, factual) <= 1e-12


@pytest.mark.usefixtures("x64")
def test_jitted_is_plain() -> None:
    port = FlaxSide("TwoHead", CONFIG, weights=first_weights())
    loss = flax_impl.TargetedLoss(**TARGETED)
    apply = partial(port.model.apply, {"params": port.params})
    batch = {key: jnp.asarray(array) for key, array in batch_of().items()}
    compiled = jax.jit(lambda loss, batch: loss(apply, **batch))(loss, batch)
    np.testing.assert_allclose(loss(apply, **batch), compiled, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_twenty_steps_of_a_fit(measured: list[str]) -> None:
    """Filled up batches of 8 of 21 rows, three treated: some batches have none."""
    data, weights = (
        flax_impl.data.synthetic(rows=21, features=4).arrays(),
        TorchSide("TwoHead", WIDER, dtype="float64").weights(),
    )
    data["t"] = np.isin(np.arange(21), (3, 11, 12)).astype(np.int32)
    ends: list[Arrays] = []
    for side in (TorchSide, FlaxSide):
        made = side("TwoHead", WIDER, weights=weights)
        loss, optimizer = made.package.TargetedLoss(**TARGETED), made.package.AdamW(lr=1e-2)
        losses = made.fit(data, loss=loss, optimizer=optimizer, steps=20, batch_size=8, progress=False)
        assert losses.shape == (20, 4)
        ends.append(made.weights() | {"losses": losses})
    assert ends[0]["epsilon"].any()
    assert_same_and_finite(*ends)
    measured.append(f"TargetedLoss, 20 steps of AdamW, float64: {largest_difference(*ends):.1e} apart (at most 1e-12)")


def test_other_weights_compile_nothing(compilations: list[str]) -> None:
    data, model = flax_impl.data.synthetic(rows=30, features=4).arrays(), flax_impl.TwoHead(**WIDER)
    for weight in (0.5, 2.0):
        loss = flax_impl.TargetedLoss(propensity_weight=weight, targeted_weight=1 / weight)
        compilations.clear()
        flax_impl.fit(model, model.init_params(), data, loss=loss, steps=3, progress=False)
    assert not compilations


def test_replicas_end_as_fits() -> None:
    data, model = flax_impl.data.synthetic(rows=30, features=4).arrays(), flax_impl.TwoHead(**WIDER)
    loss = flax_impl.TargetedLoss(**TARGETED)
    settings = {"loss": loss, "steps": 5, "batch_size": 8, "progress": False}
    params, losses = flax_impl.fit_replicas(model, model.init_params(range(2)), data, seed=range(2), **settings)
    assert losses.shape == (2, 5, 4)
    for i in range(2):
        single, _ = flax_impl.fit(model, model.init_params(i), data, seed=i, **settings)
        for leaf, whole in zip(jax.tree.leaves(single), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(whole[i], leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["TargetedLoss", "CFRLoss"])
@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_bfloat16_keeps_losses_in_float32(side: Any, loss: str) -> None:
    data = flax_impl.data.synthetic(rows=30, features=4).arrays()
    runs = []
    for precision in ("float32", "bfloat16"):
        made = side("TwoHead", WIDER)
        settings = {"loss": getattr(made.package, loss)(), "steps": 5, "progress": False}
        runs.append(made.fit(data, precision=precision, **settings))
    assert runs[1].dtype == np.float32
    np.testing.assert_allclose(runs[1], runs[0], rtol=3e-2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"propensity_weight": -1}, "propensity_weight: expected a finite number of at least 0, got -1"),
        ({"targeted_weight": math.inf}, "targeted_weight: expected a finite number of at least 0, got inf"),
        ({"clip": 0.5}, "clip: expected a finite number above 0 and below 0.5, got 0.5"),
        ({"clip": 0}, "clip: expected a finite number above 0 and below 0.5, got 0"),
        ({"reduction": "sum"}, "reduction: expected one of 'per_head', 'batch', got 'sum'"),
    ],
)
def test_bad_settings(loss: dict[str, Any], message: str) -> None:
    packages = {"torch": torch_ref, "flax": flax_impl}
    assert same_error(ValueError, lambda side: packages[side.backend].TargetedLoss(**loss)) == message


def test_a_model_without_the_head_is_refused() -> None:
    def train(side: Any) -> None:
        made = side("TwoHead", CONFIG | {"propensity_head": False})
        made.fit(batch_of(), loss=made.package.TargetedLoss(), steps=1, progress=False)

    message = same_error(ValueError, train)
    assert message == "return_propensity: expected a model with propensity_head, got one without"


@pytest.mark.slow
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_whole_pairs(api: str) -> None:
    """Twenty steps of AdamW: masked rows with labels that are NaN, and a batch without a treated row."""
    recipe = Recipe(optimizer="adamw", **HARNESS)
    trace = reference(recipe)
    assert {"0/loss/3", "0/param/epsilon", "19/grad/epsilon", "0/activation/propensity"} <= trace.arrays.keys()
    if api == "linen":
        found = check(recipe, trace)
    else:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            model = nnx_of(recipe.build(flax_impl))
            found = flax_impl.check_parity(trace, model, progress=False, **recipe.make(flax_impl))
    assert found.passed, (str(found.first_divergence), found.diagnosis)
    assert not found.unmatched
    assert found.max_scaled_error is not None
    assert found.max_scaled_error <= 1e-12


FAULTS = [
    Fault(
        "propensity from another input", "flax_impl/models/two_head.py",
        "more.append(self._propensity(code))", "more.append(self._propensity(x))",
        "forward", "representation", ("`propensity` gets in the port what `representation.layer0` gets",),
        HARNESS,
    ),
    Fault(
        "epsilon with the other sign", "flax_impl/training/targeted.py",
        "outcome + (epsilon", "outcome - (epsilon", "backward", "epsilon",
        ("the gradient by `epsilon` is -1 times the reference's",), HARNESS,
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_a_fault_is_found_where_it_is(fault: Fault, measured: list[str]) -> None:
    found = kill(fault)
    assert found.caught
    measured.append(f"{fault.title}: {found.report.first_divergence}; {[str(f) for f in found.report.diagnosis]}")
    assert found.localised, found.report.first_divergence
    assert found.named, found.report.diagnosis


def test_processes_divide_by_the_rows_of_the_whole_batch() -> None:
    t, mask = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([True, True, True, True, False])
    assert torch_ref.TargetedLoss().counts(t=t, mask=mask) == (2, 2, 4, 4)
    assert torch_ref.TargetedLoss(reduction="batch").counts(t=t, mask=mask) == (4, 4, 4, 4)
