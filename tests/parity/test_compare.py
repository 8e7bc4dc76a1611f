"""Comparing and localising: on traces that are made by hand, and on runs of the port behind its reference."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.commands.backends import import_backend
from flax_impl.commands.recipes import MODELS, OPTIMIZERS, Recipe, check, reference
from flax_impl.parity import Trace, assert_parity, check_parity, compare
from flax_impl.parity.comparison.bounds import GATE_A


@pytest.fixture(scope="module")
def recorded() -> Any:
    return reference(Recipe(steps=3))


@pytest.fixture(scope="module")
def rounded() -> Any:
    return reference(Recipe(steps=3, dtype="float32"))


def with_change(trace: Any, key: str, change: Any) -> Trace:
    """The trace with one entry changed."""
    return Trace({**trace.arrays, key: change(trace.arrays[key].copy())}, trace.metadata)


def nudge(array: np.ndarray) -> np.ndarray:
    array.flat[-1] += 1e-9 * max(np.nanmax(np.abs(array)), 1e-3)
    return array


def test_a_trace_agrees_with_itself(recorded: Any, rounded: Any) -> None:
    for trace in (recorded, rounded):
        report = compare(trace, trace, trace)
        assert report.passed
        assert report.max_scaled_error == 0
        assert report.first_divergence is None
        assert not report.unmatched
        assert report.to_json()["passed"] is True


ORDER = [
    ("0/input/x", "data", "x"),
    ("0/param/head1.layer0.bias", "weights", "head1.layer0.bias"),
    ("0/module_input/representation.layer1", "forward", "representation.layer0"),
    ("0/activation/representation.layer1", "forward", "representation.layer1"),
    ("0/activation/head0.layer0", "forward", "head0.layer0"),
    ("0/module_input/head1.layer0", "forward", "representation"),
    ("0/output/1", "forward", "1"),
    ("0/loss/0", "loss", "0"),
    ("0/cotangent/head1.layer2", "backward", "head1.layer2"),
    ("0/grad/head1.layer2.weight", "backward", "head1.layer2.weight"),
    ("0/cotangent/head0.layer0", "backward", "head0.layer0"),
    ("0/grad/representation.layer0.bias", "backward", "representation.layer0.bias"),
    ("0/grad/x", "backward", "x"),
    ("0/state/head0.layer1.weight.exp_avg", "optimiser", "head0.layer1.weight"),
    ("0/update/head0.layer1.weight", "optimiser", "head0.layer1.weight"),
    ("1/activation/representation.layer0", "forward", "representation.layer0"),
    ("2/update/head1.layer2.bias", "optimiser", "head1.layer2.bias"),
]


def what_comes_of(key: str) -> str:
    """An entry that decides whether a module's does count."""
    step, phase, _ = key.split("/")
    return {"module_input": f"{step}/output/0", "activation": f"{step}/output/0", "cotangent": f"{step}/grad/x"}.get(
        phase, key
    )


@pytest.mark.parametrize(("key", "group", "name"), ORDER)
def test_one_entry_is_enough(recorded: Any, key: str, group: str, name: str) -> None:
    """Of a module's, with what comes of it: a module that differs to no effect is only cut elsewhere."""
    alone = compare(with_change(recorded, key, nudge), recorded)
    result = what_comes_of(key)
    assert alone.passed == (result != key)
    report = (
        compare(with_change(with_change(recorded, key, nudge), result, nudge), recorded) if result != key else alone
    )
    first = report.first_divergence
    assert first is not None
    assert (first.step, first.group, first.name) == (int(key[0]), group, name)
    assert [f"{e.step}/{e.phase}/{e.name}" for e in report.entries if not e.passed] == list(
        dict.fromkeys([key, result])
    )
    assert first.entry.outside == 1
    assert first.entry.worst == tuple(np.array(recorded.arrays[key].shape) - 1)
    assert GATE_A < first.entry.error < 1e-5


def test_the_first_in_the_order_of_things_is_to_blame(recorded: Any) -> None:
    """Whatever comes later differs as well, as it does in life."""
    keys = [key for key, _, _ in ORDER]
    keys.append(what_comes_of(keys[-2]))
    for i, (_, group, name) in enumerate(ORDER):
        trace = recorded
        for key in keys[i:] if i < len(ORDER) - 1 else keys[i : i + 1]:
            trace = with_change(trace, key, nudge)
        first = compare(trace, recorded).first_divergence
        assert first is not None
        assert (first.group, first.name) == (group, name)


def test_a_parent_that_is_cut_elsewhere_does_not_count(recorded: Any) -> None:
    report = compare(with_change(recorded, "0/activation/representation", nudge), recorded)
    assert report.passed
    assert [entry.name for entry in report.entries if not entry.counts] == ["representation"]
    both = with_change(with_change(recorded, "0/activation/head1", nudge), "0/output/1", nudge)
    first = compare(both, recorded).first_divergence
    assert first is not None
    assert (first.name, first.before) == ("head1.layer2", "head1 (its end)")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_must_stand_in_the_same_place(recorded: Any, bad: float) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        array.flat[0] = bad
        return array

    spoiled = with_change(recorded, "1/grad/head0.layer0.weight", spoil)
    assert compare(spoiled, spoiled).passed
    for one, other in ((spoiled, recorded), (recorded, spoiled)):
        report = compare(one, other)
        assert report.first_divergence is not None
        assert report.first_divergence.entry.error == np.inf
        assert report.to_json()["max_scaled_error"] == "inf"


