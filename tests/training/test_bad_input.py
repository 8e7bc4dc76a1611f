"""Bad input gets one clear error, in the same words on both sides."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from tests.support.cases import same_error

CONFIG = {"in_features": 3, "representation_features": [4], "head_features": [4]}


def batch(**changes: Any) -> dict[str, Any]:
    """A good batch of 5 rows, but for the changes."""
    good = {"x": np.arange(15.0).reshape(5, 3) / 15, "t": np.array([0, 1, 1, 0, 1]), "y": np.zeros((5, 1))}
    return {name: array for name, array in (good | changes).items() if array is not None}


def x_with(value: float) -> np.ndarray:
    x = batch()["x"]
    x[2, 1] = value
    return x


BATCHES = {
    "t other than 0 and 1": (batch(t=[0, 1, 2, 0, 2]), "t: expected 0 or 1 in every row, got 2 in row 2 (2 in all)"),
    "t negative": (batch(t=[0, 1, -1, 0, 1]), "t: expected 0 or 1 in every row, got -1 in row 2"),
    "t with fractions": (batch(t=[0.0, 1.0, 1.0, 0.5, 1.0]), "t: expected 0 or 1 in every row, got 0.5 in row 3"),
    "t with NaN": (batch(t=[0.0, 1.0, 1.0, 0.0, np.nan]), "t: expected 0 or 1 in every row, got nan in row 4"),
    "t too short": (batch(t=[0, 1, 1]), "t: expected 5 rows, as x has, got 3"),
    "t as a column": (batch(t=[[0], [1], [1], [0], [1]]), "t: expected shape [5], got [5, 1]"),
    "t of text": (batch(t=["0", "1", "1", "0", "1"]), "t: expected numbers, got dtype <U1"),
    "y that would broadcast": (batch(y=np.zeros(5)), "y: expected shape [5, 1], got [5]"),
    "y of another width": (batch(y=np.zeros((5, 2))), "y: expected shape [5, 1], got [5, 2]"),
    "y with NaN": (batch(y=[[0], [0], [np.nan], [0], [0]]), "y: expected finite numbers, got nan in row 2, column 0"),
    "x with NaN": (batch(x=x_with(np.nan)), "x: expected finite numbers, got nan in row 2, column 1"),
    "x with infinity": (batch(x=x_with(-np.inf)), "x: expected finite numbers, got -inf in row 2, column 1"),
    "x of one dimension": (batch(x=np.zeros(5)), "x: expected shape [batch, features], got [5]"),
    "x of another width": (batch(x=np.zeros((5, 2))), "x: expected shape [batch, 3], got [batch, 2]"),
    "x of objects": (batch(x=[[None] * 3] * 5), "x: expected numbers, got dtype object"),
    "x a number": (batch(x=3.0), "x: expected one entry a row, got a single number"),
    "an empty batch": (
        {"x": np.zeros((0, 3)), "t": np.zeros(0, int), "y": np.zeros((0, 1))},
        "x: expected at least one row, got an empty batch",
    ),
    "x too large": (batch(x=x_with(1e39)), "x: expected numbers that float32 holds, got 1e+39 in row 2, column 1"),
    "a masked array": (batch(x=np.ma.masked_less(batch()["x"], 0.5)), "x: expected a plain array, got a masked one"),
    "w negative": (batch(w=[1, 1, -1, 1, 1]), "w: expected weights of at least 0, got -1 in row 2"),
    "w as a column": (batch(w=np.ones((5, 1))), "w: expected shape [5], got [5, 1]"),
}
NAMES = {
    "no t": (batch(t=None), "x, y"),
    "more than asked": (batch(mu0=np.zeros(5)), "x, t, y, mu0"),
    "the training's own mask": (batch(mask=np.ones(5)), "x, t, y, mask"),
    "nothing": ({}, "none"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_fit_and_train_step(case: str) -> None:
    data, message = BATCHES[case]
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).fit(data, steps=1)) == message
    reference = TorchSide("TwoHead", CONFIG).model
    with pytest.raises(ValueError) as of_torch:  # noqa: PT011 (compared below)
        torch_ref.train_step(
            reference, torch_ref.training.build_optimizer(torch_ref.SGD(), reference.parameters()), data
        )
    port, optimizer = FlaxSide("TwoHead", CONFIG), flax_impl.SGD()
    with pytest.raises(ValueError) as of_flax:  # noqa: PT011 (compared below)
        flax_impl.train_step(
            port.model, port.params, optimizer, flax_impl.training.build_optimizer(optimizer).init(port.params), data
        )
    assert str(of_torch.value) == str(of_flax.value) == message


@pytest.mark.parametrize("case", NAMES)
def test_names(case: str) -> None:
    data, names = NAMES[case]
    message = f"data: expected the arrays x, t, y, w (optional), got {names}"
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).fit(data, steps=1)) == message


def test_a_mask_of_the_batch() -> None:
    """A step takes one, so that a loop can fill up its last batch and compile once."""
    padded = batch(mask=[1, 1, 0, 1, 0])
    kept = {name: np.asarray(array)[[0, 1, 3]] for name, array in batch().items()}
    reference, port, optimizer = TorchSide("TwoHead", CONFIG), FlaxSide("TwoHead", CONFIG), flax_impl.SGD()
    built, state = (
        torch_ref.training.build_optimizer(torch_ref.SGD(), reference.model.parameters()),
        flax_impl.training.build_optimizer(optimizer).init(port.params),
    )
    of_torch = [torch_ref.train_step(reference.model, built, arrays) for arrays in (kept, padded)]
    of_flax = [flax_impl.train_step(port.model, port.params, optimizer, state, arrays)[2] for arrays in (kept, padded)]
    np.testing.assert_allclose(of_torch[1], of_torch[0], rtol=1e-2)  # a step apart
    np.testing.assert_allclose(of_flax[1], of_flax[0], rtol=1e-6)


def test_good_t_of_any_dtype() -> None:
    for t in ([0, 1, 1, 0, 1], [0.0, 1.0, 1.0, 0.0, 1.0], [False, True, True, False, True]):
        weights = TorchSide("TwoHead", CONFIG).weights()
        losses = [side("TwoHead", CONFIG, weights=weights).fit(batch(t=t), steps=1) for side in (TorchSide, FlaxSide)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
        values = torch.tensor(t), jnp.asarray(t)
        reference, port = TorchSide("TwoHead", CONFIG, weights=weights), FlaxSide("TwoHead", CONFIG, weights=weights)
        x = batch()["x"].astype(np.float32)
        of_torch = reference.model(torch.tensor(x), values[0]).detach()
        np.testing.assert_allclose(
            port.model.apply({"params": port.params}, x, values[1]), of_torch, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    "case", ["x with NaN", "x with infinity", "x of another width", "x of one dimension", "an empty batch"]
)
def test_predict(case: str) -> None:
    data, message = BATCHES[case]
    message = message.replace("features", "3")
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).predict(data["x"])) == message


def test_calling_the_model() -> None:
    x = np.zeros((5, 3), np.float32)
    calls = {
        "t: expected shape [5], got [4]": np.zeros(4, np.int32),
        "t: expected shape [5], got [5, 1]": np.zeros((5, 1), np.int32),
        "t: expected 0 or 1 in every row, got 3 in row 1": np.array([0, 3, 0, 0, 0], np.int32),
        "t: expected 0 or 1 in every row, got 0.5 in row 0": np.array([0.5, 0, 0, 0, 0], np.float32),
    }
    reference, port = TorchSide("TwoHead", CONFIG), FlaxSide("TwoHead", CONFIG)
    for message, t in calls.items():
        with pytest.raises(ValueError) as of_torch:  # noqa: PT011 (compared below)
            reference.model(torch.tensor(x), torch.tensor(t))
        with pytest.raises(ValueError) as of_flax:  # noqa: PT011 (compared below)
            port.model.apply({"params": port.params}, jnp.asarray(x), jnp.asarray(t))
        assert str(of_torch.value) == str(of_flax.value) == message


@pytest.mark.parametrize("t", [[0, 0, 0.5, 1, 1], [0, 0, 2, 0, 3], [0, 0, np.nan, 1, 1]])
@pytest.mark.parametrize("mask", [None, [False, True, True, True, False]])
def test_t_in_the_loss(t: list[float], mask: list[bool] | None) -> None:
    """Called directly too; the row is the batch's, whatever is masked before it."""
    arrays = {name: np.asarray(array, np.float32) for name, array in batch(t=t).items()}
    arrays |= {} if mask is None else {"mask": np.array(mask)}
    with pytest.raises(ValueError, match=r"^t: expected 0 or 1 in every row, got \S+ in row 2") as of_torch:
        torch_ref.FactualLoss()(TorchSide("TwoHead", CONFIG).model, **{k: torch.tensor(v) for k, v in arrays.items()})
    port = FlaxSide("TwoHead", CONFIG)
    with pytest.raises(ValueError, match=r"^t: expected") as of_flax:
        flax_impl.FactualLoss()(
            lambda *inputs: port.model.apply({"params": port.params}, *inputs),
            **{k: jnp.asarray(v) for k, v in arrays.items()},
        )
    assert str(of_torch.value) == str(of_flax.value)


