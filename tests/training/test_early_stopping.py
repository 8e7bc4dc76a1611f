"""Rows to train on, rows to hold out, and trainings that stop early: alike on both sides and in replicas."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch

import flax_impl
import flax_impl.training.replicas.fit as replicas
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import largest_difference
from flax_impl.training.replicas.per_core import run_per_core
from flax_impl.training.replicas.vectorised import run_vectorised
from tests.support.cases import same_error

ROWS = 60
CONFIG = {"in_features": 4, "representation_features": [16], "head_features": [8], "final_activation": "identity"}
MODEL = flax_impl.TwoHead(**CONFIG)
HELD_OUT = np.arange(0, ROWS, 3)
# It learns 40 rows by heart in this time, and does worse on the others.
SETTINGS: dict[str, Any] = {"epochs": 40, "batch_size": 16, "validation_rows": HELD_OUT}
DIVERGES = [flax_impl.SGD(lr=lr) for lr in (1e-3, 1e9, 1e-3)]
EVERY = 3  # steps of an epoch: 40 rows in batches of 16


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    made = torch_ref.data.synthetic(rows=ROWS, features=4)
    return torch_ref.data.Scales.of(made).standardize(made).arrays()


@pytest.fixture(params=[run_per_core, run_vectorised])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Either way to run replicas, whatever the device."""
    for name in ("run_per_core", "run_vectorised"):
        monkeypatch.setattr(replicas, name, request.param)
    return request.param


def train(side: Any, data: dict[str, np.ndarray], lr: float = 0.05, **settings: Any) -> tuple[Any, np.ndarray]:
    """Returns a side after a training in float64, and its losses; both sides start from torch's weights."""
    made = TorchSide("TwoHead", CONFIG, dtype="float64")
    made = made if side is TorchSide else FlaxSide("TwoHead", CONFIG, weights=made.weights())
    losses = made.fit(data, optimizer=made.package.Adam(lr=lr), **settings)
    return made, losses


def loss_on(made: Any, data: dict[str, np.ndarray], rows: np.ndarray) -> float:
    """Returns the loss of a side's weights on some rows, in torch: what the sides share is proved elsewhere."""
    batch = {name: torch.tensor(np.asarray(array)[rows]) for name, array in data.items()}
    judge = TorchSide("TwoHead", CONFIG, weights=made.weights(), dtype="float64")
    with torch.no_grad():
        return float(sum(torch_ref.FactualLoss()(judge.model, **batch)))


