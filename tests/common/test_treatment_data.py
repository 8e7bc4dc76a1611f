"""Made-up data, and what can be done with data: parts, scales, weights."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.data import Scales, TreatmentData, curves, synthetic


def test_synthetic_data_is_confounded() -> None:
    data = synthetic(rows=20_000, features=6, seed=1)
    assert data.mu0 is not None
    assert data.mu1 is not None
    effect = (data.mu1 - data.mu0).mean()
    naive = data.y[data.t == 1].mean() - data.y[data.t == 0].mean()
    assert effect == pytest.approx(1, abs=0.05)
    assert naive == pytest.approx(2, abs=0.15)
    noise = data.y - np.where(data.t[:, None] == 1, data.mu1, data.mu0)
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    again, other = synthetic(20_000, 6, seed=1), synthetic(20_000, 6, seed=2)
    np.testing.assert_array_equal(data.y, again.y)
    assert not np.array_equal(data.y, other.y)


def test_synthetic_data_is_as_it_always_was() -> None:
    """Results were published on it, so the defaults of what was added later change no bit."""
    data = synthetic(rows=3, features=4, seed=0)
    assert data.y[:, 0].tolist() == [0.07201306000323471, 1.5637677958905734, -0.3217149522859324]
    assert data.t.tolist() == [0, 1, 0]


def test_synthetic_data_with_poor_overlap_or_heavy_tails() -> None:
    plain, poor = synthetic(20_000, seed=1), synthetic(20_000, seed=1, overlap="poor")
    heavy = synthetic(20_000, seed=1, noise="heavy")
    for data, share in ((plain, 0.77), (poor, 0.95)):
        assert data.t[data.x[:, 0] > 1].mean() == pytest.approx(share, abs=0.02)
    for data, sizes in ((plain, [0.202, 0.773]), (heavy, [0.234, 2.19])):
        assert data.mu0 is not None
        assert data.mu1 is not None
        noise = data.y - np.where(data.t[:, None] == 1, data.mu1, data.mu0)
        assert np.quantile(abs(noise), [0.5, 0.99]) == pytest.approx(sizes, rel=0.07)
    with pytest.raises(ValueError, match=r"^overlap: expected "):
        synthetic(overlap="none")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^noise: expected "):
        synthetic(noise="none")  # pyright: ignore[reportArgumentType]


def test_the_articles_curves() -> None:
    data = curves(points=1000)
    np.testing.assert_array_equal(data["x1"][:, 0], np.linspace(-1, 1, 1000))
    np.testing.assert_array_equal(data["x1"], data["x2"])
    noise = [data[y] - data["x1"] ** 3 for y in ("y1", "y2")]
    assert [part.std() for part in noise] == pytest.approx([0.1, 0.1], rel=0.1)
    assert abs(np.corrcoef(noise[0][:, 0], noise[1][:, 0])[0, 1]) < 0.1


def test_split() -> None:
    data = synthetic(rows=100, features=4)
    train, held_out = data.split(0.2, seed=1)
    assert (len(train), len(held_out)) == (80, 20)
    rows = np.vstack([train.x, held_out.x])
    assert {tuple(row) for row in rows} == {tuple(row) for row in data.x}
    assert held_out.mu0 is not None
    assert data.mu0 is not None
    where = [np.flatnonzero((data.x == row).all(axis=1))[0] for row in held_out.x]
    np.testing.assert_array_equal(held_out.mu0, data.mu0[where])
    for share in (0, 1, 0.001, 2):
        with pytest.raises(ValueError, match=r"^share: expected"):
            data.split(share)


@given(st.floats(-300, 300), st.floats(-1e6, 1e6), st.integers(2, 30))
def test_scales_come_back(power: float, offset: float, rows: int) -> None:
    """Mean 0 and deviation 1, and back, for any unit; a constant column becomes zero, whatever its number is."""
    generator = np.random.default_rng(rows)
    numbers = 10**power * (generator.normal(size=(rows, 1)) + offset)
    data = TreatmentData(np.hstack([numbers, np.full((rows, 1), offset)]), np.zeros(rows, np.int32), numbers)
    scales = Scales.of(data)
    scaled = scales.standardize(data)
    assert not scaled.x[:, 1].any()
    assert scaled.x[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert scaled.x[:, 0].std() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(scales.outcome(scaled.y), data.y, rtol=1e-9, atol=1e-12 * np.abs(data.y).max())


def test_close_numbers_are_not_constant() -> None:
    x = 1e15 + np.array([[100.0], [300.0]])
    data = TreatmentData(x, np.zeros(2, np.int32), x)
    np.testing.assert_allclose(Scales.of(data).standardize(data).x, [[-1], [1]])


def test_binary_outcomes_keep_their_unit() -> None:
    data = TreatmentData(np.zeros((2, 1)), np.zeros(2, np.int32), np.array([[0.0], [1.0]]))
    scales = Scales.of(data, binary=True)
    np.testing.assert_array_equal(scales.standardize(data).y, data.y)
    np.testing.assert_allclose(
        scales.outcome(np.array([[0.0], [np.log(3)], [-800.0], [800.0]])), [[0.5], [0.75], [0], [1]], atol=1e-300
    )
