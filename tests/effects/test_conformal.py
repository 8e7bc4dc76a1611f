"""Conformal intervals for a row's own difference of outcomes."""

import re
from typing import Any

import numpy as np
import pytest

from flax_impl.effects.intervals.conformal import HeldOutRows, conformal_interval
from torch_ref.common.data.simulation import outcome_noise, synthetic


def table(residuals_0: list[float], residuals_1: list[float], **changes: Any) -> HeldOutRows:
    """Rows whose estimates are 0, so that outcomes are residuals; as many treated as not, unless told."""
    y = np.array(residuals_0 + residuals_1)
    zeros = np.zeros(len(y))
    made = HeldOutRows(zeros, zeros, np.full(len(y), 0.5), np.repeat([0, 1], [len(residuals_0), len(residuals_1)]), y)
    return made._replace(**changes)


def ends(of: HeldOutRows, alpha: float, score: float = 0.5, **options: Any) -> tuple[float, float]:
    low, high = conformal_interval(of, np.array([1.0]), np.array([3.0]), np.array([score]), alpha, **options)
    return float(low[0]), float(high[0])


class TestByHand:
    def test_any_way_adds_both_arms_quantiles(self) -> None:
        """Of 9 residuals and the new row's, 8 of 10 are needed at 0.2 an arm: sizes 8 and 80."""
        of = table([float(i) for i in range(1, 10)], [-10.0 * i for i in range(1, 10)])
        assert ends(of, 0.4) == (2 - 88, 2 + 88)
        assert ends(of, 0.2) == (2 - 99, 2 + 99)
        assert ends(of, 0.19) == (-np.inf, np.inf)

    def test_independent_pairs_the_residuals(self) -> None:
        """Two residuals an arm: four differences of size 3, 1, 1, 3, and all four ninths of the weight are finite."""
        of = table([1.0, -1.0], [2.0, -2.0])
        assert ends(of, 1 - 2 / 9, joint="independent") == (2 - 1, 2 + 1)
        assert ends(of, 1 - 3 / 9, joint="independent") == (2 - 3, 2 + 3)
        assert ends(of, 1 - 5 / 9, joint="independent") == (-np.inf, np.inf)

    def test_rows_weigh_one_over_their_probability(self) -> None:
        """The treated row of size 9 is rare in its arm and stands for four; the quantile finds it sooner."""
        of = table([0.0] * 99, [1.0] * 5 + [9.0], score=np.array([0.5] * 104 + [0.125]))
        assert ends(of, 0.6) == (2 - 9, 2 + 9)
        assert ends(of._replace(score=np.full(105, 0.5)), 0.6) == (2 - 1, 2 + 1)

    def test_a_row_unlike_an_arm_has_no_end(self) -> None:
        of = table([1.0] * 50, [1.0] * 50)
        assert ends(of, 0.1) == (0, 4)
        for joint in ("any", "independent"):
            assert ends(of, 0.1, score=0.02, joint=joint) == (-np.inf, np.inf)
            assert ends(of, 0.1, score=0.98, joint=joint) == (-np.inf, np.inf)
        assert ends(of, 0.1, score=0.02, least_score=0.3) == (0, 4)


KINDS: dict[str, dict[str, Any]] = {"plain": {}, "poor": {"overlap": "poor"}, "heavy": {"noise": "heavy"}}


@pytest.mark.parametrize("joint", ["any", "independent"])
@pytest.mark.parametrize("kind", KINDS)
def test_they_hold_the_differences(kind: str, joint: Any) -> None:
    """Estimates that are wrong in places, and noises that go together as `joint` says: the worst way, or not at all."""
    slope, noise = (3 if kind == "poor" else 1), KINDS[kind].get("noise", "normal")

    def score(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-slope * (0.8 * x[:, 0] + 0.4 * x[:, 1])))

    held = []
    for seed in range(8):
        of, new = (synthetic(1000, seed=seed + more, **KINDS[kind]) for more in (0, 1000))
        assert of.mu0 is not None
        assert of.mu1 is not None
        assert new.mu0 is not None
        assert new.mu1 is not None
        of_table, of_new = (0.3 * np.sin(3 * row.x[:, 0]) for row in (of, new))
        known = HeldOutRows(of.mu0[:, 0] + of_table, of.mu1[:, 0] - 0.2, score(of.x), of.t, of.y[:, 0])
        low, high = conformal_interval(
            known, new.mu0[:, 0] + of_new, new.mu1[:, 0] - 0.2, score(new.x), 0.1, joint=joint
        )
        generator = np.random.default_rng(seed)
        first = outcome_noise(1000, noise, generator)
        second = -first if joint == "any" else outcome_noise(1000, noise, generator)
        true = (new.mu1 - new.mu0)[:, 0] + second - first
        held.append(np.mean((low <= true) & (true <= high)))
    assert 0.87 < np.mean(held) < (1 if joint == "any" else 0.97)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0}, "alpha: expected a finite number above 0 and below 1, got 0"),
        ({"joint": "alike"}, "joint: expected "),
        ({"least_score": 0.5}, "least_score: expected a finite number above 0 and below 0.5, got 0.5"),
        ({"mu1": np.zeros(2)}, "mu1: expected "),
        ({"score": np.array([1.5])}, "score: expected probabilities between 0 and 1, got 1.5 to 1.5"),
        ({"score": np.array([np.nan])}, "score: expected finite numbers, got nan in row 0"),
        ({"table": table([1.0], [])}, "t: expected rows of both arms, got no treated ones"),
        ({"table": table([1.0], [2.0], t=np.array([0, 2]))}, "t: expected 0 or 1 in every row, got 2 in row 1"),
        ({"table": table([1.0], [2.0], mu0=np.zeros(3))}, "mu0: expected "),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"table": table([1.0], [2.0]), "mu0": np.zeros(1), "mu1": np.zeros(1)}
    arguments: dict[str, Any] = given | {"score": np.full(1, 0.5)} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        conformal_interval(**arguments)
