"""The TOC curve and its area, by hand and on made-up effects."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import rate, toc_curve

EFFECT, PSEUDO = np.array([1.0, 4.0, 3.0, 2.0]), np.array([0.0, 6.0, 2.0, 4.0])  # by falling effect 6, 2, 4, 0


def test_by_hand() -> None:
    share, gain = toc_curve(EFFECT, PSEUDO)
    np.testing.assert_allclose(share, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(gain, [6 - 3, 4 - 3, 4 - 3, 0])
    assert rate(EFFECT, PSEUDO).value == pytest.approx((3 + 1 + 1) / 4)
    assert rate(EFFECT, PSEUDO, weighting="qini").value == pytest.approx((0.25 * 3 + 0.5 + 0.75) / 4)


def test_rows_that_are_alike_stand_in_no_order() -> None:
    _, gain = toc_curve(np.array([1.0, 2.0, 2.0, 1.0]), PSEUDO)
    np.testing.assert_allclose(gain, [4 - 3, 4 - 3, 10 / 3 - 3, 0])
    found = rate(np.ones(4), PSEUDO)
    assert (found.value, found.standard_error, found.p_value) == (0, 0, 1)


def test_the_same_seed_gives_the_same_error() -> None:
    effect, pseudo = np.random.default_rng(0).normal(size=(2, 50))
    assert rate(effect, pseudo, seed=3) == rate(effect, pseudo, seed=3)
    assert rate(effect, pseudo, seed=3) != rate(effect, pseudo, seed=4)


@examples(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["autoc", "qini"]), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, weighting: str, scale: float, shift: float) -> None:
    """The order of rows, and a rising function of the effects, change nothing; a unit scales; an offset falls out."""
    effect, pseudo = np.random.default_rng(seed).normal(size=(2, 40))
    found = rate(effect, pseudo, weighting=weighting, draws=20)
    same = rate(np.exp(effect), scale * pseudo + shift, weighting=weighting, draws=20)
    assert same.value == pytest.approx(scale * found.value, abs=1e-9)
    assert same.standard_error == pytest.approx(scale * found.standard_error, abs=1e-9)
    assert rate(effect[::-1], pseudo[::-1], weighting=weighting, draws=2).value == pytest.approx(found.value)
    assert toc_curve(effect, pseudo)[1][-1] == 0


@pytest.mark.parametrize("weighting", ["autoc", "qini"])
def test_an_effect_that_varies_is_found(weighting: str) -> None:
    generator = np.random.default_rng(0)
    effect = generator.normal(size=1000)
    found = rate(effect, effect + 2 * generator.normal(size=1000), weighting=weighting)
    assert found.value > 0
    assert found.p_value < 0.001
    wrong = rate(-effect, effect + 2 * generator.normal(size=1000), weighting=weighting)
    assert wrong.value < 0
    assert wrong.p_value < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["autoc", "qini"])
def test_without_an_effect_that_varies_p_values_are_uniform(weighting: str) -> None:
    """Of 300: the share below 5% and below a half is off by less than four standard errors."""
    generator = np.random.default_rng(1)
    p = [rate(*generator.normal(size=(2, 200)), weighting=weighting, draws=100).p_value for _ in range(300)]
    for level in (0.05, 0.5):
        assert abs(np.mean(np.array(p) < level) - level) < 4 * np.sqrt(level * (1 - level) / 300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pseudo": np.zeros(3)}, r"pseudo: expected shape \[4\], got \[3\]"),
        ({"effect": np.array([0, 1, np.inf, 0])}, "effect: expected finite numbers, got inf in row 2"),
        ({"effect": np.zeros(3), "pseudo": np.zeros(3)}, "effect: expected at least 4 rows, got 3"),
        ({"weighting": "area"}, "weighting: expected one of 'autoc', 'qini', got 'area'"),
        ({"draws": 1}, "draws: expected a whole number of at least 2, got 1"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        rate(**{"effect": EFFECT, "pseudo": PSEUDO, **change})


def test_rows_of_a_cluster_count_together() -> None:
    """Each row ten times over is no more rows: the error is that of the rows; and nothing is found where none is."""
    found = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        effect, pseudo = generator.normal(size=(2, 60))
        clusters = np.repeat(np.arange(60), 10)
        once = rate(effect, pseudo, seed=seed)
        often = rate(np.repeat(effect, 10), np.repeat(pseudo, 10), seed=seed, groups=clusters)
        assert often.value == pytest.approx(once.value, abs=0.1)
        found.append((once.standard_error, often.standard_error, often.p_value))
    alone, together, p_values = np.array(found).T
    assert together.mean() == pytest.approx(alone.mean(), rel=0.1)
    assert np.mean(p_values < 0.05) <= 0.2
    with pytest.raises(ValueError, match="groups: expected rows of at least 4 clusters, got 2"):
        rate(np.arange(6.0), np.arange(6.0), groups=["a", "b"] * 3)
