"""What the port masks must count for as little as what the reference leaves out, whatever it holds."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_impl.commands.sides import FlaxSide, Side, TorchSide
from flax_impl.parity import scaled_difference

pytestmark = pytest.mark.usefixtures("x64", "nan_is_an_error")

CONFIG = {"in_features": 3, "representation_features": [5], "head_features": [4, 4], "final_activation": "identity"}
NO_REPRESENTATION = CONFIG | {"representation_features": []}
ARMS = {"mixed": [0, 1, 0, 0, 1, 0], "all 0": [0] * 6, "all 1": [1] * 6, "one row": [1], "three": [0, 2, 1, 0, 2, 1]}

Arrays = dict[str, np.ndarray]


@pytest.fixture
def nan_is_an_error() -> Iterator[None]:
    with jax.debug_nans(True):
        yield


@pytest.fixture(params=["per_head", "batch"])
def reduction(request: pytest.FixtureRequest) -> str:
    return request.param


def batch_of(arm: str) -> Arrays:
    generator = np.random.default_rng(0)
    t = np.array(ARMS[arm], np.int32)
    return {"x": generator.normal(size=(len(t), 3)), "t": t, "y": generator.normal(size=(len(t), 1))}


def first_weights(config: Mapping[str, object], scaled: Mapping[str, float] | None = None) -> Arrays:
    """Initial weights, those whose names start as given multiplied."""
    weights = TorchSide("TwoHead", config, dtype="float64").weights()
    for start, factor in (scaled or {}).items():
        weights |= {name: factor * array for name, array in weights.items() if name.startswith(start)}
    return weights


def evaluate(config: Mapping[str, object], weights: Arrays, batch: Arrays, reduction: str) -> tuple[Arrays, Arrays]:
    """Returns what the port and the reference find."""
    port, reference = FlaxSide("TwoHead", config, weights=weights), TorchSide("TwoHead", config, weights=weights)
    found, expected = (
        side.evaluate(side.package.FactualLoss(reduction=reduction, arms=side.model.arms), batch, forward=False)
        for side in (port, reference)
    )
    return found, expected


def assert_same_and_finite(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.isfinite(array).all(), name
        rows = zip(found[name], array, strict=True) if name == "grad/x" else [(found[name], array)]
        assert all(scaled_difference(*pair) <= 1e-12 for pair in rows), name


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "three"])
def test_a_head_without_rows_has_loss_and_gradient_zero(arm: str, reduction: str) -> None:
    batch = batch_of(arm)
    found, expected = evaluate(CONFIG, first_weights(CONFIG), batch, reduction)
    assert_same_and_finite(found, expected)
    for head in (0, 1):
        if head not in batch["t"]:
            assert found[f"loss/{head}"] == 0
            gradients = [array for name, array in found.items() if name.startswith(f"grad/head{head}")]
            assert len(gradients) == 6
            assert not np.concatenate([gradient.ravel() for gradient in gradients]).any()


def overflowing(arms: int = 2) -> tuple[Arrays, Arrays]:
    """Rows on which the other heads overflow at once, and their own does not."""
    batch = batch_of("mixed" if arms == 2 else "three")
    batch["x"] *= np.where(batch["t"] == 0, 1e160, 1e-160)[:, None]
    scaled = {"head0.layer0.weight": 1e-160} | {f"head{arm}.layer0.weight": 1e160 for arm in range(1, arms)}
    return first_weights(NO_REPRESENTATION | {"arms": arms}, scaled), batch


@pytest.mark.parametrize("arms", [2, 3])
def test_the_unselected_head_may_overflow(arms: int, reduction: str) -> None:
    weights, batch = overflowing(arms)
    config = NO_REPRESENTATION | {"arms": arms}
    found, expected = evaluate(config, weights, batch, reduction)
    assert_same_and_finite(found, expected)
    found, expected = (
        {"factual": side("TwoHead", config, weights=weights).predict(batch["x"], batch["t"])[0]}
        for side in (FlaxSide, TorchSide)
    )
    assert_same_and_finite(found, expected)


@pytest.mark.parametrize("arms", [2, 3])
def test_a_mask_on_the_result_alone_would_not_do(arms: int) -> None:
    """The case above has teeth: a single `where` gives a finite loss and a NaN gradient, and so does a masked sum."""
    weights, batch = overflowing(arms)
    port = FlaxSide("TwoHead", NO_REPRESENTATION | {"arms": arms}, weights=weights)

    def loss(params: object) -> jax.Array:
        outcomes = port.model.apply({"params": params}, batch["x"])
        outcome = sum(jnp.where(batch["t"][:, None] == arm, y, 0) for arm, y in enumerate(outcomes))
        return ((outcome - batch["y"]) ** 2).mean()

    with jax.debug_nans(False):
        value, gradient = jax.jit(jax.value_and_grad(loss))(port.params)
    assert np.isfinite(value)
    assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("factor", [1e200, np.inf])
@pytest.mark.parametrize("arm", ["all 0", "all 1"])
def test_a_head_without_rows_may_hold_anything(arm: str, factor: float, reduction: str) -> None:
    unused = "head1" if arm == "all 0" else "head0"
    with jax.debug_nans(np.isfinite(factor)):  # 0 times infinity is NaN on the way, but must not come out
        found, expected = evaluate(CONFIG, first_weights(CONFIG, {unused: factor}), batch_of(arm), reduction)
    assert_same_and_finite(found, expected)


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_labels_of_the_other_head_do_not_count(head: int, value: float, reduction: str) -> None:
    batch = batch_of("mixed")
    dirty = batch | {"y": np.where(batch["t"][:, None] == head, batch["y"], value)}
    weights = first_weights(CONFIG)

    def of_head(side: Side, batch: Arrays) -> Arrays:
        loss = side.package.FactualLoss(reduction=reduction)
        return side.evaluate(lambda model, **arrays: loss(model, **arrays)[head : head + 1], batch, forward=False)

    found = of_head(FlaxSide("TwoHead", CONFIG, weights=weights), dirty)
    expected = of_head(TorchSide("TwoHead", CONFIG, weights=weights), dirty)
    clean = of_head(FlaxSide("TwoHead", CONFIG, weights=weights), batch)
    assert_same_and_finite(found, expected)
    assert_same_and_finite(found, clean)


@pytest.mark.parametrize("value", [np.nan, *(pytest.param(bad, marks=pytest.mark.slow) for bad in (np.inf, 1e300))])
def test_masked_rows_do_not_count(value: float, reduction: str) -> None:
    batch = batch_of("mixed") | {"w": np.linspace(1, 2, 6)}
    kept = np.array([True, True, False, True, False, True])
    dirty = {name: array.copy() for name, array in batch.items()} | {"mask": kept}
    for name in ("x", "y", "w"):
        dirty[name][~kept] = value
    dirty["t"][~kept] = 7
    weights = first_weights(CONFIG)
    found, expected = evaluate(CONFIG, weights, dirty, reduction)
    only, _ = evaluate(CONFIG, weights, {name: array[kept] for name, array in batch.items()}, reduction)
    assert not found["grad/x"][~kept].any()
    found["grad/x"], expected["grad/x"] = found["grad/x"][kept], expected["grad/x"][kept]
    assert_same_and_finite(found, expected)
    assert_same_and_finite(found, only)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_masked_rows_do_not_count_with_two_inputs(value: float) -> None:
    generator = np.random.default_rng(0)
    batch = {name: generator.normal(size=(6, 1)) for name in ("x1", "x2", "y1", "y2")} | {"w": np.linspace(1, 2, 6)}
    kept = np.array([True, True, False, True, False, True])
    dirty = {name: array.copy() for name, array in batch.items()} | {"mask": kept}
    for name in batch:
        dirty[name][~kept] = value
    weights = TorchSide("TwoInTwoOut", {}, dtype="float64").weights()
    port, reference = FlaxSide("TwoInTwoOut", {}, weights=weights), TorchSide("TwoInTwoOut", {}, weights=weights)
    found = port.evaluate(port.package.JointLoss(), dirty, forward=False)
    expected = reference.evaluate(reference.package.JointLoss(), dirty, forward=False)
    only = port.evaluate(port.package.JointLoss(), {name: array[kept] for name, array in batch.items()}, forward=False)
    for name, array in only.items():
        rows = kept if name in ("grad/x1", "grad/x2") else ...
        assert rows is ... or not found[name][~kept].any()
        assert np.isfinite(array).all()
        assert scaled_difference(found[name][rows], array) <= 1e-12
        assert scaled_difference(found[name], expected[name]) <= 1e-12


def test_padding_may_not_overflow_where_the_rows_do_not() -> None:
    """Weights under which a row of zeros overflows and the rows that are there do not."""
    config = {"in_features": 1, "representation_features": [1], "head_features": [1], "activation": "relu"}
    weights = {name: np.full_like(array, 1e200) for name, array in first_weights(config).items()}
    batch = {"x": np.full((3, 1), -1.0), "t": np.zeros(3, np.int32), "y": np.zeros((3, 1))}
    weights["head0.layer1.weight"][:] = weights["head0.layer1.bias"][:] = 0.5
    weights["head0.layer0.bias"][:] = 0.25
    runs = []
    for side in (FlaxSide, TorchSide):
        made = side("TwoHead", config | {"final_activation": "identity"}, weights=weights)
        made.fit(batch, optimizer=made.package.SGD(lr=0.1), steps=2, batch_size=2, shuffle=False)
        runs.append(made.weights())
    assert_same_and_finite(*runs)


def test_the_other_heads_own_overflow_does_not_reach_this_heads_loss(reduction: str) -> None:
    weights = first_weights(CONFIG, {"head1": 1e200})
    losses = []
    for side in (FlaxSide("TwoHead", CONFIG, weights=weights), TorchSide("TwoHead", CONFIG, weights=weights)):
        loss = side.package.FactualLoss(reduction=reduction)
        with jax.debug_nans(False):
            losses.append(
                side.evaluate(
                    lambda model, loss=loss, **arrays: loss(model, **arrays)[:1], batch_of("mixed"), forward=False
                )["loss/0"]
            )
    assert np.isfinite(losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
