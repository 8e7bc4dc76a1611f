"""Batches: every row once an epoch, the same in every framework."""

import numpy as np
from hypothesis import given, strategies as st

from torch_ref.common.batches import batch_order, count_steps


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.integers(1, 30), st.booleans(), st.integers(0, 9))
def test_every_row_once_an_epoch(rows: int, batch_size: int | None, steps: int, shuffle: bool, seed: int) -> None:
    index, mask = batch_order(rows, batch_size=batch_size, steps=steps, shuffle=shuffle, seed=seed)
    width = min(batch_size or rows, rows)
    assert index.shape == mask.shape == (steps, width)
    batches = count_steps(rows, batch_size, epochs=1, steps=None)
    for start in range(0, steps - batches + 1, batches):
        epoch = index[start : start + batches][mask[start : start + batches]]
        assert sorted(epoch) == list(range(rows))
        assert shuffle or epoch.tolist() == list(range(rows))
    assert mask.any(axis=1).all()
    again, _ = batch_order(rows, batch_size=batch_size, steps=steps, shuffle=shuffle, seed=seed)
    np.testing.assert_array_equal(index, again)


def test_epochs_differ() -> None:
    index, _ = batch_order(100, batch_size=None, steps=2, shuffle=True, seed=0)
    assert not np.array_equal(index[0], index[1])
    assert not np.array_equal(index, batch_order(100, batch_size=None, steps=2, shuffle=True, seed=1)[0])
