"""Whole trainings: equal on both sides, compiled once, and the same again from the same seed."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import largest_difference, relative_difference
from flax_impl.training.devices import Placement
from torch_ref.common.batches import batch_order
from torch_ref.common.data.design import finite_tables
from torch_ref.common.progress import Progress

SMALL = {"in_features": 10, "representation_features": [8, 8], "head_features": [8], "final_activation": "identity"}


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    made = torch_ref.data.synthetic(rows=130)
    return torch_ref.data.Scales.of(made).standardize(made).arrays()


def train_both(model: str, config: dict[str, Any], data: Any, settings: Any) -> tuple[FlaxSide, TorchSide, Any, Any]:
    """Trains both sides in float64 from the same weights; `settings` makes those of `fit` from a package."""
    reference = TorchSide(model, config, dtype="float64")
    port = FlaxSide(model, config, weights=reference.weights())
    return port, reference, port.fit(data, **settings(flax_impl)), reference.fit(data, **settings(torch_ref))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_articles_5000_steps(measured: list[str]) -> None:
    port, reference, found, expected = train_both(
        "TwoInTwoOut",
        {"in_features": 1, "hidden_features": 20, "out_features": 1},
        torch_ref.data.curves(100),
        lambda package: {
            "optimizer": package.SGD(lr=0.1), "loss": package.JointLoss(), "steps": 5000, "shuffle": False
        },
    )  # fmt: skip
    assert found.shape == expected.shape == (5000, 2)
    assert (expected[-1] < 0.1 * expected[0]).all()
    apart = relative_difference(found, expected)
    measured.append(f"the article's 5000 steps, float64: loss curves {apart:.1e} apart (at most 1e-09), "
                    f"parameters {largest_difference(port.weights(), reference.weights()):.1e}")  # fmt: skip
    assert apart <= 1e-9


@pytest.mark.usefixtures("x64")
def test_200_adam_steps_on_real_covariates(measured: list[str]) -> None:
    pytest.importorskip("causallib")
    acic = finite_tables(torch_ref.data.load_data("acic2016:1"))[0]
    port, reference, found, expected = train_both(
        "TwoHead",
        {"in_features": acic.x.shape[1]},
        torch_ref.data.Scales.of(acic).standardize(acic).arrays(),
        lambda package: {"optimizer": package.Adam(lr=1e-3), "steps": 200, "batch_size": 100},
    )
    weights, others = port.weights(), reference.weights()
    apart = max(float(np.abs(weights[name] - others[name]).max()) for name in others)
    measured.append(f"200 Adam steps on acic2016:1, float64: parameters {apart:.1e} apart (at most 1e-09)")
    assert apart <= 1e-9
    assert relative_difference(found, expected) <= 1e-9
    assert expected[-20:].mean() < 0.5 * expected[:5].mean()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [1, 40, 130, 1000, None])
@pytest.mark.parametrize("reduction", ["per_head", "batch"])
def test_batches_of_any_size(data: dict[str, np.ndarray], batch_size: int | None, reduction: str) -> None:
    """Short last batches, batches of one arm, weights, clipping and a schedule."""
    weighted = data | {"w": torch_ref.data.treatment_weights(data["t"])}
    port, reference, found, expected = train_both(
        "TwoHead",
        SMALL,
        weighted,
        lambda package: {
            "optimizer": package.AdamW(lr=1e-2, clip_norm=0.5, schedule=package.training.Cosine(T_max=9)),
            "loss": package.FactualLoss(reduction=reduction), "epochs": 2 if batch_size != 1 else 1,
            "batch_size": batch_size,
        },
    )  # fmt: skip
    assert largest_difference({"losses": found}, {"losses": expected}) <= 1e-12
    assert largest_difference(port.weights(), reference.weights()) <= 1e-12


def test_a_fit_is_its_steps(data: dict[str, np.ndarray]) -> None:
    """`fit` takes the same steps that `train_step` takes on the batches of `batch_order`."""
    index, mask = batch_order(130, batch_size=40, steps=7, shuffle=True, seed=3)
    model, optimizer = flax_impl.TwoHead(**SMALL), flax_impl.Adam(lr=1e-2)
    start = params = model.init_params()
    state = flax_impl.training.build_optimizer(optimizer).init(params)
    by_hand = []
    for rows, keep in zip(index, mask, strict=True):
        batch = {name: array[rows[keep]] for name, array in data.items()}
        params, state, losses = flax_impl.train_step(model, params, optimizer, state, batch)
        by_hand.append(losses)
    fitted, losses = flax_impl.fit(model, start, data, optimizer=optimizer, steps=7, batch_size=40, seed=3)
    np.testing.assert_allclose(losses, by_hand, rtol=1e-5)
    chex.assert_trees_all_close(fitted, params, rtol=1e-4, atol=1e-6)
    reference = TorchSide("TwoHead", SMALL, weights=flax_impl.models.to_numpy(start))
    built = torch_ref.training.build_optimizer(torch_ref.Adam(lr=1e-2), reference.model.parameters())
    for rows, keep, expected in zip(index, mask, by_hand, strict=True):
        batch = {name: array[rows[keep]] for name, array in data.items()}
        np.testing.assert_allclose(torch_ref.train_step(reference.model, built, batch), expected, rtol=1e-4)


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_the_same_seed_gives_the_same_training(data: dict[str, np.ndarray], side: Any) -> None:
    runs = []
    for seed in (1, 1, 2):
        made = side("TwoHead", SMALL)
        runs.append((made.fit(data, steps=10, batch_size=40, seed=seed), made.weights()))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert all(np.array_equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])
    assert not np.array_equal(runs[0][0], runs[2][0])


def test_the_port_leaves_its_first_parameters_as_they_are(data: dict[str, np.ndarray]) -> None:
    model = flax_impl.TwoHead(**SMALL)
    params = model.init_params()
    before = flax_impl.models.to_numpy(params)
    flax_impl.fit(model, params, data, steps=3)
    after = flax_impl.models.to_numpy(params)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_second_fit_compiles_nothing(
    data: dict[str, np.ndarray], measured: list[str], compilations: list[str]
) -> None:
    """Other data, seed, learning rate, weights and number of steps, and equal settings made anew."""
    other = {name: array[::-1].copy() for name, array in data.items()}

    def run(data: dict[str, np.ndarray], seed: int, lr: float, steps: int) -> int:
        compilations.clear()
        model = flax_impl.TwoHead(**SMALL)
        optimizer = flax_impl.Adam(lr=lr, clip_norm=1 / lr, schedule=flax_impl.training.Cosine(T_max=50))
        loss = flax_impl.FactualLoss(reduction="batch")
        flax_impl.fit(model, params, data, optimizer=optimizer, loss=loss, steps=steps, batch_size=40, seed=seed)
        return len(compilations)

    params = flax_impl.TwoHead(**SMALL).init_params(seed=0)
    first = run(data, seed=0, lr=1e-3, steps=20)
    params = flax_impl.TwoHead(**SMALL).init_params(seed=1)
    second = run(other, seed=1, lr=1, steps=30)
    measured.append(f"compilations: {first} in a first fit, {second} in a second (at most 0)")
    assert first > 0
    assert second == 0


def test_a_loss_is_traced_once(data: dict[str, np.ndarray]) -> None:
    model, optimizer = flax_impl.TwoHead(**SMALL), flax_impl.SGD()
    params = model.init_params()
    state = flax_impl.training.build_optimizer(optimizer).init(params)

    @chex.assert_max_traces(1)
    def counted(model: Any, x: Any, t: Any, y: Any) -> Any:
        return flax_impl.FactualLoss()(model, x, t, y)

    for lr in (1e-3, 1e-2, 1e-1):
        params, state, _ = flax_impl.train_step(model, params, flax_impl.SGD(lr=lr), state, data, counted)


def test_a_step_inside_somebodys_own_jit(data: dict[str, np.ndarray]) -> None:
    model, optimizer = flax_impl.TwoHead(**SMALL), flax_impl.Adam()
    params = model.init_params()
    state = flax_impl.training.build_optimizer(optimizer).init(params)
    batch = {name: array.astype(np.float32 if name != "t" else np.int32) for name, array in data.items()}
    step = jax.jit(lambda params, state, batch: flax_impl.train_step(model, params, optimizer, state, batch))
    inside, outside = step(params, state, batch), flax_impl.train_step(model, params, optimizer, state, batch)
    chex.assert_trees_all_close(inside, outside, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_predict_in_parts(data: dict[str, np.ndarray], side: Any) -> None:
    made = side("TwoHead", SMALL)
    whole = made.predict(data["x"])
    params = (made.params,) if side is FlaxSide else ()
    parts = made.package.predict(made.model, *params, data["x"], batch_size=33)
    assert len(whole) == len(parts) == 2
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    (factual,) = made.predict(data["x"], data["t"])
    np.testing.assert_allclose(factual, np.where(data["t"][:, None] == 1, whole[1], whole[0]), rtol=1e-5, atol=1e-6)


def test_outputs_in_one_array(data: dict[str, np.ndarray]) -> None:
    for model, config, inputs in (("TwoHead", SMALL, (data["x"],)), ("TwoInTwoOut", {}, (data["y"], data["y"]))):
        reference = TorchSide(model, config)
        port = FlaxSide(model, config, weights=reference.weights())
        arrays = [array.astype(np.float32) for array in inputs]
        of_port = port.model.apply({"params": port.params}, *arrays, method="concatenated")
        of_torch = reference.model.concatenated(*map(torch.tensor, arrays)).detach().numpy()
        np.testing.assert_allclose(of_port, of_torch, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(of_torch, np.hstack(reference.predict(*arrays)))


@pytest.mark.usefixtures("x64")
def test_a_loss_of_ones_own(data: dict[str, np.ndarray]) -> None:
    """Parameters that it never uses get a gradient of zero on both sides: the decay moves them alike."""

    def only_head0(where: Any) -> Any:
        return lambda model, x, t, y, mask: (where(mask[:, None], (model(x)[0] - y) ** 2, 0.0).mean(),)

    port, reference, found, expected = train_both(
        "TwoHead",
        SMALL,
        data,
        lambda package: {
            "optimizer": package.AdamW(lr=0.1, weight_decay=0.5), "steps": 5, "batch_size": 65,
            "loss": only_head0(torch.where if package is torch_ref else jnp.where),
        },
    )  # fmt: skip
    assert found.shape == expected.shape == (5, 1)
    assert largest_difference(port.weights(), reference.weights()) <= 1e-12


def test_ctrl_c_is_heard(data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices of the compiled loop, and the next fit is none the worse."""
    ctrl_c = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])

    class Pressed(Progress):
        def __call__(self, step: int, losses: Any = ()) -> None:
            if ctrl_c.ident is None:  # not started yet
                ctrl_c.start()

    monkeypatch.setattr("flax_impl.training.fit.Progress", Pressed)
    model = flax_impl.TwoHead(**SMALL)
    params = model.init_params()
    with pytest.raises(KeyboardInterrupt):
        flax_impl.fit(model, params, data, steps=200_000, batch_size=40)
    monkeypatch.undo()
    assert len(flax_impl.fit(model, params, data, steps=3, batch_size=40)[1]) == 3


