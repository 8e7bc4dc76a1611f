"""Optimisers and schedules: torch's against the port's, from the same gradients, step by step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings, strategies as st

import flax_impl
import torch_ref
from flax_impl.parity import largest_difference
from flax_impl.training.traced_settings import without_idle_decay

SHAPES = {"kernel": (3, 4), "bias": (4,), "scalar": ()}
STEPS = 12

SETTINGS = [
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3}),
    ("sgd", {"dampening": 0.3}),
    ("sgd", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {}),
    ("adam", {"betas": (0.5, 0.7), "eps": 1e-3}),
    ("adam", {"betas": (0.0, 0.0)}),
    ("adam", {"weight_decay": 0.1}),
    ("adamw", {}),
    ("adamw", {"weight_decay": 0.1}),
    ("rmsprop", {}),
    ("rmsprop", {"alpha": 0.9, "eps": 1e-3}),
    ("rmsprop", {"momentum": 0.9}),
    ("rmsprop", {"centered": True}),
    ("rmsprop", {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
]
SCHEDULES = [
    ("constant", {}),
    ("step", {"step_size": 3}),
    ("step", {"step_size": 5, "gamma": 0.5}),
    ("exponential", {"gamma": 0.7}),
    ("cosine", {"T_max": 12}),
    ("cosine", {"T_max": 4, "eta_min": 1e-3}),  # past its end torch rises again
]

Tree = dict[str, np.ndarray]


def draw_tree(seed: int, size: float = 1.0) -> Tree:
    generator = np.random.default_rng(seed)
    return {name: size * np.asarray(generator.normal(size=shape)) for name, shape in SHAPES.items()}


def torch_run(
    optimizer: torch_ref.training.Optimizer, start: Tree, gradients: list[Tree], dtype: str = "float64"
) -> list[Tree]:
    """Returns the parameters after each step."""
    parameters = {name: torch.nn.Parameter(torch.tensor(array.astype(dtype))) for name, array in start.items()}
    built = torch_ref.training.build_optimizer(optimizer, parameters.values())
    found = []
    for gradient in gradients:
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradient[name].astype(dtype))
        built.step()
        found.append({name: parameter.detach().numpy().copy() for name, parameter in parameters.items()})
    return found


def flax_run(
    optimizer: flax_impl.training.Optimizer,
    start: Tree,
    gradients: list[Tree],
    dtype: str = "float64",
    build: Callable[[Any], optax.GradientTransformation] = flax_impl.training.build_optimizer,
) -> list[Tree]:
    """Returns the parameters after each step; the settings go in as values, as `fit` gives them."""

    @jax.jit
    def step(optimizer: flax_impl.training.Optimizer, params: Any, state: Any, gradient: Any) -> Any:
        updates, state = build(optimizer).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda array: jnp.asarray(array, dtype), start)
    state = build(optimizer).init(params)
    found = []
    for gradient in gradients:
        gradient = jax.tree.map(lambda array: jnp.asarray(array, dtype), gradient)
        params, state = step(optimizer, params, state, gradient)
        found.append(jax.tree.map(np.asarray, params))
    return found


def both(name: str, arguments: dict[str, Any], schedule: str, over: dict[str, Any]) -> tuple[Any, Any]:
    return tuple(
        package.training.make_optimizer(name, schedule=package.training.make_schedule(schedule, **over), **arguments)
        for package in (torch_ref, flax_impl)
    )  # pyright: ignore


def worst(reference: list[Tree], found: list[Tree]) -> list[float]:
    return [largest_difference(a, b) for a, b in zip(found, reference, strict=True)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("clip_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize(("name", "arguments"), SETTINGS)
def test_optimizer(name: str, arguments: dict[str, Any], clip_norm: float | None) -> None:
    reference, port = both(name, {"lr": 0.01, "clip_norm": clip_norm, **arguments}, "constant", {})
    gradients = [draw_tree(seed) for seed in range(1, STEPS + 1)]
    differences = worst(torch_run(reference, draw_tree(0), gradients), flax_run(port, draw_tree(0), gradients))
    assert differences[0] <= 1e-12
    assert max(differences) <= 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(torch_ref.training.OPTIMIZERS))
def test_a_decay_of_0_is_left_out(name: str) -> None:
    """As `fit` does: its program has no decay then, and its state, and so a checkpoint's, is the same."""
    reference, port = both(name, {"lr": 0.01, "weight_decay": 0.0}, "constant", {})
    lean = without_idle_decay(port)
    assert len(jax.tree.leaves(lean)) == len(jax.tree.leaves(port)) - 1
    gradients = [draw_tree(seed) for seed in range(1, STEPS + 1)]
    assert max(worst(torch_run(reference, draw_tree(0), gradients), flax_run(lean, draw_tree(0), gradients))) <= 1e-12
    states = [flax_impl.training.build_optimizer(settings).init(draw_tree(0)) for settings in (lean, port)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    decaying = replace(port, weight_decay=0.1)
    assert without_idle_decay(decaying) is decaying


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(torch_ref.training.OPTIMIZERS))
@pytest.mark.parametrize(("schedule", "over"), SCHEDULES)
def test_schedule(schedule: str, over: dict[str, Any], name: str) -> None:
    reference, port = both(name, {"lr": 0.01}, schedule, over)
    gradients = [draw_tree(seed) for seed in range(1, STEPS + 1)]
    assert max(worst(torch_run(reference, draw_tree(0), gradients), flax_run(port, draw_tree(0), gradients))) <= 1e-12


