"""The coverage of averages: that it is measured right where the nuisances are known, and that forests see no row."""

import numpy as np
import pytest

from average_coverage import forests, ihdp_surface, measure


def surface(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are the same in each draw, and new noise."""
    fixed, noise = np.random.default_rng(0), np.random.default_rng(seed)
    x = fixed.normal(size=(200, 1))
    t = fixed.integers(0, 2, 200)
    return x, t, x[:, 0] + t * (2 + x[:, 0]) + noise.normal(size=200), 2 + x[:, 0]


def known(x: np.ndarray, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return x[:, 0], 2 + 2 * x[:, 0], np.full(len(t), 0.5)


def test_known_nuisances_are_held_as_often_as_they_say() -> None:
    found = measure(known, 300, surface)
    assert 0.91 < found["ate_held_sample"] < 0.99
    assert found["ate_held_population"] >= found["ate_held_sample"]
    assert found["ate_true"] == pytest.approx(surface(1)[3].mean())
    assert abs(found["ate_bias"]) < 0.05
    assert found["ate_spread"] == pytest.approx(found["ate_error_sample"], rel=0.15)


def test_forests_do_not_see_the_row() -> None:
    """An outcome that is noise alone is not explained."""
    generator = np.random.default_rng(0)
    x, t, y = generator.normal(size=(100, 2)), np.tile([0, 1], 50), generator.normal(size=100)
    mu0, mu1, score = forests(x, t, y)
    assert np.corrcoef(np.where(t == 1, mu1, mu0), y)[0, 1] < 0.3
    assert ((score > 0) & (score < 1)).all()


def test_the_rows_of_ihdp_stay() -> None:
    pytest.importorskip("econml")
    first, second = ihdp_surface("B", 0), ihdp_surface("B", 1)
    assert first[0].shape == (747, 25)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[3][first[1] == 1].mean() == pytest.approx(4)
