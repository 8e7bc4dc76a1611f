"""Pseudo-outcomes and the losses of effects, by hand and by property."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import arm_outcomes, dr_loss, pseudo_outcomes, r_loss

T, Y = np.array([1, 0, 1]), np.array([5.0, 1.0, 2.0])
MU0, MU1, SCORE = np.array([1.0, 2.0, 0.0]), np.array([3.0, 3.0, 2.0]), np.array([0.5, 0.75, 0.25])
PSEUDO = np.array([2 + 2 / 0.5, 1 + 1 / 0.25, 2.0])  # 6, 5, 2


def drawn(seed: int, rows: int) -> dict[str, Any]:
    """A table whose nuisances are the true ones."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    score = 1 / (1 + np.exp(-x))
    t = (generator.random(rows) < score).astype(int)
    return {"t": t, "y": x + t * (1 + x) + generator.normal(size=rows), "mu0": x, "mu1": 1 + 2 * x, "score": score}


def test_pseudo_outcomes_by_hand() -> None:
    np.testing.assert_allclose(pseudo_outcomes(T, Y, MU0, MU1, SCORE), PSEUDO)
    np.testing.assert_allclose(pseudo_outcomes(*(column.tolist() for column in (T, Y, MU0, MU1, SCORE))), PSEUDO)


def test_arm_outcomes_by_hand() -> None:
    t, y = np.array([2, 0]), np.array([5.0, 1.0])
    mu, score = np.array([[1.0, 2.0], [3.0, 3.0], [4.0, 0.0]]), np.array([[0.2, 0.5], [0.4, 0.2], [0.4, 0.3]])
    expected = [[1.0, 2 - 1 / 0.5], [3.0, 3.0], [4 + 1 / 0.4, 0.0]]
    np.testing.assert_allclose(arm_outcomes(t, y, mu, score), expected)
    np.testing.assert_allclose(arm_outcomes(t.astype(float).tolist(), y, mu.tolist(), score), expected)


@examples(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_arm_outcomes_agree_with_two_arms_and_with_other_names_of_arms(seed: int, arms: int) -> None:
    generator = np.random.default_rng(seed)
    score = generator.dirichlet(np.full(arms, 5.0), 30).T
    t, y, mu = generator.integers(0, arms, 30), generator.normal(size=30), generator.normal(size=(arms, 30))
    found = arm_outcomes(t, y, mu, score)
    order = generator.permutation(arms)
    np.testing.assert_allclose(arm_outcomes(np.argsort(order)[t], y, mu[order], score[order]), found[order])
    np.testing.assert_array_equal(found[np.arange(arms)[:, None] != t], mu[np.arange(arms)[:, None] != t])
    binary, e = (t > 0).astype(int), score[-1]
    both = arm_outcomes(binary, y, mu[:2], np.stack([1 - e, e]))
    np.testing.assert_allclose(pseudo_outcomes(binary, y, mu[0], mu[1], e), both[1] - both[0], rtol=1e-12)


def test_losses_by_hand() -> None:
    effect = np.array([1.0, 1.0, 4.0])
    assert dr_loss(effect, T, Y, MU0, MU1, SCORE) == pytest.approx((25 + 16 + 4) / 3)
    assert dr_loss(effect, T, Y, MU0, MU1, SCORE, w=np.array([1, 0, 3])) == pytest.approx((25 + 3 * 4) / 4)
    mean = np.array([2.0, 2.0, 1.0])  # what is left of y: 3, -1, 1; of t: 0.5, -0.75, 0.75
    errors = np.array([3 - 0.5, -1 + 0.75, 1 - 3])
    assert r_loss(effect, T, Y, mean, SCORE) == pytest.approx(np.mean(errors**2))
    assert r_loss(effect, T, Y, mean, SCORE, w=np.array([2, 0, 2])) == pytest.approx(
        (errors[0] ** 2 + errors[2] ** 2) / 2
    )


@examples(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 3))
def test_the_true_effects_have_less_loss_than_wrong_ones(seed: int, wrong: float) -> None:
    table = drawn(seed, 2000)
    effect = table["mu1"] - table["mu0"]
    mean = table["mu0"] + table["score"] * effect
    t, y, score = table["t"], table["y"], table["score"]
    assert r_loss(effect, t, y, mean, score) < r_loss(effect + wrong, t, y, mean, score)
    assert dr_loss(effect, **table) < dr_loss(effect + wrong, **table)


