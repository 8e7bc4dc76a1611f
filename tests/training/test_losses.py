"""Losses against values computed by hand, on both sides; jitted and not."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flax_impl
import torch_ref

X = np.array([[1.0], [3.0], [5.0], [2.0]], np.float32)
T = np.array([0, 1, 0, 1], np.int32)
Y = np.array([[0.0], [4.0], [2.0], [1.0]], np.float32)
W = np.array([2.0, 1.0, 0.5, 2.0], np.float32)


def torch_loss(loss: Callable[..., Any], model: Callable[..., Any], **arrays: np.ndarray) -> list[float]:
    return [float(part) for part in loss(model, **{name: torch.tensor(array) for name, array in arrays.items()})]


def flax_loss(loss: Callable[..., Any], model: Callable[..., Any], **arrays: np.ndarray) -> list[float]:
    plain = [float(part) for part in loss(model, **{name: jnp.asarray(array) for name, array in arrays.items()})]
    jitted = [float(part) for part in jax.jit(lambda arrays: loss(model, **arrays))(arrays)]
    assert plain == pytest.approx(jitted, rel=1e-6)
    return plain


def both_losses(name: str, settings: dict[str, Any], models: tuple[Any, Any], **arrays: np.ndarray) -> list[float]:
    reference = torch_loss(getattr(torch_ref, name)(**settings), models[0], **arrays)
    port = flax_loss(getattr(flax_impl, name)(**settings), models[1], **arrays)
    assert port == pytest.approx(reference, rel=1e-6)
    return port


# y0 = x and y1 = 2x: head 0 is wrong by 1 and 3, head 1 by 2 and 3.
DOUBLING = (lambda x: (x, 2 * x), lambda x, t: jnp.where(t[:, None] == 1, 2 * x, x))


@pytest.mark.parametrize(
    ("reduction", "w", "expected"),
    [
        ("per_head", None, [(1 + 9) / 2, (4 + 9) / 2]),
        ("batch", None, [(1 + 9) / 4, (4 + 9) / 4]),
        ("per_head", W, [(2 * 1 + 0.5 * 9) / 2, (1 * 4 + 2 * 9) / 2]),
        ("batch", W, [(2 * 1 + 0.5 * 9) / 4, (1 * 4 + 2 * 9) / 4]),
    ],
)
def test_factual_loss(reduction: str, w: np.ndarray | None, expected: list[float]) -> None:
    arrays = {"x": X, "t": T, "y": Y} | ({} if w is None else {"w": w})
    assert both_losses("FactualLoss", {"reduction": reduction}, DOUBLING, **arrays) == pytest.approx(expected)


def test_weights_of_the_parts() -> None:
    arrays = {"x": X, "t": T, "y": Y}
    found = both_losses("FactualLoss", {"head_weights": (2, 0.5)}, DOUBLING, **arrays)
    assert found == pytest.approx([2 * (1 + 9) / 2, 0.5 * (4 + 9) / 2])

    def doubled(x1: Any, x2: Any) -> Any:
        return 2 * x1, x2

    same = {"x1": X, "x2": X, "y1": X, "y2": Y}
    found = both_losses("JointLoss", {"output_weights": (3, 0)}, (doubled, doubled), **same)
    assert found == pytest.approx([3 * (1 + 9 + 25 + 4) / 4, 0])


def test_factual_loss_of_a_masked_batch() -> None:
    mask = np.array([True, True, False, False])
    assert both_losses("FactualLoss", {}, DOUBLING, x=X, t=T, y=Y, mask=mask) == pytest.approx([1, 4])
    batch = both_losses("FactualLoss", {"reduction": "batch"}, DOUBLING, x=X, t=T, y=Y, mask=mask)
    assert batch == pytest.approx([1 / 2, 4 / 2])


def test_factual_loss_averages_the_columns_of_an_outcome() -> None:
    models = (lambda x: (x, x), lambda x, t: x)
    x = np.array([[1.0, 3.0]], np.float32)
    assert both_losses("FactualLoss", {}, models, x=x, t=np.array([0]), y=np.zeros_like(x)) == pytest.approx([5, 0])


def test_factual_loss_on_logits() -> None:
    y = np.array([[1.0], [0.0], [0.0], [1.0]], np.float32)
    settings = {"criterion": "sigmoid_binary_cross_entropy"}
    expected = [
        (math.log1p(math.exp(-1)) + math.log1p(math.exp(5))) / 2,
        (math.log1p(math.exp(6)) + math.log1p(math.exp(-4))) / 2,
    ]
    assert both_losses("FactualLoss", settings, DOUBLING, x=X, t=T, y=y) == pytest.approx(expected)


def test_cfr_weights_make_both_arms_count_alike() -> None:
    w = flax_impl.data.treatment_weights(T, treated_share=0.25)
    np.testing.assert_allclose(w, [1 / 1.5, 1 / 0.5, 1 / 1.5, 1 / 0.5])
    generator = np.random.default_rng(0)
    t = (generator.random(1000) < 0.2).astype(int)
    w = torch_ref.data.treatment_weights(t)
    assert w[t == 0].sum() == pytest.approx(500)
    assert w[t == 1].sum() == pytest.approx(500)


def test_joint_loss() -> None:
    def model(x1: Any, x2: Any) -> tuple[Any, Any]:
        return x1 + x2, x1 - x2

    models = (model, model)
    arrays = {"x1": X, "x2": np.ones_like(X), "y1": Y, "y2": Y}  # wrong by 2, 0, 4, 2 and by 0, 2, 2, 0
    assert both_losses("JointLoss", {}, models, **arrays) == pytest.approx([24 / 4, 8 / 4])
    assert both_losses("JointLoss", {}, models, **arrays, w=W) == pytest.approx([(8 + 8 + 8) / 4, (4 + 2) / 4])
    mask = np.array([False, True, True, False])
    assert both_losses("JointLoss", {}, models, **arrays, mask=mask) == pytest.approx([16 / 2, 8 / 2])


@pytest.mark.parametrize(("package", "array"), [(torch_ref, torch.tensor), (flax_impl, jnp.asarray)])
class TestElementwise:
    def test_squared_error_has_no_half(self, package: Any, array: Callable[..., Any]) -> None:
        np.testing.assert_allclose(package.training.squared_error(array([1.0, 3.0]), array([0.0, 0.0])), [1, 9])

    def test_cross_entropy(self, package: Any, array: Callable[..., Any]) -> None:
        logits, labels = array([0.0, 2.0, 2.0, -100.0, 100.0]), array([1.0, 0.0, 1.0, 1.0, 1.0])
        expected = [math.log(2), math.log1p(math.exp(2)), math.log1p(math.exp(-2)), 100, 0]
        np.testing.assert_allclose(
            package.training.sigmoid_binary_cross_entropy(logits, labels), expected, rtol=1e-6, atol=1e-30
        )

    def test_nothing_is_broadcast(self, package: Any, array: Callable[..., Any]) -> None:
        for criterion in package.training.CRITERIA.values():
            with pytest.raises(ValueError, match=r"^target: expected shape \[2, 1\], got \[2\]$"):
                criterion(array([[1.0], [2.0]]), array([1.0, 2.0]))