def params_in(dtype: Any, seeds: range) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), MODEL.init_params(seeds))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 3},
        {"patience": 1, "seed": 4},
        {"epochs": 8},
        {"batch_size": None, "patience": 4},
        {"rows": [1, 1, 2, 4, 5, 7, 8, 8, 8, 10, 11], "batch_size": 4, "patience": 2, "shuffle": False},
    ],
    ids=str,
)
def test_both_frameworks_stop_alike(data: dict[str, np.ndarray], settings: dict[str, Any], measured: list[str]) -> None:
    (port, found), (reference, expected) = (
        train(side, data, **(SETTINGS | settings)) for side in (FlaxSide, TorchSide)
    )
    assert found.shape == expected.shape
    assert found.shape[1] == 3
    if "patience" in settings:
        assert len(found) < 40 * EVERY  # both stopped
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    apart = largest_difference({"losses": np.nan_to_num(found)}, {"losses": np.nan_to_num(expected)})
    apart = max(apart, largest_difference(port.weights(), reference.weights()))
    named = ", ".join(f"{name}={value}" for name, value in settings.items() if name != "rows")
    measured.append(f"early stopping, {named}, float64: {apart:.1e} apart (at most 1e-11)")
    assert apart <= 1e-11


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
class TestStopping:
    def test_the_best_parameters_are_returned(self, side: Any, data: dict[str, np.ndarray]) -> None:
        made, losses = train(side, data, **SETTINGS)
        assert losses.shape == (40 * EVERY, 3)
        looks = losses[EVERY - 1 :: EVERY, -1]
        assert np.isfinite(looks).all()
        assert np.isnan(losses[:, -1]).sum() == 40 * EVERY - 40
        assert looks.min() < 0.9 * looks[-1]  # the last are not the best
        assert loss_on(made, data, HELD_OUT) == pytest.approx(looks.min(), rel=1e-12)

    @pytest.mark.parametrize("patience", [1, 2, 5])
    def test_patience_ends_it(self, side: Any, data: dict[str, np.ndarray], patience: int) -> None:
        """As many epochs after the best, and what was until then is what would have been anyway."""
        made, losses = train(side, data, patience=patience, **SETTINGS)
        _, whole = train(side, data, **SETTINGS)
        assert len(losses) < len(whole)
        np.testing.assert_allclose(losses, whole[: len(losses)], rtol=1e-12)
        looks = losses[EVERY - 1 :: EVERY, -1]
        assert len(losses) == EVERY * (looks.argmin() + 1 + patience)
        best_until = np.minimum.accumulate(looks)
        assert all(best_until[i + patience] < best_until[i] for i in range(len(looks) - patience - 1))  # and not sooner
        assert loss_on(made, data, HELD_OUT) == pytest.approx(looks.min(), rel=1e-12)

    def test_held_out_rows_are_not_trained_on(self, side: Any, data: dict[str, np.ndarray]) -> None:
        """Whatever their outcomes are, the steps are the same."""
        other = data | {"y": np.where((np.arange(ROWS) % 3 == 0)[:, None], 100.0, data["y"])}
        (_, losses), (_, others) = (train(side, table, **(SETTINGS | {"epochs": 3})) for table in (data, other))
        np.testing.assert_array_equal(losses[:, :2], others[:, :2])
        assert (others[EVERY - 1 :: EVERY, 2] > 100).all()
        left = np.setdiff1d(np.arange(ROWS), HELD_OUT)
        _, alone = train(side, data, rows=left, epochs=3, batch_size=16)
        assert alone.shape == (3 * EVERY, 2)
        np.testing.assert_allclose(losses[:, :2], alone, rtol=1e-12)

    def test_a_training_that_ends_within_an_epoch(self, side: Any, data: dict[str, np.ndarray]) -> None:
        """What comes after the last look is not returned: nothing judges it."""
        settings = SETTINGS | {"epochs": None, "steps": 2 * EVERY - 1}
        made, losses = train(side, data, **settings)
        once, _ = train(side, data, **(settings | {"steps": EVERY}))
        assert np.isfinite(losses[:, -1]).tolist() == [False, False, True, False, False]
        assert largest_difference(made.weights(), once.weights()) == 0

    def test_rows_several_times(self, side: Any, data: dict[str, np.ndarray]) -> None:
        rows = np.array([5, 5, 5, 7, 8, 1, 2, 59, 0, 5, 14])
        table = {name: np.asarray(array)[rows] for name, array in data.items()}
        other, expected = train(TorchSide, table, epochs=2, batch_size=4, shuffle=False)
        made, losses = train(side, data, rows=rows, epochs=2, batch_size=4, shuffle=False)
        assert losses.shape == expected.shape == (6, 2)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        assert largest_difference(made.weights(), other.weights()) <= 1e-12

    def test_rows_are_shuffled_too(self, side: Any, data: dict[str, np.ndarray]) -> None:
        rows = np.arange(30, 50)
        table = {name: np.asarray(array)[rows] for name, array in data.items()}
        _, losses = train(side, data, rows=rows, epochs=2, batch_size=4, seed=3)
        _, expected = train(TorchSide, table, epochs=2, batch_size=4, seed=3)
        _, ordered = train(TorchSide, table, epochs=2, batch_size=4, shuffle=False)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        assert not np.allclose(losses, ordered)

    def test_weights_count_in_the_held_out_loss(self, side: Any, data: dict[str, np.ndarray]) -> None:
        weighted = data | {"w": np.random.default_rng(0).uniform(0.2, 3, ROWS)}
        made, losses = train(side, weighted, **(SETTINGS | {"epochs": 2}))
        assert loss_on(made, weighted, HELD_OUT) == pytest.approx(np.nanmin(losses[:, -1]), rel=1e-12)
        assert loss_on(made, data, HELD_OUT) != pytest.approx(np.nanmin(losses[:, -1]), rel=1e-3)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "both": (
        {"rows": [1, 2, 3], "validation_rows": [5, 3]},
        "validation_rows: expected rows that are not trained on, got row 3 in both",
    ),
    "too large": ({"rows": [1, 60]}, "rows: expected row numbers from 0 to 59, got 60"),
    "below zero": ({"validation_rows": [1, -1]}, "validation_rows: expected row numbers from 0 to 59, got -1"),
    "no rows": ({"rows": []}, "rows: expected the numbers of some rows, got []"),
    "nothing held out": ({"validation_rows": []}, "validation_rows: expected the numbers of some rows, got []"),
    "no whole numbers": ({"rows": [1.0, 2.0]}, "rows: expected the numbers of some rows, got [1.0, 2.0]"),
    "truths": ({"rows": [True, False]}, "rows: expected the numbers of some rows, got [True, False]"),
    "patience alone": ({"patience": 3}, "patience: expected validation_rows with it, got 3 alone"),
    "no patience": (
        {"validation_rows": [0], "patience": 0},
        "patience: expected a whole number of at least 1, got 0",
    ),
    "all held out": (
        {"validation_rows": range(60)},
        "validation_rows: expected rows left to train on, got all 60",
    ),
    "too short": (
        {"validation_rows": range(20), "steps": 3, "batch_size": 10},
        "steps: expected an epoch at least, 4 of them, as rows are held out, got 3",
    ),
    "no length": (
        {"validation_rows": [0], "steps": None},
        "epochs, steps: expected exactly one of the two, got epochs=None and steps=None",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(data: dict[str, np.ndarray], case: str) -> None:
    change, message = BAD[case]
    settings = {"steps": 10, **change}
    assert same_error(ValueError, lambda side: side("TwoHead", CONFIG).fit(data, **settings)) == message
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        flax_impl.fit_replicas(MODEL, MODEL.init_params(range(2)), data, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [[1, 2], [3, 4, 5]]}, "rows: expected as many in each replica, got from 2 to 3"),
        ({"validation_rows": [[1], [3, 4]], "rows": [5, 6]},
            "validation_rows: expected as many in each replica, got from 1 to 2"),
        ({"rows": np.zeros((3, 2), int)}, "rows: expected one, or one for each of 2 replicas, got 3"),
        ({"validation_rows": [[1, 2], [3, 60]]}, "validation_rows: expected row numbers from 0 to 59, got 60"),
        ({"rows": [[1, 2], [3, 4]], "validation_rows": [4, 5]},
            "validation_rows: expected rows that are not trained on, got row 4 in both"),
    ],
)  # fmt: skip
def test_bad_rows_of_replicas(data: dict[str, np.ndarray], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        flax_impl.fit_replicas(MODEL, MODEL.init_params(range(2)), data, steps=10, **change)


@pytest.mark.usefixtures("x64")
def test_held_out_rows_that_overflow(data: dict[str, np.ndarray]) -> None:
    """The steps are finite, and no look is."""
    large = data | {"x": np.where((np.arange(ROWS) % 3 == 0)[:, None], 1e200, data["x"])}
    message = same_error(FloatingPointError, lambda side: train(side, large, **(SETTINGS | {"epochs": 2})))
    assert message.startswith("validation_rows: expected a finite loss on them, got none after any epoch: the training")


@pytest.mark.usefixtures("x64")
def test_replicas_stop_as_single_fits_do(data: dict[str, np.ndarray], way: Any, measured: list[str]) -> None:
    """Each with rows, held-out rows, rate and order of its own; the losses are NaN after its end."""
    generator = np.random.default_rng(1)
    drawn = np.stack([generator.permutation(ROWS) for _ in range(4)])
    own = {
        "rows": drawn[:, :40], "validation_rows": drawn[:, 42:], "seed": [5, 6, 7, 8],
        "optimizer": [flax_impl.Adam(lr=lr) for lr in (0.1, 0.05, 0.03, 0.001)],
    }  # fmt: skip
    settings: dict[str, Any] = {"epochs": 25, "batch_size": 16, "patience": 2}
    params = params_in(np.float64, range(4))
    found, losses = flax_impl.fit_replicas(MODEL, params, data, **own, **settings)
    apart, ends = 0.0, []
    for i in range(4):
        start = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        one: dict[str, Any] = {name: values[i] for name, values in own.items()}
        expected, of_one = flax_impl.fit(MODEL, start, data, **one, **settings)
        ends.append(len(of_one))
        assert np.isnan(losses[i, len(of_one) :]).all()
        np.testing.assert_array_equal(np.isnan(losses[i, : len(of_one)]), np.isnan(of_one))
        apart = max(apart, float(np.nanmax(np.abs(losses[i, : len(of_one)] - of_one))))
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        apart = max(apart, *(float(np.abs(leaf[i] - other).max()) for leaf, other in pairs))
    assert losses.shape == (4, max(ends), 3)
    assert len(set(ends)) > 2
    assert min(ends) < 25 * EVERY
    measured.append(
        f"replicas that stop after {', '.join(map(str, ends))} steps against single fits, {way.__name__}, float64: "
        f"{apart:.1e} apart (at most 1e-11)"
    )
    assert apart <= 1e-11


def test_rows_that_are_given_once_hold_for_all(data: dict[str, np.ndarray], way: Any) -> None:
    settings: dict[str, Any] = {"rows": range(40), "validation_rows": range(40, 60), "steps": 6, "batch_size": 16}
    _, losses = flax_impl.fit_replicas(MODEL, MODEL.init_params([3, 3, 4]), data, optimizer=DIVERGES[0], **settings)
    assert losses.shape == (3, 6, 3)
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.allclose(losses[0, :, :2], losses[2, :, :2])


@pytest.mark.parametrize("held_out", [None, HELD_OUT])
def test_a_replica_that_diverges_is_kept(data: dict[str, np.ndarray], way: Any, held_out: Any) -> None:
    settings: dict[str, Any] = {"steps": 12, "batch_size": 16, "validation_rows": held_out}
    start = MODEL.init_params(range(3))
    params, losses = flax_impl.fit_replicas(MODEL, start, data, optimizer=DIVERGES, keep_diverged=True, **settings)
    for leaf in jax.tree.leaves(params):
        assert np.isnan(leaf).reshape(3, -1).all(axis=1).tolist() == [False, True, False]
        assert np.isfinite(leaf).reshape(3, -1).all(axis=1).tolist() == [True, False, True]
    assert np.isfinite(losses[..., :2]).all(axis=(1, 2)).tolist() == [True, False, True]
    fine = jax.tree.map(lambda leaf: leaf[2], start)
    expected, of_one = flax_impl.fit(MODEL, fine, data, optimizer=DIVERGES[2], **settings)
    np.testing.assert_allclose(losses[2], of_one, rtol=1e-4)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True)
    assert max(float(np.abs(leaf[2] - other).max()) for leaf, other in pairs) <= 1e-5


