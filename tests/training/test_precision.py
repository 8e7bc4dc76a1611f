"""Products of fewer digits: how far from exact they may be, and that everything else keeps its own."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import largest_difference, scaled_difference
from flax_impl.training.loop import take_step
from torch_ref.common.batches import batch_order

NET = {"in_features": 6, "representation_features": [16, 16], "head_features": [8], "final_activation": "identity"}
PRECISIONS = ("float32", "tf32", "bfloat16")
ROUNDOFF = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8}
GATE_B = 3  # times the reference's own distance to the exact numbers
RATE = 2.0**20  # of one step of SGD, so large that the step, rounded, still shows all digits of the gradient

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def batches() -> list[Arrays]:
    """Three of 128 rows, of numbers that float32 holds."""
    made = [torch_ref.data.synthetic(rows=128, features=6, seed=seed).arrays() for seed in range(3)]
    return [{name: array if name == "t" else array.astype(np.float32) for name, array in of.items()} for of in made]


@pytest.fixture(scope="module")
def start() -> Arrays:
    return TorchSide("TwoHead", NET).weights()


def of_port(start: Arrays, batch: Arrays, precision: str, dtype: str = "float32") -> Arrays:
    """Returns the losses and the gradients by the port's own step."""
    with jax.enable_x64(dtype == "float64"):
        params = flax_impl.models.from_numpy(flax_impl.TwoHead(**NET), _as(dtype, start))
        optimizer = flax_impl.SGD(lr=RATE)
        model, state = flax_impl.TwoHead(**NET), flax_impl.training.build_optimizer(optimizer).init(params)
        after, _, losses = flax_impl.train_step(model, params, optimizer, state, batch, precision=precision)
        return _gradients(start, flax_impl.models.to_numpy(after)) | {"losses": np.asarray(losses)}


def of_torch(start: Arrays, batch: Arrays, precision: str) -> Arrays:
    """Returns the losses and the gradients by the reference's own step."""
    side = TorchSide("TwoHead", NET, weights=start)
    losses = torch_ref.train_step(
        side.model,
        torch_ref.training.build_optimizer(torch_ref.SGD(lr=RATE), side.model.parameters()),
        batch,
        precision=precision,
    )
    return _gradients(start, side.weights()) | {"losses": losses.numpy()}


def _gradients(before: Arrays, after: Arrays) -> Arrays:
    return {name: (np.float64(before[name]) - after[name]) / RATE for name in before}


def _as(dtype: str, arrays: Arrays) -> Arrays:
    return {name: array.astype(dtype) for name, array in arrays.items()}