def test_what_is_missing_or_of_another_shape_diverges(recorded: Any) -> None:
    lacking = Trace({k: a for k, a in recorded.arrays.items() if k != "1/update/head0.layer0.bias"}, recorded.metadata)
    first = compare(lacking, recorded).first_divergence
    assert first is not None
    assert first.entry.note == "the port has none"
    turned = with_change(recorded, "0/output/0", lambda array: array.T)
    first = compare(turned, recorded).first_divergence
    assert first is not None
    assert first.entry.note == "expected shape [24, 1], got [1, 24]"
    unheard = {k: a for k, a in recorded.arrays.items() if "/module_input/head0" not in k}
    report = compare(Trace(unheard, recorded.metadata), recorded)
    assert report.passed
    assert report.unmatched[0] == "module_input/head0, of the reference only"


def test_gate_b_allows_what_float32_does_itself(rounded: Any) -> None:
    key = "1/grad/head0.layer1.weight"
    size = np.abs(rounded.arrays[key]).max()
    bound = next(e.bound for e in compare(rounded, rounded).entries if f"{e.step}/{e.phase}/{e.name}" == key)
    assert 3e-7 < bound < 1e-4
    for share, passes in ((0.9, True), (1.1, False)):
        moved = with_change(rounded, key, lambda array, share=share: array + share * bound * size)
        assert compare(moved, rounded).passed == passes


def test_a_bound_holds_for_the_free_training_too(recorded: Any) -> None:
    free = with_change(recorded, "2/update/head0.layer0.bias", lambda array: array * (1 + 1e-6))
    report = compare(recorded, recorded, free)
    first = report.first_divergence
    assert first is not None
    assert str(first) == "step 2, optimiser, `head0.layer0.bias`, in the free-running training only"


def test_parts_of_a_loss_may_be_added_up_by_one_side(recorded: Any) -> None:
    arrays = {k: a for k, a in recorded.arrays.items() if "/loss/" not in k}
    arrays |= {f"{k}/loss/0": recorded.arrays[f"{k}/loss/0"] + recorded.arrays[f"{k}/loss/1"] for k in range(3)}
    assert compare(Trace(arrays, recorded.metadata), recorded).passed


def test_traces_that_are_not_of_the_same_training(recorded: Any, rounded: Any) -> None:
    with pytest.raises(ValueError, match="ported: expected a trace with dtype float64, got float32"):
        compare(rounded, recorded)
    with pytest.raises(ValueError, match="ported: expected a trace with steps 3, got 1"):
        compare(Trace({k: a for k, a in recorded.arrays.items() if k[0] == "0"}, recorded.metadata), recorded)


def test_the_message_of_a_failing_test_says_where_and_why(recorded: Any) -> None:
    halved = with_change(recorded, "0/update/head0.layer1.bias", lambda array: array + 0.5)
    with pytest.raises(AssertionError) as caught:
        assert_parity(halved, recorded)
    assert "first divergence at step 0, optimiser, `head0.layer1.bias`" in str(caught.value)
    assert assert_parity(recorded, recorded).passed


@pytest.mark.parametrize(
    ("model", "optimizer", "dtype"),
    [
        pytest.param(model, optimizer, dtype, marks=[pytest.mark.slow] if dtype == "float32" or (i + j) % 2 else [])
        for i, model in enumerate(MODELS)
        for j, optimizer in enumerate(OPTIMIZERS)
        for dtype in ("float64", "float32")
    ],
)
def test_no_false_alarm(model: str, optimizer: str, dtype: str) -> None:
    recipe = Recipe(model, dtype, optimizer, steps=5)
    report = check(recipe, reference(recipe))
    assert report.passed, (str(report.first_divergence), report.diagnosis)
    assert not report.unmatched


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_false_alarm_over_50_seeds(model: str, optimizer: str, dtype: str, measured: list[str]) -> None:
    nearest, flagged = 0.0, []
    for seed in range(50):
        recipe = Recipe(model, dtype, optimizer, steps=5, seed=seed)
        report = check(recipe, reference(recipe))
        nearest = max(nearest, *(entry.error / entry.bound for entry in report.entries if entry.counts and entry.bound))
        flagged += [] if report.passed else [(seed, str(report.first_divergence))]
    measured.append(
        f"50 seeds, {model}, {optimizer}, {dtype}: {len(flagged)} flagged, nearest to its bound at {nearest:.2f} of it"
    )
    assert not flagged


