"""A training's program for a GPU: nothing in its loop waits for the host, and products are as exact as was asked."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import flax_impl
import gpu_program
from bench.contestants import Task
from bench.program import loop_body

SMALL = Task(rows=60, features=5, width=8, batch_size=20, replicas=3)
ASKED = {"float32": "HIGHEST", "tf32": "HIGH", "bfloat16": "DEFAULT"}


@pytest.mark.parametrize(("precision", "replicas"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_the_loop_stays_on_the_device_and_asks_for_its_precision(precision: str, replicas: bool) -> None:
    """In all products, forward and backward."""
    body = loop_body(SMALL, precision, replicas)
    assert not body.waits
    assert len(body.products) == 26  # 9 layers forward, 9 by the weights, 8 by their inputs
    assert {product.precision for product in body.products} == {(ASKED[precision],) * 2}
    assert sum(product.flops for product in body.products) == SMALL.flops * (3 if replicas else 1)


def told(model: Any, **batch: Any) -> Any:
    losses = flax_impl.FactualLoss()(model, **batch)
    jax.debug.callback(print, losses[0])
    return losses


def with_a_product_of_its_own(model: Any, **batch: Any) -> Any:
    product = jnp.matmul(batch["x"].T, batch["x"], precision=jax.lax.Precision.DEFAULT)
    return tuple(loss + product.sum() for loss in flax_impl.FactualLoss()(model, **batch))


def test_what_waits_for_the_host_would_be_seen() -> None:
    body = loop_body(SMALL, "float32", loss=told, platform="cpu")  # JAX lowers a callback for its own device
    assert set(body.waits) == {"custom_call"}


def test_a_product_of_another_precision_would_be_seen() -> None:
    body = loop_body(SMALL, "tf32", loss=with_a_product_of_its_own)
    assert [product.precision for product in body.products].count(("DEFAULT", "DEFAULT")) == 1
    assert len(body.products) == 27


def test_tiles_that_are_not_full_count_whole() -> None:
    body = loop_body(SMALL, "float32")
    first = body.products[0]
    assert (first.rows, first.depth, first.columns) == (20, 5, 8)
    assert first.flops == 2 * 20 * 5 * 8
    assert first.padded(16) == 2 * 32 * 5 * 16


def test_the_table() -> None:
    text = gpu_program.table({("tf32", True): loop_body(SMALL, "tf32", True)}, SMALL)
    assert "3 x tf32" in text
    assert f"{3 * SMALL.flops / 1e9:.3f}" in text
    assert text.splitlines()[2].split()[-1] == "0"
