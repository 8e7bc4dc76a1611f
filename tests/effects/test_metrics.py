"""Effect metrics, by hand values and by property."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flax_impl
import torch_ref

Y0, Y1 = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [2.0], [9.0]])  # effects 1, 0, 5
MU0, MU1 = np.zeros((3, 1)), np.array([[3.0], [1.0], [5.0]])  # effects 3, 1, 5

both = pytest.mark.parametrize("package", [torch_ref, flax_impl])


@both
def test_by_hand(package: Any) -> None:
    assert float(package.effects.sqrt_pehe(Y0, Y1, MU0, MU1)) == pytest.approx(np.sqrt((4 + 1 + 0) / 3))
    assert float(package.effects.ate_error(Y0, Y1, MU0, MU1)) == pytest.approx(3 - 2)


@both
def test_digits_survive(package: Any) -> None:
    """Large outcomes with small effects, in numpy's float64 while JAX computes in float32; and whole numbers."""
    large = np.full((5, 1), 5e6)
    assert float(package.effects.sqrt_pehe(large, large, large, large + 0.01)) == pytest.approx(0.01, rel=1e-4)
    assert float(package.effects.ate_error(large, large + 3, large, large + 3.5)) == pytest.approx(0.5, rel=1e-6)
    assert float(package.effects.sqrt_pehe(*np.array([[[1]], [[2]], [[3]], [[5]]]))) == 1


@pytest.mark.usefixtures("x64")
@given(st.integers(1, 20), st.integers(0, 99), st.floats(-5, 5))
def test_properties(rows: int, seed: int, shift: float) -> None:
    """Equal on both sides; the ATE error is the smaller; an offset that both outcomes share is no effect."""
    y0, y1, mu0, mu1 = np.random.default_rng(seed).normal(size=(4, rows, 1))
    found = [float(metric(y0, y1, mu0, mu1)) for metric in (flax_impl.effects.sqrt_pehe, flax_impl.effects.ate_error)]
    assert found == pytest.approx(
        [float(metric(y0, y1, mu0, mu1)) for metric in (flax_impl.effects.sqrt_pehe, flax_impl.effects.ate_error)],
        rel=1e-12,
    )
    assert found[1] <= found[0] + 1e-12
    assert float(flax_impl.effects.sqrt_pehe(y0 + shift, y1 + shift, mu0, mu1)) == pytest.approx(
        found[0], rel=1e-9, abs=1e-9
    )