def test_calling_the_loss() -> None:
    arrays = {name: np.asarray(array, np.float32) for name, array in batch(y=np.zeros(5)).items()}
    with pytest.raises(ValueError, match=r"^y: expected shape \[5, 1\], got \[5\]$"):
        torch_ref.FactualLoss()(TorchSide("TwoHead", CONFIG).model, **{k: torch.tensor(v) for k, v in arrays.items()})
    port = FlaxSide("TwoHead", CONFIG)
    with pytest.raises(ValueError, match=r"^y: expected shape \[5, 1\], got \[5\]$"):
        flax_impl.FactualLoss()(
            lambda *inputs: port.model.apply({"params": port.params}, *inputs),
            **{k: jnp.asarray(v) for k, v in arrays.items()},
        )


CURVES = {name: np.zeros((4, 1)) for name in ("x1", "x2", "y1", "y2")}
JOINT = {
    "x2 of another width": (CURVES | {"x2": np.zeros((4, 2))}, "x2: expected shape [4, 1], got [4, 2]"),
    "x2 of another length": (CURVES | {"x2": np.zeros((3, 1))}, "x2: expected 4 rows, as x1 has, got 3"),
    "y2 that would broadcast": (CURVES | {"y2": np.zeros(4)}, "y2: expected shape [4, 1], got [4]"),
    "x1 with NaN": (
        CURVES | {"x1": np.full((4, 1), np.nan)},
        "x1: expected finite numbers, got nan in row 0, column 0 (4 in all)",
    ),
    "the other model's": (batch(), "data: expected the arrays x1, x2, y1, y2, w (optional), got x, t, y"),
}