def bounds(start: Arrays, batch: Arrays, sums: int) -> Arrays:
    """Returns how far each entry of each gradient may be from exact, in units of the roundoff u, to first order.

    A rounding multiplies some number on the way by 1 + d, |d| <= u. ELU goes through 0 and is nowhere steeper than 1,
    and neither is its derivative, so what the rounding does to a later number is at most u times what the net makes of
    absolute values: A[l] = A[l-1] |W| + |b| for the layers' outputs, from A[0] = |x|. With k roundings in each layer
    (of the weight, of the product, `sums` of them where its terms are added up in few digits, of the sum with the bias,
    of the activation):

        output of layer l             k l A[l]
        its cotangent C[l], error E   E[L] = C[L] + 2/n k L A[L]   (its own rounding on the way in, and the output's)
                                      E[l-1] = (E[l] + C[l] (k + k l A[l-1])) |W|
                                      (the derivative of the activation is off by as much as the activation's input)
        gradient of W                 A[l-1]^T E[l] + (k l + sums) A[l-1]^T C[l]
        gradient of b                 sum over the rows of E[l] + rows C[l]   (XLA adds these up in few digits)

    That is the worst that could be, if all roundings went one way; they do not, so an honest port is far within.
    """
    weights = {name: np.abs(np.float64(array)) for name, array in start.items()}
    exact = torch_ref.TwoHead(**NET).double()
    torch_ref.models.from_numpy(exact, _as("float64", start))
    found = {name: np.zeros(array.shape) for name, array in weights.items()}
    k, rows = 3 + sums, len(batch["t"])
    for arm in (0, 1):
        chosen = batch["t"] == arm
        x, y = (batch[name][chosen].astype(np.float64) for name in ("x", "y"))
        layers = ["representation.layer0", "representation.layer1", f"head{arm}.layer0", f"head{arm}.layer1"]
        sizes = [np.abs(x)]
        for layer in layers:
            sizes.append(sizes[-1] @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
        outcome = torch_ref.predict(exact, x)[arm]
        cotangent = np.abs(2 / len(x) * (outcome - y))
        error = cotangent + 2 / len(x) * k * len(layers) * sizes[-1]
        for number in range(len(layers), 0, -1):
            weight, size = weights[f"{layers[number - 1]}.weight"], sizes[number - 1]
            found[f"{layers[number - 1]}.weight"] += error.T @ size + (k * number + sums) * cotangent.T @ size
            found[f"{layers[number - 1]}.bias"] += (error + rows * cotangent).sum(axis=0)
            error = (error + k * cotangent) @ weight + cotangent @ weight * k * number * size
            cotangent = cotangent @ weight
    return found


def worst_share(found: Arrays, exact: Arrays, allowed: Arrays, roundoff: float) -> float:
    """Returns the largest share of what is allowed that an entry takes."""
    return max(float((np.abs(found[name] - exact[name]) / allowed[name]).max()) for name in allowed) / roundoff


def test_bfloat16_is_as_near_as_torchs_autocast(start: Arrays, batches: list[Arrays], measured: list[str]) -> None:
    """Gate B, as float32 passes it: at most three times as far from exact as the reference at that precision is."""
    port, reference = 0.0, 0.0
    for batch in batches:
        exact = of_port(start, batch, "float32", "float64")
        port = max(port, largest_difference(of_port(start, batch, "bfloat16"), exact))
        reference = max(reference, largest_difference(of_torch(start, batch, "bfloat16"), exact))
    measured.append(f"bfloat16, losses and gradients: {port:.1e} from exact, torch's autocast {reference:.1e} "
                    f"(at most {GATE_B} times that)")  # fmt: skip
    assert ROUNDOFF["bfloat16"] / 8 < port <= GATE_B * reference


@pytest.mark.parametrize("precision", PRECISIONS)
def test_errors_stay_within_what_the_roundings_allow(
    start: Arrays, batches: list[Arrays], precision: str, measured: list[str]
) -> None:
    if precision == "tf32" and jax.default_backend() != "gpu":
        pytest.skip("only a GPU has tf32")
    sums = 128 if precision == "float32" else 1  # the others add their products up in float32
    share = 0.0
    for batch in batches:
        exact = of_port(start, batch, "float32", "float64")
        found = of_port(start, batch, precision)
        share = max(share, worst_share(found, exact, bounds(start, batch, sums), ROUNDOFF[precision]))
        if precision == "tf32":  # the bound is wide: tf32 is neither of the others
            errors = {other: largest_difference(of_port(start, batch, other), exact) for other in PRECISIONS}
            assert 4 * errors["float32"] < errors["tf32"] < errors["bfloat16"] / 2
    measured.append(f"{precision}, gradients: {share:.3f} of the bound that is derived from its roundoff")
    assert share <= 1


def emulated(params: Any, batch: Arrays, bits: int) -> Arrays:
    """Returns the gradients where each layer's weights, inputs and outputs have so many bits of fraction."""

    def rounded(array: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(array, 8, bits)  # its gradient is rounded likewise

    def interceptor(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        return rounded(call(rounded(args[0]))) if isinstance(context.module, nn.Dense) else call(*args, **kwargs)

    def total(params: Any) -> jax.Array:
        with nn.intercept_methods(interceptor):
            variables = {"params": jax.tree.map(rounded, params)}
            losses = flax_impl.FactualLoss()(lambda *args: flax_impl.TwoHead(**NET).apply(variables, *args), **arrays)
            return sum(losses, jnp.zeros(()))

    arrays: Any = {name: jnp.asarray(array) for name, array in batch.items()}
    return flax_impl.models.to_numpy(jax.jit(jax.grad(total))(params))


def test_errors_are_in_proportion_to_the_roundoff(start: Arrays, batches: list[Arrays], measured: list[str]) -> None:
    """Of bfloat16 and tf32, and of two with more bits, all of them emulated: hence a bound that is a multiple of it."""
    params, batch = flax_impl.models.from_numpy(flax_impl.TwoHead(**NET), start), batches[0]
    exact = of_port(start, batch, "float32", "float64")
    del exact["losses"]
    ratios = {}
    for bits in (7, 10, 13, 16):
        found = emulated(params, batch, bits)
        ratios[bits] = largest_difference(found, exact) / 2.0 ** -(bits + 1)
        assert worst_share(found, exact, bounds(start, batch, 1), 2.0 ** -(bits + 1)) <= 1
    own = of_port(start, batch, "bfloat16")
    of_bfloat16 = max(scaled_difference(own[name], exact[name]) for name in exact) / ROUNDOFF["bfloat16"]
    measured.append("gradients with fewer bits, emulated: errors in units of the roundoff "
                    + ", ".join(f"{ratio:.2f} (2^-{bits + 1})" for bits, ratio in ratios.items())
                    + f", of the port's bfloat16 {of_bfloat16:.2f}")  # fmt: skip
    for ratio in ratios.values():
        assert of_bfloat16 / 4 < ratio < 4 * of_bfloat16


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU has no tf32")
def test_tf32_is_float32_on_a_cpu(start: Arrays, batches: list[Arrays]) -> None:
    for of_side in (of_port, of_torch):
        found, expected = (of_side(start, batches[0], precision) for precision in ("tf32", "float32"))
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_training_keeps_its_own_dtype(start: Arrays, batches: list[Arrays]) -> None:
    model, optimizer, batch = flax_impl.TwoHead(**NET), flax_impl.Adam(), batches[0]
    params = flax_impl.models.from_numpy(model, start)
    state = flax_impl.training.build_optimizer(optimizer).init(params)
    params, state, losses = flax_impl.train_step(model, params, optimizer, state, batch, precision="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, losses))} == {"float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}  # its counts are whole numbers
    reference = TorchSide("TwoHead", NET, weights=start).model
    built = torch_ref.training.build_optimizer(torch_ref.Adam(), reference.parameters())
    assert torch_ref.train_step(reference, built, batch, precision="bfloat16").dtype == torch.float32
    held = [*reference.parameters(), *(value for moments in built.state.values() for value in moments.values())]
    assert {value.dtype for value in held if isinstance(value, torch.Tensor)} == {torch.float32}


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_bfloat16_learns(side: Any, measured: list[str]) -> None:
    made = torch_ref.data.synthetic(rows=400, features=6)
    data = torch_ref.data.Scales.of(made).standardize(made).arrays()
    ends = {}
    for precision in ("float32", "bfloat16"):
        trained = side("TwoHead", NET, weights=TorchSide("TwoHead", NET).weights())
        losses = trained.fit(
            data, optimizer=trained.package.Adam(lr=1e-2), steps=200, batch_size=100, precision=precision
        )
        assert {array.dtype.name for array in (losses, *trained.weights().values())} == {"float32"}
        losses = losses.sum(axis=1)
        ends[precision] = losses[-20:].mean() / losses[0]
    measured.append(f"200 steps in bfloat16, {side.backend}: the loss falls to {ends['bfloat16']:.3f} of the first, in "
                    f"float32 to {ends['float32']:.3f}")  # fmt: skip
    assert ends["bfloat16"] < 0.5
    assert ends["bfloat16"] != ends["float32"]


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_a_fit_in_bfloat16_is_its_steps(start: Arrays, batches: list[Arrays], side: Any) -> None:
    """To the roundoff of bfloat16: what is compiled as a whole need not round at the same places."""
    fitted, data = side("TwoHead", NET, weights=start), batches[0]
    found = fitted.fit(data, optimizer=fitted.package.SGD(lr=0.1), steps=5, batch_size=64, seed=1, precision="bfloat16")
    stepped = side("TwoHead", NET, weights=start)
    optimizer = stepped.package.SGD(lr=0.1)
    built: Any = (
        torch_ref.training.build_optimizer(optimizer, stepped.model.parameters())
        if side is TorchSide
        else flax_impl.training.build_optimizer(optimizer)
    )
    state: Any = None if side is TorchSide else built.init(stepped.params)
    by_hand = []
    for rows, keep in zip(*batch_order(128, batch_size=64, steps=5, shuffle=True, seed=1), strict=True):
        batch = {name: array[rows[keep]] for name, array in data.items()}
        if side is TorchSide:
            losses = torch_ref.train_step(stepped.model, built, batch, precision="bfloat16")
        else:
            stepped.params, state, losses = flax_impl.train_step(
                stepped.model, stepped.params, optimizer, state, batch, precision="bfloat16"
            )
        by_hand.append(np.asarray(losses))
    assert scaled_difference(found, np.array(by_hand)) <= ROUNDOFF["bfloat16"]
    assert largest_difference(fitted.weights(), stepped.weights()) <= ROUNDOFF["bfloat16"]


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_an_unknown_precision(start: Arrays, batches: list[Arrays], side: Any) -> None:
    made = side("TwoHead", NET, weights=start)
    message = "^precision: expected one of 'float32', 'tf32', 'bfloat16', got 'half'$"
    with pytest.raises(ValueError, match=message):
        made.fit(batches[0], steps=1, precision="half")
    held = () if side is TorchSide else (made.params,)
    with pytest.raises(ValueError, match=message):
        made.package.train_step(made.model, *held, None, *[None] * len(held), batches[0], precision="half")


@pytest.mark.parametrize(
    ("precision", "dtype", "wanted"),
    [("float32", "f32", "HIGHEST, HIGHEST"), ("tf32", "f32", "HIGH, HIGH"), ("bfloat16", "bf16", "DEFAULT, DEFAULT")],
)
def test_what_the_compiler_is_asked_for(
    start: Arrays, batches: list[Arrays], precision: str, dtype: str, wanted: str
) -> None:
    """In every product, forward and backward."""
    model, optimizer = flax_impl.TwoHead(**NET), flax_impl.SGD()
    params = flax_impl.models.from_numpy(model, start)
    state = flax_impl.training.build_optimizer(optimizer).init(params)
    text = take_step.lower(model, params, optimizer, state, batches[0], flax_impl.FactualLoss(), precision).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 17  # six layers: forward, for the weights, and for the inputs of all but the first
    for product in products:
        assert f"precision = [{wanted}]" in product
        assert set(re.findall(r"tensor<[\dx]+x(\w+)>", product)) == {dtype}, product