@pytest.mark.usefixtures("x64")
def test_any_arguments(measured: list[str]) -> None:
    found: list[float] = []

    @settings(max_examples=40)
    @given(
        st.sampled_from(SETTINGS),
        st.sampled_from(SCHEDULES),
        st.floats(1e-5, 1),
        st.none() | st.floats(1e-3, 10),
        st.floats(1e-6, 1e3),
    )
    def check(setting: Any, schedule: Any, lr: float, clip_norm: float | None, size: float) -> None:
        name, arguments = setting
        reference, port = both(name, {"lr": lr, "clip_norm": clip_norm, **arguments}, *schedule)
        gradients = [draw_tree(seed, size) for seed in range(1, 4)]
        differences = worst(torch_run(reference, draw_tree(0), gradients), flax_run(port, draw_tree(0), gradients))
        found.append(differences[0])
        assert max(differences) <= 1e-12

    check()
    measured.append(
        f"one optimiser step, float64: {len(found)} cases, largest scaled difference {max(found):.1e} (at most 1e-12)"
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(torch_ref.training.OPTIMIZERS))
def test_zero_gradients(name: str) -> None:
    """What a head without rows gets: state moves on both sides alike."""
    reference, port = both(name, {"lr": 0.01}, "constant", {})
    zeros = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    gradients = [draw_tree(1), zeros, draw_tree(2), zeros]
    assert max(worst(torch_run(reference, draw_tree(0), gradients), flax_run(port, draw_tree(0), gradients))) <= 1e-12


def rounding(exact: list[Tree], found: list[Tree], reference: list[Tree]) -> float:
    """Returns how far a float32 run is from float64, as a share of what gate B allows it.

    Gate B allows 3 times the distance of the reference in float32, and one rounding of the largest value in each step.
    """
    shares = []
    for step, tree in enumerate(exact):
        allowed = (step + 1) * np.finfo(np.float32).eps * max(np.abs(array).max() for array in tree.values())
        allowed += 3 * max(np.abs(reference[step][leaf] - array).max() for leaf, array in tree.items())
        shares.append(max(np.abs(found[step][leaf] - array).max() for leaf, array in tree.items()) / allowed)
    return max(shares)


@pytest.mark.parametrize(("name", "arguments"), SETTINGS)
def test_float32_is_as_exact_as_torchs(name: str, arguments: dict[str, Any]) -> None:
    reference, port = both(name, {"lr": 0.1, "clip_norm": 1.0, **arguments}, "exponential", {"gamma": 0.999})
    gradients = [draw_tree(seed) for seed in range(1, STEPS + 1)]
    exact, rounded = (torch_run(reference, draw_tree(0), gradients, dtype) for dtype in ("float64", "float32"))
    assert rounding(exact, flax_run(port, draw_tree(0), gradients, "float32"), rounded) <= 1


def test_optaxs_adam_is_not_as_exact() -> None:
    """The gate above has teeth, and the port a reason to take 1 - beta ** step by its logarithm."""
    gradients = [draw_tree(1)]
    exact, rounded = (
        torch_run(torch_ref.Adam(lr=0.1), draw_tree(0), gradients, dtype) for dtype in ("float64", "float32")
    )
    with jax.numpy_dtype_promotion("standard"):
        found = flax_run(flax_impl.Adam(), draw_tree(0), gradients, "float32", lambda _: optax.adam(0.1))
    assert rounding(exact, found, rounded) > 1
    assert rounding(exact, flax_run(flax_impl.Adam(lr=0.1), draw_tree(0), gradients, "float32"), rounded) <= 1


def test_a_late_step_keeps_its_place_in_the_cosine() -> None:
    rate = flax_impl.training.build_schedule(flax_impl.training.Cosine(T_max=10), 1.0)
    for step in (1_000_005, 10_000_005):
        assert np.asarray(rate(jnp.int32(step))) == pytest.approx(0.5, abs=1e-6)


def test_settings_are_values() -> None:
    """Another rate is another leaf; another power is another structure."""
    structure = jax.tree.structure(flax_impl.Adam(lr=1.0))
    assert structure == jax.tree.structure(flax_impl.Adam(lr=2.0, eps=0.1, weight_decay=0.5))
    assert [type(leaf) for leaf in jax.tree.leaves(flax_impl.Adam(lr=1))] == [float] * 3
    assert structure != jax.tree.structure(flax_impl.Adam(betas=(0.5, 0.9)))
    assert structure != jax.tree.structure(flax_impl.Adam(clip_norm=1.0))
    assert structure != jax.tree.structure(flax_impl.AdamW())  # with register_dataclass these two are equal