@pytest.mark.parametrize("case", JOINT)
def test_two_inputs(case: str) -> None:
    data, message = JOINT[case]

    def call(side: Any) -> None:
        made = side("TwoInTwoOut", {})
        made.fit(data, loss=made.package.JointLoss(), steps=1)

    assert same_error(ValueError, call) == message


def without_mask(model: Any, x: Any, t: Any, y: Any) -> Any:
    """A loss of somebody's own that forgets that batches are filled up."""
    return (((model(x, t) - y) ** 2).mean(),)


FITS = {
    "no mask": (
        {"steps": 1, "loss": without_mask},
        "loss: expected one that takes a mask, since short batches are filled up, got arguments x, t, y",
    ),
    "no loss": ({"steps": 1, "loss": None}, "loss: expected a loss such as FactualLoss(), got None"),
    "seed": ({"steps": 1, "seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    "seed text": ({"steps": 1, "seed": "a"}, "seed: expected a whole number of at least 0, got 'a'"),
    "neither": ({}, "epochs, steps: expected exactly one of the two, got epochs=None and steps=None"),
    "both": ({"epochs": 1, "steps": 1}, "epochs, steps: expected exactly one of the two, got epochs=1 and steps=1"),
    "no steps": ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
    "half an epoch": ({"epochs": 0.5}, "epochs: expected a whole number of at least 1, got 0.5"),
    "batch_size": ({"steps": 1, "batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
    "optimizer": (
        {"steps": 1, "optimizer": "adam"},
        "optimizer: expected settings such as Adam(lr=0.001), got 'adam'",
    ),
}


DATA = {
    "weights of zero": ({}, batch(w=np.zeros(5)), "w: expected at least one weight that is not zero, got none"),
    "labels": (
        {"criterion": "sigmoid_binary_cross_entropy"},
        batch(y=np.full((5, 1), 1.5)),
        "y: expected labels from 0 to 1, as sigmoid_binary_cross_entropy takes, got 1.5 in row 0, column 0 (5 in all)",
    ),
    "no arrays by name": ({}, [1, 2], "data: expected arrays by name, got list"),
    "the dataset itself": ({}, torch_ref.data.synthetic(5), "data: expected arrays by name, got TreatmentData"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_of_a_fit(case: str) -> None:
    loss, data, message = DATA[case]

    def call(side: Any) -> None:
        made = side("TwoHead", CONFIG)
        made.fit(data, steps=1, loss=made.package.FactualLoss(**loss))

    assert same_error(ValueError, call) == message


def test_inputs_of_predict() -> None:
    x = batch()["x"]
    message = "inputs: expected those of the model, x, t, got"
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).predict()) == f"{message} 0 arrays"
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).predict(x, x, x)) == f"{message} 3 arrays"


def test_outputs_that_are_not_finite() -> None:
    weights = {name: 1e30 * array for name, array in TorchSide("TwoHead", CONFIG).weights().items()}
    message = same_error(
        FloatingPointError, lambda side: side("TwoHead", CONFIG, weights=weights).predict(batch()["x"])
    )
    assert message.startswith("output 0: expected finite numbers, got")


def test_other_frameworks_and_odd_arrays_are_taken() -> None:
    """Tensors that need a gradient, read-only memory, another byte order, lists, small integers."""
    good = batch()
    readonly = np.asarray(good["x"], np.float32)
    readonly.flags.writeable = False
    for x in (torch.tensor(good["x"], requires_grad=True), jnp.asarray(good["x"], jnp.float32), readonly,
              good["x"].astype(">f8"), good["x"].tolist(), good["x"].astype(np.float16)):  # fmt: skip
        for side in (TorchSide, FlaxSide):
            losses = side("TwoHead", CONFIG).fit(batch(x=x), epochs=np.int8(100), batch_size=np.uint8(2))
            assert len(losses) == 300


@pytest.mark.parametrize("case", FITS)
def test_how_to_fit(case: str) -> None:
    settings, message = FITS[case]
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).fit(batch(), **settings)) == message


def _codes(side: Any, *shapes: tuple[int, ...]) -> list[Any]:
    make = torch.zeros if side is TorchSide else jnp.zeros
    return [make(shape) for shape in shapes]


@pytest.mark.parametrize("balance", ["linear_mmd", "rbf_mmd", "wasserstein"])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3,), (2, 1), (3,), (2,)), "code0: expected shape [rows0, code], got [3]"),
        (((3, 2), (2, 1), (3,), (2,)), "code1: expected shape [rows1, 2], got [rows1, 1]"),
        (((3, 2), (2, 2), (2,), (2,)), "w0: expected shape [3], got [2]"),
        (((3, 2), (2, 2), (3,), (3,)), "w1: expected shape [2], got [3]"),
    ],
)
def test_a_penalty_of_other_shapes(balance: str, shapes: Any, message: str) -> None:
    packages: dict[Any, Any] = {TorchSide: torch_ref, FlaxSide: flax_impl}
    found = same_error(ValueError, lambda side: getattr(packages[side].training, balance)(*_codes(side, *shapes)))
    assert found == message
