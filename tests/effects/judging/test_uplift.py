"""The Qini curve and coefficient, by hand and by property."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects.judging.uplift import qini_coefficient, qini_curve


class TestQini:
    T, Y = np.array([1, 0, 1, 0]), np.array([5.0, 1.0, 3.0, 2.0])

    def test_by_hand(self) -> None:
        """Nobody to compare with at first; then 5 against 1, the mean of 5 and 3 against 1, and against 1.5."""
        share, gain = qini_curve(np.array([4.0, 3.0, 2.0, 1.0]), self.T, self.Y)
        np.testing.assert_allclose(share, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(gain, [0, 0, 4 * 0.5, 3 * 0.75, 2.5 * 1])
        assert qini_coefficient(share, gain) == pytest.approx((0 + 2 + (2 + 2.25) + (2.25 + 2.5)) / 8 - 2.5 / 2)

    def test_the_order_of_rows_is_nothing(self) -> None:
        effect = np.array([4.0, 3.0, 2.0, 1.0])
        expected = qini_curve(effect, self.T, self.Y)
        shuffled = [2, 0, 3, 1]
        np.testing.assert_allclose(qini_curve(effect[shuffled], self.T[shuffled], self.Y[shuffled]), expected)

    def test_rows_that_are_alike_are_taken_together(self) -> None:
        share, gain = qini_curve(np.full(4, 0.3), self.T, self.Y)
        np.testing.assert_allclose((share, gain), [[0, 1], [0, 2.5]])
        assert qini_coefficient(share, gain) == 0
        share, gain = qini_curve(np.array([2.0, 2.0, 1.0, 1.0]), self.T, self.Y)
        np.testing.assert_allclose((share, gain), [[0, 0.5, 1], [0, 2, 2.5]])

    def test_scores_weigh_by_their_inverse(self) -> None:
        """Treated rows weigh 2 and 4; no row more than 100."""
        effect = np.zeros(4)
        _, gain = qini_curve(effect, self.T, self.Y, np.array([0.5, 0.5, 0.25, 0.5]))
        np.testing.assert_allclose(gain, [0, (2 * 5 + 4 * 3) / 6 - 1.5])
        _, gain = qini_curve(effect, self.T, self.Y, np.array([0.5, 0.75, 0.5, 0.5]))
        np.testing.assert_allclose(gain, [0, 4 - (4 * 1 + 2 * 2) / 6])
        _, gain = qini_curve(effect, self.T, self.Y, np.array([1.0, 0.5, 1e-9, 0.5]))
        np.testing.assert_allclose(gain, [0, (1 * 5 + 100 * 3) / 101 - 1.5])
        even = qini_curve(effect, self.T, self.Y, np.full(4, 0.5))
        np.testing.assert_allclose(even, qini_curve(effect, self.T, self.Y))

    def test_an_arm_without_rows_gains_nothing(self) -> None:
        _, gain = qini_curve(np.array([2.0, 1.0]), np.array([1, 1]), np.array([3.0, 4.0]))
        np.testing.assert_array_equal(gain, 0)

    @examples(max_examples=20)
    @given(st.integers(0, 2**32 - 1))
    def test_a_right_ranking_beats_a_wrong_one(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        effect, t = generator.normal(size=300), generator.integers(0, 2, 300)
        y = t * effect + 0.1 * generator.normal(size=300)
        right, wrong = (qini_curve(sign * effect, t, y) for sign in (1, -1))
        assert qini_coefficient(*right) > 0.1
        assert qini_coefficient(*wrong) < -0.1
        assert right[1][-1] == pytest.approx(wrong[1][-1])
        assert right[1][-1] == pytest.approx(y[t == 1].mean() - y[t == 0].mean())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"effect": np.zeros(0)}, "effect: expected at least one row, got an empty batch"),
            ({"t": np.array([0, 1, 2, 0])}, "t: expected 0 or 1 in every row, got 2 in row 2"),
            ({"y": np.zeros((4, 1))}, r"y: expected shape \[4\], got \[4, 1\]"),
            ({"score": np.zeros(3)}, r"score: expected shape \[4\], got \[3\]"),
        ],
    )
    def test_bad_arguments(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{message}$"):
            qini_curve(**{"effect": np.arange(4.0), "t": self.T, "y": self.Y, **change})
