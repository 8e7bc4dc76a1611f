"""Propensities of unseen rows: trees join where a line is wrong, and not where it is right."""

import numpy as np
import pytest
from jaxtyping import Float, Int

from flax_impl.data import TreatmentData
from flax_impl.effects import average_effects
from flax_impl.effects.learners.cross_fit import cross_fit
from flax_impl.effects.propensities import blended_propensity, cross_fitted_propensity
from flax_impl.effects.rows import draw_folds

ROWS = 1500


def made_up(seed: int, bent: bool) -> tuple[Float[np.ndarray, "rows 6"], Float[np.ndarray, " rows"], np.ndarray]:
    """Returns features, the true propensity and the treatment; the bent one is Nie and Wager's (2021), setup A."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(size=(ROWS, 6))
    line = 1 / (1 + np.exp(1 - 2 * x[:, 0]))
    score = np.clip(np.sin(np.pi * x[:, 0] * x[:, 1]), 0.1, 0.9) if bent else line
    return x, score, generator.binomial(1, score)


def errors(seed: int, bent: bool) -> tuple[float, float]:
    """Returns how far propensities by line and by both lie from the true ones, on the average."""
    x, true, t = made_up(seed, bent)
    folds = draw_folds(t, seed=0)
    line, both = (of(x, t, folds)[1] for of in (cross_fitted_propensity, blended_propensity))
    return float(np.abs(line - true).mean()), float(np.abs(both - true).mean())


@pytest.mark.parametrize("seed", range(3))
def test_a_bent_relation_is_followed(seed: int) -> None:
    line, both = errors(seed, bent=True)
    assert both < 0.75 * line


@pytest.mark.parametrize("seed", range(3))
def test_a_line_stays_a_line(seed: int) -> None:
    line, both = errors(seed, bent=False)
    assert both < line + 0.01


def test_the_average_effect_is_right_where_a_line_is_not() -> None:
    """Outcome models that know nothing leave all to the propensities."""
    x, _, t = made_up(0, bent=True)
    y = np.sin(np.pi * x[:, 0] * x[:, 1]) + t * 0.5 + np.random.default_rng(1).normal(size=ROWS) / 2
    folds, nothing = draw_folds(t, seed=0), np.full(ROWS, y.mean())
    line, both = (
        abs(average_effects(t, y, nothing, nothing, of(x, t, folds)[1]).ate.value - 0.5)
        for of in (cross_fitted_propensity, blended_propensity)
    )
    assert both < 0.5 * line


def several(rows: int) -> tuple[Float[np.ndarray, "rows 3"], Int[np.ndarray, " rows"]]:
    x = np.random.default_rng(2).normal(size=(rows, 3))
    return x, (x[:, 0] * x[:, 1] > 0) + (x[:, 2] > 1).astype(int)


def test_several_arms_and_rare_ones() -> None:
    x, t = several(300)
    score = blended_propensity(x, t, draw_folds(t, seed=0))
    np.testing.assert_allclose(score.sum(axis=0), 1, atol=0.03)  # each is at least 0.01
    assert np.mean(score.argmax(axis=0) == t) > 0.75
    few = (np.arange(300) < 4).astype(int)
    rare = blended_propensity(x, few, draw_folds(few, seed=0))
    assert (rare >= 0.01).all()
    assert (rare <= 0.99).all()


def test_it_is_what_averages_stand_on() -> None:
    x, t = several(200)
    data = TreatmentData(x, t.astype(np.int32), np.zeros((200, 1)), arms=(0, 1, 2))
    expected = blended_propensity(x, t, draw_folds(t, seed=0))
    np.testing.assert_array_equal(cross_fit(data, np.zeros((3, 1, 200)), None).score, expected)