def stuck_adam(lr: float) -> optax.GradientTransformation:
    """Adam whose counter stays at 0: each step by itself is right, the training is not."""
    adam = optax.scale_by_adam()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        after: Any
        updates, after = adam.update(updates, state, params)
        return updates, after._replace(count=jnp.zeros((), jnp.int32))

    return optax.chain(optax.GradientTransformation(adam.init, update), optax.scale_by_learning_rate(lr))


def test_the_free_training_shows_what_each_step_by_itself_does_not() -> None:
    recipe = Recipe(steps=4, settings={"weight_decay": 0.0, "clip_norm": 1e6}, schedule=("constant", {}))
    trace = reference(recipe)
    port = import_backend("flax")
    settings = {**recipe.make(port), "optimizer": stuck_adam(1e-2)}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        report = flax_impl.check_parity(trace, recipe.build(port), progress=False, **settings)
    assert all(entry.passed for entry in report.entries)
    first = report.first_divergence
    assert first is not None
    assert first.free
    assert first.step == 1


def test_float64_needs_64_bits(recorded: Any) -> None:
    with pytest.raises(ValueError, match="reference: expected float32 while JAX's 64-bit mode is off, got float64"):
        flax_impl.check_parity(recorded, flax_impl.TwoHead(6))


def test_progress_of_a_long_check_can_be_shown(recorded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(Recipe(), steps=3)
    port = import_backend("flax")
    with jax.enable_x64(True):
        trace = flax_impl.parity.replay(recorded, recipe.build(port), **recipe.make(port))
    assert compare(trace, recorded).passed
    assert capsys.readouterr().out == ""  # it goes to standard error, and is short
    assert torch_ref.record.__doc__


def traced(**arrays: list[float]) -> Trace:
    metadata: dict[str, Any] = {
        "dtype": "float64", "model": "Net", "optimizer": {"name": "SGD", "lr": [0.1, 0.1]}, "calls": [], "buffers": [],
        "frozen": ["table"], "modules": {}, "inputs": [],
    }  # fmt: skip
    return Trace({name.replace("__", "/"): np.array(array) for name, array in arrays.items()}, metadata)


def test_what_a_cancelled_gradient_moves_is_measured_by_the_others() -> None:
    """A key's bias has no gradient but rounding: with fresh weights it has no size of its own."""
    own = {
        "0__param__w": [1.0],
        "0__param__b": [0.0],
        "0__grad__w": [1.0],
        "0__grad__b": [1e-17],
        "0__update__w": [0.9],
    }
    reference = traced(**own, **{"0__update__b": [1e-18]})
    assert compare(traced(**own, **{"0__update__b": [-3e-18]}), reference).passed
    assert not compare(traced(**own, **{"0__update__b": [1e-6]}), reference).passed


def test_a_frozen_table_may_be_computed_by_the_port() -> None:
    own = {"0__param__w": [1.0], "0__update__w": [0.9]}
    reference = traced(**own, **{"0__param__table": [0.5, 0.1], "0__update__table": [0.5, 0.1]})
    assert compare(traced(**own), reference).passed
    trained = traced(**own, **{"0__param__v": [0.5], "0__update__v": [0.5]})
    assert not compare(traced(**own), trained).passed


def two_groups(parameters: Any, rates: tuple[float, float], decays: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW with one group for matrices and one for vectors."""
    held = list(parameters)
    of = ([p for p in held if p.dim() > 1], [p for p in held if p.dim() <= 1])
    return torch.optim.AdamW(
        [{"params": p, "lr": r, "weight_decay": d} for p, r, d in zip(of, rates, decays, strict=True)]
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("rates", "decays", "mask", "cause"),
    [
        ((1e-2, 1e-2), (0.1, 0.0), "matrices", ""),
        ((1e-2, 1e-2), (0.1, 0.0), "all", "the port decays every bias (the parameters of one dimension) too"),
        ((1e-2, 1e-2), (0.1, 0.0), "vectors", "the port decays the parameters of the other group"),
        ((1e-2, 1e-3), (0.1, 0.1), "all", "the port has one learning rate for all parameters"),
    ],
)
def test_groups_of_parameters(rates: tuple[float, float], decays: tuple[float, float], mask: str, cause: str) -> None:
    model, batches = torch_ref.TwoInTwoOut(hidden_features=3).double(), [torch_ref.data.curves(points=5)] * 3
    trace = torch_ref.record(
        model, batches, torch_ref.JointLoss(), optimizer=lambda p: two_groups(p, rates, decays), progress=False
    )
    chosen = {"all": lambda leaf: True, "matrices": lambda leaf: leaf.ndim > 1, "vectors": lambda leaf: leaf.ndim <= 1}
    port = optax.adamw(1e-2, weight_decay=0.1, mask=lambda params: jax.tree.map(chosen[mask], params))
    with jax.numpy_dtype_promotion("standard"):
        report = check_parity(
            trace, flax_impl.TwoInTwoOut(hidden_features=3), flax_impl.JointLoss(), optimizer=port, progress=False
        )
    assert report.passed == (not cause), str(report)
    if cause:
        assert report.diagnosis[0].text.startswith(cause)
        assert report.diagnosis[0].certain
