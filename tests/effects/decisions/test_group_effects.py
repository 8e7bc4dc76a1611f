"""Effects by group of estimated effect, and in what the groups differ: by hand, by property, and their tests' level."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import group_effects, group_features
from torch_ref.common.data.columns import Column

EFFECT = np.array([0.3, 0.1, 0.4, 0.2, 0.6, 0.5])
PSEUDO = np.array([2.0, 0.0, 4.0, 2.0, 7.0, 5.0])


def test_groups_by_hand() -> None:
    found = group_effects(EFFECT, PSEUDO, quantiles=3)
    np.testing.assert_array_equal(found.quantile, [1, 0, 1, 0, 2, 2])
    assert [one.value for one in found.effects] == pytest.approx([1, 3, 6])
    # Two rows 1 from their mean: squares of 1/2 each, times 6/5 for rows of all groups, 2/1 for those of one.
    assert [one.standard_error for one in found.effects] == pytest.approx([1.0, 1.0, 1.0])
    np.testing.assert_allclose(found.predicted, [0.15, 0.35, 0.55])
    assert found.difference.value == pytest.approx(5)
    assert found.difference.standard_error == pytest.approx(np.sqrt(2 * 0.5 * 6 / 5))
    centred = EFFECT - 0.35
    slope = centred @ PSEUDO / (centred @ centred)
    assert found.slope.value == pytest.approx(slope)
    left = centred * (PSEUDO - PSEUDO.mean() - slope * centred) / (centred @ centred)
    assert found.slope.standard_error == pytest.approx(np.sqrt((left**2).sum() * 6 / 5))
    # Of two groups the Wald test is the square of the difference over its error.
    two = group_effects(EFFECT, PSEUDO, quantiles=2)
    assert two.p_equal == pytest.approx(two.p_difference)
    assert two.p_order > 0.5


def test_it_prints_itself() -> None:
    lines = str(group_effects(EFFECT, PSEUDO, quantiles=3, alpha=0.1)).splitlines()
    assert "90% interval" in lines[0]
    assert [line.split("   ")[0] for line in lines[1:6]] == [
        "group 1, least", "group 2", "group 3, most", "most less least", "slope",
    ]  # fmt: skip
    assert lines[6].startswith("all groups alike: p = ")


def test_rows_that_are_alike_stay_together() -> None:
    found = group_effects(np.repeat([1.0, 2.0], [9, 1]), np.arange(10.0), quantiles=5)
    assert len(found.effects) == 2
    assert found.quantile.tolist() == [0] * 9 + [1]
    weighted = group_effects(EFFECT, PSEUDO, quantiles=2, w=np.array([1, 3, 1, 0, 1, 0]))
    np.testing.assert_array_equal(weighted.quantile, [1, 0, 1, -1, 1, -1])


def test_a_wrong_ranking_is_found() -> None:
    generator = np.random.default_rng(0)
    effect = generator.normal(size=2000)
    right, wrong = (group_effects(sign * effect, effect + generator.normal(size=2000)) for sign in (1, -1))
    assert (right.p_equal, right.p_difference) < (1e-6, 1e-6)
    assert right.p_order > 0.5
    assert right.slope.low < 1 < right.slope.high
    assert (wrong.p_equal, wrong.p_order) < (1e-6, 1e-6)
    assert wrong.difference.high < 0


@examples(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, quantiles: int, scale: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    effect, pseudo, w = generator.normal(size=60), generator.normal(size=60), generator.uniform(0.5, 2, 60)
    order = generator.permutation(60)
    found = group_effects(effect, pseudo, quantiles=quantiles, w=w)
    for again, factor in (
        (group_effects(effect[order], pseudo[order], quantiles=quantiles, w=3 * w[order], groups=order), 1.0),
        (group_effects(np.exp(effect), scale * pseudo + shift, quantiles=quantiles, w=w), scale),
    ):
        assert again.difference.value == pytest.approx(factor * found.difference.value)
        assert again.difference.standard_error == pytest.approx(factor * found.difference.standard_error)
        assert (again.p_equal, again.p_order) == pytest.approx((found.p_equal, found.p_order))
    shares = np.bincount(found.quantile, w) / w.sum()
    assert sum(share * one.value for share, one in zip(shares, found.effects, strict=True)) == pytest.approx(
        np.average(pseudo, weights=w)
    )


def test_without_an_effect_that_varies_tests_keep_their_level() -> None:
    """Of 400 tables: the share of p-values below 5% is off by less than four standard errors, or safely small."""
    generator = np.random.default_rng(0)
    found = [group_effects(*generator.normal(size=(2, 400)), quantiles=4) for _ in range(400)]
    reach = 4 * np.sqrt(0.05 * 0.95 / 400)
    assert abs(np.mean([one.p_equal < 0.05 for one in found]) - 0.05) < reach
    assert abs(np.mean([one.p_difference < 0.05 for one in found]) - 0.05) < reach
    assert np.mean([one.p_order < 0.05 for one in found]) < 0.05 + reach
    assert abs(np.mean([one.slope.low < 0 < one.slope.high for one in found]) - 0.95) < reach


def test_clusters_count_once() -> None:
    generator = np.random.default_rng(0)
    effect, pseudo = generator.normal(size=(2, 50))
    plain = group_effects(effect, pseudo)
    twice = group_effects(np.tile(effect, 2), np.tile(pseudo, 2), groups=np.tile(np.arange(50), 2))
    assert twice.difference.standard_error == pytest.approx(plain.difference.standard_error)
    assert twice.p_equal == pytest.approx(plain.p_equal)


def test_features_by_hand() -> None:
    x = np.array([[30.0, 0], [32.0, 1], [np.nan, 0], [50.0, 2], [52.0, 2], [41.0, 1]])
    quantile = np.array([0, 0, 0, 2, 2, 1])
    found = group_features(x, quantile, columns=[Column("age"), Column("colour", levels=("blue", "red", "green"))])
    assert found.names == ("age", "age is missing", "colour is blue", "colour is red", "colour is green")
    np.testing.assert_allclose(found.least, [31, 1 / 3, 2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(found.most, [51, 0, 0, 0, 1])
    age = found.difference[0]
    assert (age.value, age.rows) == (pytest.approx(20), 4)
    assert age.standard_error == pytest.approx(np.sqrt(4 * 0.5**2 * 4 / 3))
    assert [line.split("   ")[0] for line in str(found).splitlines()[1:]] == list(found.names)
    weighted = group_features(x, quantile, w=np.array([3, 1, 0, 1, 1, 1]))
    np.testing.assert_allclose(weighted.least, [30.5, 0, 0.25])


def test_a_feature_that_a_group_lacks_has_no_mean_there() -> None:
    found = group_features(np.array([[1.0], [2.0], [np.nan], [np.nan]]), np.array([0, 0, 1, 1]))
    assert found.least.tolist() == [1.5, 0.0]
    assert np.isnan(found.most[0])
    assert np.isnan(found.difference[0].value)
    assert found.most[1] == 1


def test_intervals_of_features_hold() -> None:
    """Of 400 tables: the true difference of a feature that moves the effect, and of one that does not."""
    generator = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(400):
        x = generator.normal(size=(200, 2))
        found = group_features(x, (x[:, 0] + generator.normal(size=200) > 0).astype(int))
        true = 2 * np.sqrt(2 / np.pi) / np.sqrt(2)
        held += [one.low <= value <= one.high for one, value in zip(found.difference, (true, 0), strict=True)]
    assert (np.abs(held / 400 - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 400)).all(), held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effect": np.ones(6)}, "effect: expected values that make at least 2 groups, got 1.0 in every row"),
        ({"pseudo": np.zeros(3)}, r"pseudo: expected shape \[6\], got \[3\]"),
        ({"quantiles": 1}, "quantiles: expected a whole number of at least 2, got 1"),
        ({"groups": ["a"] * 6}, "groups: expected rows of at least two clusters, got 6 rows of one"),
        ({"alpha": 0}, "alpha: expected a finite number above 0 and below 1, got 0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        group_effects(**{"effect": EFFECT, "pseudo": PSEUDO, **change})


@pytest.mark.parametrize("quantile", [np.zeros(6), np.full(6, -1), np.array([1, 1, 1, 2, 2, 2])])
def test_features_of_one_group(quantile: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^quantile: expected rows of at least two groups, from 0 on, got one$"):
        group_features(np.zeros((6, 1)), quantile)
