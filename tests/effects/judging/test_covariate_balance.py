"""How far the arms' mean features lie apart."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from flax_impl.effects import covariate_balance


def test_by_hand() -> None:
    x, t = np.array([[0.0, 7], [2, 7], [1, 7], [3, 7]]), np.array([0, 0, 1, 1])
    # Weights 1 and 3 in the first arm: mean 1.5; 2 and 2 in the second: mean 2.
    score = np.array([[1, 1 / 3, 0.5, 0.5], [0, 2 / 3, 0.5, 0.5]])
    found = covariate_balance(x, t, score, ["age", "constant"])
    np.testing.assert_allclose(found.before, [1, 0])
    np.testing.assert_allclose(found.after, [0.5, 0])
    assert found.unlike == ("age",)


def test_true_propensities_balance() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20_000, 2))
    e = 1 / (1 + np.exp(-x[:, 0]))
    t = (generator.random(20_000) < e).astype(int)
    found = covariate_balance(x, t, np.stack([1 - e, e]), ["a", "b"])
    assert found.before[0] > 0.7
    assert np.abs(found.after).max() < 0.05


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100), seed=st.integers(0, 99))
def test_unit_does_not_matter(scale: float, shift: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, t = generator.normal(size=(30, 2)), np.arange(30) % 3
    score = generator.uniform(0.1, 0.9, size=(3, 30))
    first, second = (covariate_balance(table, t, score, ["a", "b"], (0, 2)) for table in (x, scale * x + shift))
    np.testing.assert_allclose(first.before, second.before, atol=1e-6)
    np.testing.assert_allclose(first.after, second.after, atol=1e-6)


def test_arm_without_rows() -> None:
    with pytest.raises(ValueError, match="t: expected rows of arm 2, got none"):
        covariate_balance(np.zeros((2, 1)), np.array([0, 1]), np.full((3, 2), 0.3), ["a"], (0, 2))


def test_weights_stand_for_rows() -> None:
    generator = np.random.default_rng(1)
    x, t, score = generator.normal(size=(12, 2)), np.arange(12) % 2, generator.uniform(0.2, 0.8, size=(2, 12))
    w = np.arange(12) % 5  # some stand for none
    often = np.repeat(np.arange(12), w)
    weighed = covariate_balance(x, t, score, ["a", "b"], w=w)
    repeated = covariate_balance(x[often], t[often], score[:, often], ["a", "b"])
    np.testing.assert_allclose(weighed.before, repeated.before, atol=1e-12)
    np.testing.assert_allclose(weighed.after, repeated.after, atol=1e-12)


def test_rounding_is_no_difference() -> None:
    score = np.random.default_rng(2).uniform(0.2, 0.8, size=(2, 60))
    found = covariate_balance(np.full((60, 1), 0.1), np.arange(60) % 2, score, ["constant"], w=np.arange(60) + 0.1)
    assert (found.before.item(), found.after.item()) == (0, 0)
