"""Gates on groups of input columns, in both frameworks."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import flax_impl
import torch_ref
from flax_impl.models import from_numpy, nnx as nnx_models
from torch_ref.models import to_numpy


def test_a_gate_is_the_fourth_power_of_its_scale() -> None:
    gate = torch_ref.models.InputGate([1, 2])
    with torch.no_grad():
        gate.scale[:] = torch.tensor([2.0, 0.5])
    assert gate(torch.ones(1, 3)).tolist() == [[16.0, 0.0625, 0.0625]]
    params = {"scale": np.array([2.0, 0.5], np.float32)}
    found = flax_impl.models.InputGate([1, 2]).apply({"params": params}, np.ones((1, 3), np.float32))
    assert np.asarray(found).tolist() == [[16.0, 0.0625, 0.0625]]


@pytest.mark.parametrize("held_out", [None, np.arange(20)])
def test_a_training_with_gates_and_an_average_agrees(held_out: np.ndarray | None) -> None:
    data = torch_ref.data.synthetic(rows=80, features=6).arrays()
    reference = torch_ref.TwoHead(6, [8], [4], input_groups=[1, 2, 3]).double()
    with torch.no_grad():
        reference.gate.scale[:] = torch.tensor([0.9, 1.1, 0.7])
    settings = {
        "optimizer": torch_ref.AdamW(lr=2e-3, weight_decay=0.5, average=0.9), "epochs": 5, "batch_size": 10,
        "validation_rows": held_out, "progress": False,
    }  # fmt: skip
    with jax.enable_x64(True):
        port = flax_impl.TwoHead(6, [8], [4], input_groups=[1, 2, 3])
        start = from_numpy(port, to_numpy(reference))
        params, losses = flax_impl.fit(port, start, data, **settings)
        twice = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), start)
        replicas, _ = flax_impl.fit_replicas(port, twice, data, **settings)
        module = nnx_models.TwoHead(6, [8], [4], input_groups=[1, 2, 3], rngs=nnx.Rngs(0))
        nnx.update(module, params)
        outputs = module(jax.numpy.asarray(data["x"]))
    np.testing.assert_allclose(losses, torch_ref.fit(reference, data, **settings), rtol=1e-12, atol=1e-12)
    for name, weights in to_numpy(reference).items():
        np.testing.assert_allclose(flax_impl.models.to_numpy(params)[name], weights, rtol=0, atol=1e-12)
    jax.tree.map(lambda one, many: np.testing.assert_array_equal(one, many[1]), params, replicas)
    for ours, theirs in zip(outputs, torch_ref.predict(reference, data["x"]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_an_average_is_what_a_training_returns() -> None:
    """With one parameter and known steps: the share that is kept grows from nothing to the one asked for."""
    weights = [1.0]
    for _ in range(3):
        weights.append(weights[-1] - 0.5 * 2 * weights[-1] * 0.5)  # SGD with 0.25 of the gradient of w squared
    averages = [weights[1]]
    for step, now in enumerate(weights[2:], 1):
        kept = min(0.9, (1 + step) / (10 + step))
        averages.append(now + kept * (averages[-1] - now))
    optimizer: Any = flax_impl.training.build_optimizer(flax_impl.SGD(lr=0.25, average=0.9))
    params = np.float32(1.0)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(2 * params, state, params)
        params = params + updates
    assert float(flax_impl.training.build.averaged(state, params)) == pytest.approx(averages[-1], rel=1e-6)


@pytest.mark.parametrize("groups", [[], [1, 2], "36", [0, 6]])
def test_groups_that_do_not_fit_are_refused_alike(groups: object) -> None:
    messages = []
    for package in (torch_ref, flax_impl):
        with pytest.raises(ValueError, match="input_groups: expected") as error:
            package.TwoHead(6, [8], [4], input_groups=groups)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
