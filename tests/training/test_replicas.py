"""Many trainings at once: each ends as it would by itself, however they are run."""

import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import flax_impl
import flax_impl.training.replicas.fit as replicas
from flax_impl.training.devices import Placement
from flax_impl.training.replicas.per_core import run_per_core
from flax_impl.training.replicas.vectorised import run_vectorised
from torch_ref.common.progress import Progress

MODEL = flax_impl.TwoHead(6, [16, 16], [8], final_activation="identity")
COUNT = 5
SETTINGS: dict[str, Any] = {"steps": 30, "batch_size": 40}


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return flax_impl.data.synthetic(rows=203, features=6).arrays()


@pytest.fixture(params=[run_per_core, run_vectorised])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Either way to run them, whatever the device."""
    for name in ("run_per_core", "run_vectorised"):
        monkeypatch.setattr(replicas, name, request.param)
    return request.param


def each_its_own(data: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns for each replica other weights of the rows, rates, decays, clipping, head weights and order of rows."""
    return [
        {
            "data": data | {"w": np.random.default_rng(i).uniform(0.5, 2, 203)},
            "optimizer": flax_impl.AdamW(lr=10 ** -(2 + i / 2), weight_decay=0.01 * i, clip_norm=1.0 + i),
            "loss": flax_impl.FactualLoss(head_weights=(1, i + 1)),
            "seed": i,
        }
        for i in range(COUNT)
    ]


def params_in(dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), MODEL.init_params(range(COUNT)))


@pytest.mark.usefixtures("x64")
def test_replicas_are_single_fits(data: dict[str, np.ndarray], way: Any, measured: list[str]) -> None:
    params, own = params_in(np.float64), each_its_own(data)
    together = {name: [one[name] for one in own] for name in own[0]}
    found, losses = flax_impl.fit_replicas(MODEL, params, **together, **SETTINGS)
    apart = 0.0
    for i, one in enumerate(own):
        start = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        expected, of_one = flax_impl.fit(MODEL, start, **one, **SETTINGS)
        assert losses[i].shape == of_one.shape == (30, 2)
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        apart = max(apart, *(float(np.abs(leaf[i] - other).max()) / scale for leaf, other in pairs))
        apart = max(apart, float(np.abs(losses[i] - of_one).max() / np.abs(of_one).max()))
    measured.append(f"replicas against single fits, {way.__name__}, float64: {apart:.1e} apart (at most 1e-12)")
    assert apart <= 1e-12


def test_what_is_given_once_holds_for_all(data: dict[str, np.ndarray], way: Any) -> None:
    params = MODEL.init_params([3, 3, 4])
    found, losses = flax_impl.fit_replicas(MODEL, params, data, **SETTINGS)
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], losses[2])
    outputs = flax_impl.training.predict_replicas(MODEL, found, data["x"], batch_size=100)
    one = flax_impl.predict(MODEL, jax.tree.map(lambda leaf: leaf[2], found), data["x"])
    assert [array.shape for array in outputs] == [(3, 203, 1)] * 2
    np.testing.assert_allclose([array[2] for array in outputs], one, rtol=1e-5, atol=1e-6)


def test_first_parameters_are_those_of_single_models() -> None:
    stacked = MODEL.init_params([0, 7])
    jax.tree.map(lambda leaf, one: np.testing.assert_array_equal(leaf[1], one), stacked, MODEL.init_params(7))


