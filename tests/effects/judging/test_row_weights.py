"""Weights of rows: integers count rows as often as they say, those of 1 change nothing; a row's error stays its own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import ate_error, qini_curve, rate, sqrt_pehe, toc_curve

SEEDS = st.integers(0, 2**31 - 1)


def drawn(seed: int, rows: int = 40) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns with ties in the ranking, and whole weights, some of them 0."""
    generator = np.random.default_rng(seed)
    columns = {
        "effect": np.round(generator.normal(size=rows), 1),
        "pseudo": generator.normal(size=rows),
        "t": generator.permutation(np.arange(rows) % 2),
        "y": generator.normal(size=rows),
        "score": generator.uniform(0.05, 0.95, rows),
    }
    return columns, np.append(generator.integers(0, 4, rows - 1), 2)


def repeated(columns: dict[str, np.ndarray], w: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.repeat(column, w) for name, column in columns.items()}


def pick(columns: dict[str, np.ndarray], *names: str) -> tuple[np.ndarray, ...]:
    return tuple(columns[name] for name in names)


@examples(max_examples=30)
@given(SEEDS, st.sampled_from(["autoc", "qini"]))
def test_a_rate_counts_rows_as_often_as_they_weigh(seed: int, weighting: str) -> None:
    """With the rows as clusters, repeated rows are drawn as weighted ones are: the same error and p-value, too."""
    columns, w = drawn(seed)
    rows = np.arange(len(w))
    settings: dict[str, Any] = {"weighting": weighting, "draws": 20, "seed": seed}
    found = rate(*pick(columns, "effect", "pseudo"), w=w, groups=rows, **settings)
    often = rate(*pick(repeated(columns, w), "effect", "pseudo"), groups=np.repeat(rows, w), **settings)
    assert found.value == pytest.approx(often.value, abs=1e-12)
    assert found.standard_error == pytest.approx(often.standard_error, abs=1e-12)
    assert found.p_value == pytest.approx(often.p_value, abs=1e-9)


@examples(max_examples=30)
@given(SEEDS)
def test_curves_count_rows_as_often_as_they_weigh(seed: int) -> None:
    columns, w = drawn(seed)
    often = repeated(columns, w)
    share, gain = toc_curve(*pick(columns, "effect", "pseudo"), w=w)
    _, all_gains = toc_curve(*pick(often, "effect", "pseudo"))
    np.testing.assert_allclose(gain, all_gains[np.rint(share * w.sum()).astype(int) - 1], atol=1e-12)
    for names in (("effect", "t", "y"), ("effect", "t", "y", "score")):
        curve = qini_curve(*pick(columns, *names), w=7.0 * w)  # in any unit
        np.testing.assert_allclose(curve, qini_curve(*pick(often, *names)), atol=1e-12)


@examples(max_examples=30)
@given(SEEDS, st.integers(1, 2))
def test_errors_count_rows_as_often_as_they_weigh(seed: int, outcomes: int) -> None:
    _, w = drawn(seed)
    four = [np.random.default_rng([seed, i]).normal(size=(len(w), outcomes)) for i in range(4)]
    for measure in (sqrt_pehe, ate_error):
        often = measure(*(np.repeat(one, w, axis=0) for one in four))
        assert measure(*four, w=0.1 * w) == pytest.approx(often, abs=1e-12)


@examples(max_examples=20)
@given(SEEDS, st.floats(1e-3, 1))
def test_equal_weights_change_nothing(seed: int, unit: float) -> None:
    columns, w = drawn(seed)
    ones = np.ones(len(w))
    for weighting in ("autoc", "qini"):
        arguments = pick(columns, "effect", "pseudo")
        plain, weighed, small = (
            rate(*arguments, weighting=weighting, draws=20, w=v) for v in (None, ones, unit * ones)
        )
        for found in (weighed, small):
            np.testing.assert_allclose(
                (found.value, found.standard_error, found.p_value),
                (plain.value, plain.standard_error, plain.p_value), rtol=1e-12, atol=1e-12,
            )  # fmt: skip
    np.testing.assert_array_equal(
        qini_curve(*pick(columns, "effect", "t", "y", "score"), w=ones),
        qini_curve(*pick(columns, "effect", "t", "y", "score")),
    )


def test_a_rate_of_large_weights_is_the_area_of_the_population() -> None:
    """By hand: the first half gains 1 beyond the mean, at every share of it; beyond, 0.5 / u - 0... falls to 0."""
    effect, pseudo = np.repeat([2.0, 1.0], 50), np.repeat([1.0, -1.0], 50)
    found = rate(effect, pseudo, w=np.full(100, 1e9))
    assert found.value == pytest.approx(0.5 + np.log(2) - 0.5, abs=1e-8)  # the integral of 1, then of (1 - u) / u
    assert rate(effect, pseudo, weighting="qini", w=np.full(100, 1e200)).value == pytest.approx(0.25)


def test_the_error_of_a_weighted_rate_is_as_large_as_its_estimates_spread() -> None:
    """Over 200 tables of uneven weights: the mean claimed error is that of the values, within a fifth."""
    generator = np.random.default_rng(0)
    values, errors = [], []
    for seed in range(200):
        effect, pseudo = generator.normal(size=(2, 200))
        found = rate(effect, pseudo, w=generator.choice([1.0, 1.0, 1.0, 8.0], 200), draws=60, seed=seed)
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)
    unweighted = [rate(*generator.normal(size=(2, 200)), draws=60).standard_error for _ in range(50)]
    assert np.mean(errors) > 1.2 * np.mean(unweighted)  # few rows count for most


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda w: rate(np.arange(5.0), np.ones(5), w=w), "w: expected weights of at least 0, got -1.0 in row 1"),
        (lambda w: rate(np.arange(5.0), np.ones(5), w=np.maximum(w, 0)), "effect: expected at least 4 rows, got 3"),
        (lambda w: toc_curve(np.arange(5.0), np.ones(5), w[:3]), r"w: expected shape \[5\], got \[3\]"),
        (lambda w: qini_curve(np.arange(5.0), np.arange(5) % 2, np.ones(5), w=w), "w: expected weights of .*"),
        (lambda w: sqrt_pehe(*np.ones((4, 5, 1)), w=0 * w), "w: expected .*"),
    ],
)
def test_bad_weights(measure: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        measure(np.array([1.0, -1.0, 2.0, 0.0, 3.0]))
