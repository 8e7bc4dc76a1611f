"""Student's intervals from the spread of members."""

import numpy as np
import pytest

from flax_impl.effects.intervals.bootstrap import student_interval


class TestInterval:
    def test_by_hand(self) -> None:
        """Student's 0.975 quantile is 12.7062 with one degree of freedom, and 4.3027 with two."""
        low, high = student_interval(np.array([[1.0, 2.0], [3.0, 2.0]]))
        np.testing.assert_allclose(low, [2 - 12.7062 * 2**0.5, 2], rtol=1e-5)
        np.testing.assert_allclose(high, [2 + 12.7062 * 2**0.5, 2], rtol=1e-5)
        low, high = student_interval(np.array([1.0, 2.0, 3.0]))
        assert (low, high) == pytest.approx((2 - 4.3027, 2 + 4.3027), rel=1e-4)
        low, high = student_interval(np.array([1.0, 2.0, 3.0]), alpha=0.5)
        assert (low, high) == pytest.approx((2 - 0.81650, 2 + 0.81650), rel=1e-4)

    @pytest.mark.parametrize(
        ("values", "alpha", "message"),
        [
            (np.ones((1, 3)), 0.05, "members: expected at least 2 for an interval, got 1"),
            (np.ones((2, 3)), 0, "alpha: expected a finite number above 0 and below 1, got 0"),
            (np.ones((2, 3)), 1, "alpha: expected a finite number above 0 and below 1, got 1"),
        ],
    )
    def test_bad_arguments(self, values: np.ndarray, alpha: float, message: str) -> None:
        with pytest.raises(ValueError, match=f"^{message}$"):
            student_interval(values, alpha)
