"""Effect metrics, by hand values and by property."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from flax_impl.effects import ate_error, sqrt_pehe

Y0, Y1 = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [2.0], [9.0]])  # effects 1, 0, 5
MU0, MU1 = np.zeros((3, 1)), np.array([[3.0], [1.0], [5.0]])  # effects 3, 1, 5


def test_by_hand() -> None:
    assert float(sqrt_pehe(Y0, Y1, MU0, MU1)) == pytest.approx(np.sqrt((4 + 1 + 0) / 3))
    assert float(ate_error(Y0, Y1, MU0, MU1)) == pytest.approx(3 - 2)


def test_digits_survive() -> None:
    """Large outcomes with small effects, in numpy's float64 while JAX computes in float32; and whole numbers."""
    large = np.full((5, 1), 5e6)
    assert float(sqrt_pehe(large, large, large, large + 0.01)) == pytest.approx(0.01, rel=1e-4)
    assert float(ate_error(large, large + 3, large, large + 3.5)) == pytest.approx(0.5, rel=1e-6)
    assert float(sqrt_pehe(*np.array([[[1]], [[2]], [[3]], [[5]]]))) == 1


@given(st.integers(1, 20), st.integers(0, 99), st.floats(-5, 5))
def test_properties(rows: int, seed: int, shift: float) -> None:
    """The ATE error is the smaller; an offset that both outcomes share is no effect."""
    y0, y1, mu0, mu1 = np.random.default_rng(seed).normal(size=(4, rows, 1))
    found = [metric(y0, y1, mu0, mu1) for metric in (sqrt_pehe, ate_error)]
    assert found[1] <= found[0] + 1e-12
    assert sqrt_pehe(y0 + shift, y1 + shift, mu0, mu1) == pytest.approx(found[0], rel=1e-9, abs=1e-9)


def test_nothing_is_broadcast_and_rows_are_needed() -> None:
    with pytest.raises(ValueError, match=r"^mu1: expected shape \[3, 1\], got \[3\]$"):
        sqrt_pehe(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match=r"^y0: expected at least one row, got an empty batch$"):
        ate_error(*[np.zeros((0, 1))] * 4)