@pytest.mark.parametrize("held_out", [None, HELD_OUT])
def test_a_replica_that_diverges_is_named(data: dict[str, np.ndarray], way: Any, held_out: Any) -> None:
    with pytest.raises(
        FloatingPointError, match=r"^replica 1: loss: expected finite numbers, got (inf|nan) in step \d+ of 12, output"
    ):
        flax_impl.fit_replicas(
            MODEL, MODEL.init_params(range(3)), data, optimizer=DIVERGES, steps=12, batch_size=16,
            validation_rows=held_out,
        )  # fmt: skip


def test_a_second_fit_compiles_nothing(data: dict[str, np.ndarray], compilations: list[str]) -> None:
    """Other held-out rows, as many of them, other rows to train on, and another patience."""
    params = MODEL.init_params()
    settings: dict[str, Any] = {"batch_size": 16, "optimizer": flax_impl.SGD(lr=1e-3)}
    flax_impl.fit(MODEL, params, data, validation_rows=HELD_OUT, epochs=3, **settings)
    compilations.clear()
    flax_impl.fit(MODEL, params, data, validation_rows=HELD_OUT + 1, patience=2, epochs=5, **settings)
    flax_impl.fit(MODEL, params, data, rows=range(38), validation_rows=range(40, 60), patience=1, epochs=4, **settings)
    assert not compilations
    flax_impl.fit(MODEL, params, data, validation_rows=HELD_OUT[:-1], epochs=1, **settings)
    assert compilations  # of other shapes


def test_a_second_call_of_replicas_compiles_nothing(
    data: dict[str, np.ndarray], way: Any, compilations: list[str]
) -> None:
    params = MODEL.init_params(range(3))
    settings: dict[str, Any] = {"batch_size": 16, "optimizer": flax_impl.SGD(lr=1e-3)}
    flax_impl.fit_replicas(MODEL, params, data, validation_rows=HELD_OUT, epochs=3, **settings)
    compilations.clear()
    own = np.stack([HELD_OUT + 1, HELD_OUT, HELD_OUT + 2])
    flax_impl.fit_replicas(MODEL, params, data, validation_rows=own, patience=2, epochs=4, **settings)
    assert not compilations
