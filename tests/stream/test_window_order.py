"""The order of a table of row groups: every row once an epoch, any step without those before it."""

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.common.batches import BatchOrder
from torch_ref.common.stream.order import WindowOrder, deal_groups
from torch_ref.data import WindowShuffle

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(tuple)


def order_of(sizes: tuple[int, ...], more: int, batch_size: int | None, seed: int) -> WindowOrder:
    return WindowOrder(sum(sizes), WindowShuffle(sizes, max(sizes) + more), batch_size=batch_size, seed=seed)


@given(SIZES, st.integers(0, 30), st.none() | st.integers(1, 40), st.integers(0, 9))
def test_every_row_once_an_epoch(sizes: tuple[int, ...], more: int, batch_size: int | None, seed: int) -> None:
    order = order_of(sizes, more, batch_size, seed)
    batches = -(-sum(sizes) // order.width)
    for _ in range(3):
        index, mask = order.take(batches)
        assert sorted(index[mask]) == list(range(sum(sizes)))
        assert mask[:-1].all()
        assert mask.any(axis=1).all()


@given(SIZES, st.integers(0, 30), st.integers(1, 40), st.integers(0, 9), st.lists(st.integers(0, 9), max_size=5))
def test_a_jump_is_as_taking_the_steps(
    sizes: tuple[int, ...], more: int, batch_size: int, seed: int, jumps: list[int]
) -> None:
    every, _ = order_of(sizes, more, batch_size, seed).take(sum(jumps) + len(jumps) + 1)
    order, done = order_of(sizes, more, batch_size, seed), 0
    for jump in jumps:
        order.skip(jump)
        done += jump + 1
        np.testing.assert_array_equal(order.take(1)[0][0], every[done - 1])
    fresh = order_of(sizes, more, batch_size, seed)
    fresh.skip(done)
    np.testing.assert_array_equal(fresh.take(1)[0][0], every[done])


@given(SIZES, st.integers(0, 9), st.integers(0, 9))
def test_a_window_holds_whole_groups(sizes: tuple[int, ...], more: int, seed: int) -> None:
    """Cut at the bounds of windows, the sequence of an epoch holds the rows of some groups, all of them."""
    window = max(sizes) + more
    index, _ = order_of(sizes, more, 1, seed).take(sum(sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)[index[:, 0]]
    start = 0
    while start < len(groups):
        fitting = [
            stop
            for stop in range(start + 1, min(start + window, len(groups)) + 1)
            if all((groups[start:stop] == group).sum() == sizes[group] for group in set(groups[start:stop]))
        ]
        assert fitting
        start = fitting[-1]


@pytest.mark.parametrize("rows", [41, np.array([40, 3, 3, 7, 0, 12])])
def test_one_window_is_the_order_of_a_table_in_memory(rows: int | np.ndarray) -> None:
    found, mask = WindowOrder(rows, WindowShuffle((20, 21), 41), batch_size=4, seed=3).take(33)
    expected, expected_mask = BatchOrder(rows, batch_size=4, shuffle=True, seed=3).take(33)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_array_equal(found[mask], expected[mask])


def test_chosen_rows_stay_in_their_groups() -> None:
    index, mask = WindowOrder(np.array([5, 0, 5, 9]), WindowShuffle((5, 5), 5), batch_size=3, seed=0).take(2)
    assert sorted(index[mask]) == [0, 5, 5, 9]


def test_epochs_and_seeds_differ() -> None:
    drawn = [order_of((10, 10, 10), 0, None, seed).take(2)[0] for seed in (0, 1)]
    assert len({tuple(epoch) for of_seed in drawn for epoch in of_seed}) == 4


def test_the_documented_rule_by_hand() -> None:
    """What docs/training.md says, written out."""
    sizes, seed, epoch = (3, 2, 4), 7, 1
    groups = np.arange(3)
    np.random.default_rng([seed, epoch, 0]).shuffle(groups)
    starts = np.cumsum([0, *sizes]).tolist()
    windows: list[list[int]] = [[]]
    for group in groups.tolist():
        if windows[-1] and sum(sizes[g] for g in [*windows[-1], group]) > 5:
            windows.append([])
        windows[-1].append(group)
    expected = []
    for number, window in enumerate(windows):
        rows = np.concatenate([np.arange(starts[g], starts[g] + sizes[g]) for g in window])
        place = np.arange(len(rows))
        np.random.default_rng([seed, epoch, 1 + number]).shuffle(place)
        expected += rows[place].tolist()
    order = WindowOrder(9, WindowShuffle(sizes, 5), batch_size=1, seed=seed)
    order.skip(9)
    assert order.take(9)[0][:, 0].tolist() == expected


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 6))
def test_groups_are_dealt_evenly(sizes: list[int], parts: int) -> None:
    dealt = deal_groups(sizes, parts)
    assert sorted(group for groups in dealt for group in groups) == list(range(len(sizes)))
    rows = [sum(sizes[group] for group in groups) for groups in dealt]
    assert max(rows) - min(rows) <= max(sizes)


@pytest.mark.parametrize(
    ("groups", "window", "message"),
    [
        ((), 3, "groups: expected the number of rows of each group, got ()"),
        ((3, 0), 3, "groups[1]: expected a whole number of at least 1, got 0"),
        ((3, 4), 3, "window: expected at least 4 rows, as the largest row group has, got 3"),
    ],
)
def test_bad_windows(groups: tuple[int, ...], window: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WindowShuffle(groups, window)


@pytest.mark.parametrize("rows", [8, np.array([2, 9])])
def test_groups_of_another_table(rows: int | np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^shuffle: expected groups of all (8|10) rows, got 9 rows in them$"):
        WindowOrder(rows, WindowShuffle((4, 5), 9), batch_size=2, seed=0)
