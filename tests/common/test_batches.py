"""Batches: every row once an epoch, the same in every framework."""

import os
import signal
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.common import batches
from torch_ref.common.batches import BatchOrder, batch_order, count_steps


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.integers(1, 30), st.booleans(), st.integers(0, 9))
def test_every_row_once_an_epoch(rows: int, batch_size: int | None, steps: int, shuffle: bool, seed: int) -> None:
    index, mask = batch_order(rows, batch_size=batch_size, steps=steps, shuffle=shuffle, seed=seed)
    width = min(batch_size or rows, rows)
    assert index.shape == mask.shape == (steps, width)
    length = count_steps(rows, batch_size, epochs=1, steps=None)
    for start in range(0, steps - length + 1, length):
        epoch = index[start : start + length][mask[start : start + length]]
        assert sorted(epoch) == list(range(rows))
        assert shuffle or epoch.tolist() == list(range(rows))
    assert mask.any(axis=1).all()
    again, _ = batch_order(rows, batch_size=batch_size, steps=steps, shuffle=shuffle, seed=seed)
    np.testing.assert_array_equal(index, again)


def test_epochs_differ() -> None:
    index, _ = batch_order(100, batch_size=None, steps=2, shuffle=True, seed=0)
    assert not np.array_equal(index[0], index[1])
    assert not np.array_equal(index, batch_order(100, batch_size=None, steps=2, shuffle=True, seed=1)[0])


class OneByOne:
    """The rule in its plainest form: for one training, with a shuffle for each epoch."""

    def __init__(self, rows: int | np.ndarray, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self.numbers = np.arange(rows, dtype=np.int32) if isinstance(rows, int) else rows.astype(np.int32)
        self.batch, self.shuffle = min(batch_size, len(self.numbers)), shuffle
        self.generator, self.left = np.random.default_rng(seed), []

    def take(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        while len(self.left) < steps:
            epoch = np.arange(len(self.numbers), dtype=np.int32)
            if self.shuffle:
                self.generator.shuffle(epoch)
            padded = np.pad(epoch, (0, -len(epoch) % self.batch), constant_values=-1)
            self.left += [*padded.reshape(-1, self.batch)]
        taken, self.left = np.stack(self.left[:steps]), self.left[steps:]
        return self.numbers[np.maximum(taken, 0)], taken >= 0


@given(
    st.integers(1, 40),
    st.integers(1, 50),
    st.booleans(),
    st.booleans(),
    st.sampled_from([25, batches._AT_ONCE]),
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
    st.lists(st.tuples(st.booleans(), st.integers(1, 15)), min_size=1, max_size=5),
)
def test_orders_are_bit_for_bit_one_shuffle_an_epoch(
    rows: int,
    batch_size: int,
    shuffle: bool,
    numbered: bool,
    at_once: int,
    seeds: list[int],
    parts: list[tuple[bool, int]],
) -> None:
    """Of one training and of many, of few and many rows, however the steps are split, some of them skipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_AT_ONCE", at_once)
        check_orders(rows, batch_size, shuffle, numbered, seeds, parts)


def check_orders(
    rows: int, batch_size: int, shuffle: bool, numbered: bool, seeds: list[int], parts: list[tuple[bool, int]]
) -> None:
    which: list[Any] = [np.random.default_rng(seed).integers(0, 60, rows) if numbered else rows for seed in seeds]

    def orders(kind: Any) -> list[Any]:
        return [
            kind(of, batch_size=batch_size, shuffle=shuffle, seed=seed) for of, seed in zip(which, seeds, strict=True)
        ]

    plain, single, many = orders(OneByOne), orders(BatchOrder), BatchOrder.stacked(orders(BatchOrder))
    assert many.width == sum(order.width for order in single) == len(seeds) * min(rows, batch_size)
    for skipped, steps in parts:
        expected = [order.take(steps) for order in plain]
        if skipped:
            for order in (*single, many):
                order.skip(steps)
            continue
        index, mask = many.take(steps)
        assert index.dtype == np.int32
        for i, (own_index, own_mask) in enumerate(expected):
            for found in ((index[i], mask), single[i].take(steps)):
                np.testing.assert_array_equal(found[0], own_index, strict=True)
                np.testing.assert_array_equal(found[1], own_mask, strict=True)


def test_skipped_orders_draw_as_little_as_taken_ones() -> None:
    """What is left over is less than an epoch, so that memory does not grow with the training."""
    order = BatchOrder(10, batch_size=3, shuffle=True, seed=0)
    for steps in (1, 7, 2, 9):
        order.take(steps)
        assert order._left.shape[1] < 4


def test_a_large_table_is_shuffled_where_it_lies() -> None:
    rows = batches._AT_ONCE + 1
    tracemalloc.start()
    try:
        BatchOrder(rows, batch_size=100, shuffle=True, seed=0).take(1)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * 4 * rows  # its numbers, and them in their order
    finally:
        tracemalloc.stop()


def test_ctrl_c_ends_the_threads_that_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(self: Any, epochs: np.ndarray) -> None:
        drawn.append(len(epochs))
        if len(drawn) == 10:
            os.kill(os.getpid(), signal.SIGINT)  # to the process, as a terminal does
        time.sleep(0.005)

    monkeypatch.setattr(batches._Source, "draw", draw)
    monkeypatch.setattr(batches, "count_cores", lambda: 2)
    before = threading.active_count()
    orders = [BatchOrder(10, batch_size=5, shuffle=True, seed=seed) for seed in range(320)]
    with pytest.raises(KeyboardInterrupt):
        BatchOrder.stacked(orders).take(1)
    assert threading.active_count() <= before
    assert len(drawn) < 160