def test_an_array_that_is_shared_is_held_once(data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[tuple[int, ...]] = []
    table = Placement.table

    def noted(self: Any, array: np.ndarray, *lead: str) -> Any:
        placed.append(array.shape)
        return table(self, array, *lead)

    monkeypatch.setattr(Placement, "table", noted)
    own = [data | {"w": np.full(203, 1.0 + i)} for i in range(COUNT)]
    flax_impl.fit_replicas(MODEL, MODEL.init_params(range(COUNT)), own, **SETTINGS)
    assert sorted(placed) == sorted([*(np.shape(data[name]) for name in data), *[(203,)] * COUNT])


def test_a_second_call_compiles_nothing(
    data: dict[str, np.ndarray], way: Any, measured: list[str], compilations: list[str]
) -> None:
    other = {name: array[::-1][:200].copy() for name, array in data.items()}  # fewer rows, too
    counts = []
    for seed, table, lr, weight in ((0, data, 1e-3, 1.0), (1, other, 1e-2, 2.0)):
        params = MODEL.init_params(range(seed, seed + 3))
        before = len(compilations)
        flax_impl.fit_replicas(
            MODEL, params, table, optimizer=[flax_impl.Adam(lr=lr * i) for i in (1, 2, 3)],
            loss=flax_impl.FactualLoss(head_weights=(weight, 1)), seed=range(3), steps=20 + seed, batch_size=33,
        )  # fmt: skip
        counts.append(len(compilations) - before)
    measured.append(f"compilations of replicas, {way.__name__}: {counts[0]} at first, {counts[1]} at second")
    assert counts[0] > 0
    assert counts[1] == 0


@pytest.mark.parametrize("keep", [True, False])
def test_a_replica_that_diverges(data: dict[str, np.ndarray], way: Any, keep: bool) -> None:
    optimizer = [flax_impl.SGD(lr=lr) for lr in (1e-3, 1e9, 1e-3)]
    settings = {"optimizer": optimizer, "keep_diverged": keep, **SETTINGS}
    if not keep:
        with pytest.raises(
            FloatingPointError, match=r"^replica 1: loss: expected finite numbers, got .* step \d+ of 30"
        ):
            flax_impl.fit_replicas(MODEL, MODEL.init_params(range(3)), data, **settings)
        return
    _, losses = flax_impl.fit_replicas(MODEL, MODEL.init_params(range(3)), data, **settings)
    assert np.isfinite(losses).all(axis=(1, 2)).tolist() == [True, False, True]


def test_ctrl_c_ends_all_threads(data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])  # to the process, as a terminal does

    class Pressed(Progress):
        def __call__(self, step: int, losses: Any = ()) -> None:
            if ctrl_c.ident is None:
                ctrl_c.start()

    monkeypatch.setattr(replicas, "Progress", Pressed)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        flax_impl.fit_replicas(MODEL, MODEL.init_params(range(4)), data, steps=50_000, batch_size=40)
    ctrl_c.join()
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [1, 2]}, "seed: expected one, or one for each of 3 replicas, got 2"),
        ({"optimizer": [flax_impl.Adam()] * 4}, "optimizer: expected one, or one for each of 3 replicas, got 4"),
        ({"optimizer": [flax_impl.Adam(), flax_impl.SGD(), flax_impl.Adam()]}, "optimizer: expected settings that "
            "differ in numbers only, got Adam("),
        ({"loss": [flax_impl.FactualLoss(), flax_impl.FactualLoss(reduction="batch"), flax_impl.FactualLoss()]},
            "loss: expected settings that differ in numbers only, got FactualLoss("),
        ({"optimizer": "adam"}, "optimizer: expected one, or one for each of 3 replicas, got 4"),
        ({"optimizer": 3}, "optimizer: expected settings such as Adam(lr=0.001), got 3"),
        ({"precision": "half"}, "precision: expected one of 'float32', 'tf32', 'bfloat16', got 'half'"),
        ({"data": [1, 2, 3]}, "data: expected arrays by name, got int"),
        ({"mesh": jax.sharding.Mesh(np.array(jax.devices()[:1]), "x")}, "mesh: expected the axes 'replica' and 'data', "
            "got ('x',)"),
    ],
)  # fmt: skip
def test_bad_arguments(data: dict[str, np.ndarray], change: dict[str, Any], message: str) -> None:
    arguments = {"data": data, **SETTINGS} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        flax_impl.fit_replicas(MODEL, MODEL.init_params(range(3)), **arguments)


def test_tables_of_other_lengths(data: dict[str, np.ndarray]) -> None:
    shorter = {name: array[:100] for name, array in data.items()}
    expected = "data: expected the same names and as many rows in each, got 203 rows of x, t, y and, in replica 1, 100"
    with pytest.raises(ValueError, match=f"^{expected}"):
        flax_impl.fit_replicas(MODEL, MODEL.init_params(range(2)), [data, shorter], **SETTINGS)


def test_parameters_that_are_not_stacked(data: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"^params: expected stacked parameters, \[replicas, …\] each, got "):
        flax_impl.fit_replicas(MODEL, MODEL.init_params(), data, **SETTINGS)
    with pytest.raises(ValueError, match=r"^seed: expected a whole number, or at least one of them, got none$"):
        MODEL.init_params([])
