"""Calibrated intervals: what the half's ensemble says, by hand, with known errors, and on made-up tables."""

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flax_impl.data import synthetic
from flax_impl.effects import EffectSettings, fit_effects
from flax_impl.effects.intervals.calibrated import (
    calibrate,
    calibrated_interval,
    draw_half,
)
from flax_impl.effects.intervals.held_out import in_held_out

ROWS, MEMBERS = 4000, 8


def held(errors: np.ndarray, of_half: np.ndarray, noise: np.ndarray, alpha: float) -> float:
    """Returns the share of effects that intervals hold where the estimates have known errors [2, rows] by arm.

    The true outcomes are 0. Members scatter around their mean by a tenth of its error, so that their spread tells
    little, and differently from row to row.
    """
    generator = np.random.default_rng(1)
    t = np.arange(ROWS) % 2
    scatter = generator.standard_normal((MEMBERS, 2, ROWS)) * np.linspace(0.05, 0.2, ROWS)
    scatter -= scatter.mean(axis=0)
    members = errors + scatter
    outcomes = members.swapaxes(0, 1)
    refit = of_half[:, None]
    [calibration] = calibrate(outcomes, np.ones((MEMBERS, ROWS), bool), t, noise, lambda rows: refit)
    low, high = calibrated_interval(outcomes[1] - outcomes[0], calibration, alpha)
    return float(np.mean((low <= 0) & (high >= 0)))


@pytest.mark.parametrize("noise", ["none", "normal", "heavy"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_errors_of_known_size_are_held(noise: str, shared: bool, alpha: float) -> None:
    """The half's squared errors are twice as large: all of it in the same direction, or by an error of its own."""
    generator = np.random.default_rng(0)
    errors, own = generator.standard_normal((2, 2, ROWS))
    noises = {
        "none": np.zeros(ROWS),
        "normal": generator.standard_normal(ROWS),
        "heavy": generator.standard_t(2.5, ROWS),
    }
    found = held(errors, 2**0.5 * errors if shared else errors + own, noises[noise], alpha)
    assert found == pytest.approx(1 - alpha, abs=0.03 + 0.03 * (noise != "none"))


def test_by_hand() -> None:
    """Four rows of each arm, two of each in the half; the members' spread is the square root of 2."""
    t = np.repeat([0, 1], 4)
    rest = np.setdiff1d(np.arange(8), draw_half(t, seed=0))
    zeros, of_half = np.zeros(8), np.zeros(8)
    of_half[rest] = [1.0, 2.0, 3.0, 4.0]
    members = np.stack([np.zeros((2, 8)), np.stack([zeros - 1, zeros + 1])])
    refit = np.stack([zeros, of_half])[:, None]
    unseen = np.ones((2, 8), bool)  # the residuals are as large as the half's distance, so nothing grows
    [calibration] = calibrate(members, unseen, t, zeros, lambda rows: refit)
    assert calibration.shape == (1002,)
    np.testing.assert_allclose(
        calibration[[0, 1, 101, 301, 501, 701, 901]], [2, *np.array([1, 1, 2, 3, 4, 4]) / 2**0.5]
    )
    low, high = calibrated_interval(np.array([[1.0, 5.0], [3.0, 5.0]]), calibration, alpha=0.5)
    np.testing.assert_allclose([low, high], [[-1, 5 - 3 / 2**0.5], [5, 5 + 3 / 2**0.5]])


def test_the_refit_gets_half_of_each_arm() -> None:
    t = np.array([0] * 5 + [1] * 8)
    members = np.random.default_rng(0).standard_normal((2, 3, 13))
    asked = []

    def refit(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return members

    [calibration] = calibrate(members, np.ones((3, 13), bool), t, np.zeros(13), refit, seed=3)
    np.testing.assert_allclose(calibration[1:], 0, atol=1e-12)
    [rows] = asked
    np.testing.assert_array_equal(rows, draw_half(t, seed=3))
    assert np.bincount(t[rows]).tolist() == [2, 4]
    assert len(np.unique(rows)) == 6
    assert not np.array_equal(rows, draw_half(t, seed=4))


def test_rows_are_unseen_by_the_members_that_held_them_out() -> None:
    found = in_held_out(np.array([[0, 1], [1, 0]]), 3)
    assert found.tolist() == [[True, True, False], [True, True, False]]
    with pytest.raises(ValueError, match=r"^held_out: expected row numbers from 0 to 1, got 2$"):
        in_held_out(np.array([[2]]), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.array([0, 0, 0, 1])}, "t: expected at least 2 treated rows to calibrate on, got 1"),
        ({"t": np.array([0, 0, 2, 1])}, "t: expected 0 or 1 in every row, got 2 in row 2"),
        ({"y": np.array([0, 0, np.inf, 1])}, "y: expected finite numbers, got inf in row 2"),
        ({"y": np.zeros(3)}, "y: expected 4 rows, as t has, got 3"),
        (
            {"outcomes": np.zeros((2, 1, 4))},
            "members: expected at least 2 for an interval",
        ),
        ({"outcomes": np.zeros((2, 2, 3))}, "outcomes: expected "),
        ({"unseen": np.ones((3, 4), bool)}, "unseen: expected "),
        ({"refit": lambda rows: np.zeros((2, 2, 2))}, "refit: expected "),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    members = np.stack([np.zeros((2, 4)), np.ones((2, 4))])
    given: dict[str, Any] = {"outcomes": members, "unseen": np.ones((2, 4), bool), "t": np.arange(4) % 2}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        calibrate(**(given | {"y": np.zeros(4), "refit": lambda rows: members} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effects": np.zeros((1, 3))}, "members: expected at least 2 for an interval, got 1"),
        ({"calibration": np.zeros(3)}, "calibration: expected "),
        ({"alpha": 1}, "alpha: expected a finite number above 0 and below 1, got 1"),
    ],
)
def test_bad_arguments_of_an_interval(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"effects": np.zeros((2, 3)), "calibration": np.ones(1002)} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        calibrated_interval(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize(
    ("kind", "least"),
    # On so few rows intervals are too short where arms overlap poorly; docs/results.md has larger tables.
    [({}, 0.9), ({"overlap": "poor"}, 0.7), ({"noise": "heavy"}, 0.9)],
)
def test_true_effects_are_held(kind: dict[str, Any], least: float, bootstrap: bool) -> None:
    shares = []
    for seed in range(3):
        data, new = synthetic(600, seed=seed, **kind), synthetic(1000, seed=1000 + seed, **kind)
        settings = EffectSettings(members=10, bootstrap=bootstrap, seed=seed)

        def refit(rows: np.ndarray, data: Any = data, settings: EffectSettings = settings) -> np.ndarray:
            half = replace(data, x=data.x[rows], t=data.t[rows], y=data.y[rows], mu0=None, mu1=None)
            return fit_effects(half, settings, progress=False).member_outcomes(data.x)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = fit_effects(data, settings, progress=False)
            assert model.training is not None
            assert model.training.held_out is not None
            unseen = in_held_out(model.training.held_out, len(data))
            outcomes = model.member_outcomes(data.x)
            [calibration] = calibrate(outcomes, unseen, data.t, data.y[:, 0], refit, seed=seed)
        y0, y1 = model.member_outcomes(new.x)
        low, high = calibrated_interval(y1 - y0, calibration)
        assert new.mu0 is not None
        assert new.mu1 is not None
        true = (new.mu1 - new.mu0)[:, 0]
        shares.append(np.mean((low <= true) & (true <= high)))
    assert np.mean(shares) > least