@pytest.mark.parametrize("steps", [1, 2, 1025, 2500])
def test_slices_of_the_loop_lose_no_step(data: dict[str, np.ndarray], steps: int) -> None:
    _, losses = flax_impl.fit(
        flax_impl.TwoHead(**SMALL), flax_impl.TwoHead(**SMALL).init_params(), data, steps=steps, batch_size=1
    )
    expected = TorchSide("TwoHead", SMALL, weights=flax_impl.models.to_numpy(flax_impl.TwoHead(**SMALL).init_params()))
    reference = expected.fit(data, steps=min(steps, 30), batch_size=1)
    assert losses.shape == (steps, 2)
    assert ((losses == 0).sum(axis=1) == 1).all()  # a batch of one row: one head's loss, and 0 for the other
    np.testing.assert_allclose(losses[:30], reference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_the_last_step_is_checked_too(data: dict[str, np.ndarray], side: Any) -> None:
    made = side("TwoHead", SMALL)
    data = data | {"y": data["y"] * 1e18}
    with pytest.raises(FloatingPointError, match=r"expected finite numbers, got \S+ after the last step: the training"):
        made.fit(data, optimizer=made.package.SGD(lr=3e38), steps=1)


@pytest.mark.parametrize("side", [TorchSide, FlaxSide])
def test_a_training_that_diverges_says_where(data: dict[str, np.ndarray], side: Any) -> None:
    made = side("TwoHead", SMALL)
    with pytest.raises(
        FloatingPointError, match=r"^loss: expected finite numbers, got (inf|nan) in step \d+ of 50, output"
    ):
        made.fit(data, optimizer=made.package.SGD(lr=1e6), steps=50)


KEEP = """
import sys
import jax
import flax_impl as package
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
package.training.cache_compilations(sys.argv[1])
model = package.TwoHead(10, [4], [4])
package.fit(model, model.init_params(), package.data.synthetic(rows=50).arrays(), steps=3)
print(len(hits))
"""


@pytest.mark.slow
def test_what_is_compiled_is_kept_for_the_next_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEP, str(tmp_path / "cache")]
    hits = [
        int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout) for _ in range(2)
    ]
    assert hits[0] == 0
    assert hits[1] >= 2  # the loop and the optimiser's state at the least


def test_tables_of_about_as_many_rows_share_a_program(data: dict[str, np.ndarray], compilations: list[str]) -> None:
    model = flax_impl.TwoHead(**SMALL)
    flax_impl.fit(model, model.init_params(), data, steps=2, batch_size=32)
    compilations.clear()
    for rows in (129, 135, 144):
        other = {name: np.concatenate([array, array])[:rows] for name, array in data.items()}
        flax_impl.fit(model, model.init_params(), other, steps=2, batch_size=32)
    assert not compilations


@pytest.mark.parametrize("rows", [1, 7, 8, 100, 1023, 1024, 1_000_003])
def test_a_table_takes_an_eighth_more_at_most(rows: int) -> None:
    placed = Placement(None).table(np.arange(rows, dtype=np.float32))
    assert rows <= len(placed) <= max(rows, 1.125 * rows)
    np.testing.assert_array_equal(placed[:rows], np.arange(rows))