@examples(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_either_nuisance_makes_the_mean_right(seed: int) -> None:
    """Five standard errors, with expected outcomes of zero and with propensities of a half."""
    table = drawn(seed, 4000)
    zeros = np.zeros(4000)
    for change in ({}, {"mu0": zeros, "mu1": zeros}, {"score": zeros + 0.5}):
        pseudo = pseudo_outcomes(**{**table, **change})
        assert abs(pseudo.mean() - 1) < 5 * pseudo.std() / np.sqrt(4000) + 0.05


def test_extreme_propensities_are_no_secret() -> None:
    with pytest.warns(UserWarning, match=r"^score: 1 of 3 propensities are nearer than 1e-06 to 0 or 1"):
        found = pseudo_outcomes(T, Y, MU0, MU1, np.array([1e-9, 0.75, 0.25]))
    np.testing.assert_allclose(found, [2 + 2e6, 5, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.array([0, 2, 1])}, "t: expected 0 or 1 in every row, got 2 in row 1"),
        ({"t": np.zeros(0)}, "t: expected at least one row, got an empty batch"),
        ({"y": np.zeros((3, 1))}, r"y: expected shape \[3\], got \[3, 1\]"),
        ({"y": np.array(["a", "b", "c"])}, "y: expected numbers, got dtype <U1"),
        ({"mu1": np.array([0, np.nan, 0])}, "mu1: expected finite numbers, got nan in row 1"),
        (
            {"score": np.array([0.5, 1.5, -1])},
            r"score: expected probabilities from 0 to 1, got 1.5 in row 1 \(2 in all\)",
        ),
        (
            {"score": np.array([0.5, 0.5, 1])},
            "score: expected probabilities above 0 and below 1, got 1.0 in row 2; leave such rows out, as trim=0.01 of "
            "average_effects does",
        ),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"t": T, "y": Y, "mu0": MU0, "mu1": MU1, "score": SCORE, **change}
    with pytest.raises(ValueError, match=f"^{message}$"):
        pseudo_outcomes(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.array([0, 3, -1])}, r"t: expected an arm from 0 to 2, got 3 in row 1 \(2 in all\)"),
        ({"t": np.array([0, 0.5, 1])}, "t: expected an arm from 0 to 2, got 0.5 in row 1"),
        ({"t": np.array([0, 1])}, r"t: expected shape \[3\], got \[2\]"),
        ({"mu": np.zeros((1, 3))}, "mu: expected at least 2 arms, got 1"),
        ({"mu": np.zeros((3, 2))}, r"mu: expected shape \[arms, 3\], got \[arms, 2\]"),
        ({"mu": np.array([[0, 0, 0], [0, 0, np.inf], [0, 0, 0]])}, "mu: expected finite .* inf in row 2 of arm 1"),
        ({"score": np.full((2, 3), 0.5)}, r"score: expected shape \[3, 3\], got \[2, 3\]"),
        ({"score": np.full((3, 3), 2)}, r"score: expected .* from 0 to 1, got 2 in row 0 of arm 0 \(9 in all\)"),
        ({"score": np.eye(3)}, r"score: expected .* above 0 and below 1, got 1.0 in row 0 of arm 0 \(9 in all\); .*"),
    ],
)
def test_bad_arguments_of_arms(change: dict[str, Any], message: str) -> None:
    arguments = {"t": np.array([0, 1, 2]), "y": Y, "mu": np.zeros((3, 3)), "score": np.full((3, 3), 1 / 3), **change}
    with pytest.raises(ValueError, match=f"^{message}$"):
        arm_outcomes(**arguments)


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (np.array([1, -1, 1]), "w: expected weights of at least 0, got -1.0 in row 1"),
        (np.zeros(3), "w: expected at least one weight that is not zero, got none"),
        (np.ones(2), r"w: expected shape \[3\], got \[2\]"),
    ],
)
def test_bad_weights(w: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        r_loss(Y, T, Y, Y, SCORE, w)
    with pytest.raises(ValueError, match=f"^{message}$"):
        dr_loss(Y, T, Y, MU0, MU1, SCORE, w)
