"""The measures of difference, by hand values."""

import numpy as np
import pytest

from flax_impl.parity import largest_difference, relative_difference, scaled_difference

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("actual", "reference", "scaled", "relative"),
    [
        ([1.0, 4.0], [1.0, 4.0], 0, 0),
        ([1.0, 5.0], [1.0, 4.0], 0.25, 0.25),
        ([2.0, 4.0], [1.0, 4.0], 0.25, 1),
        ([1.0, -4.0], [1.0, 4.0], 2, 2),
        ([0.0, 0.0], [0.0, 0.0], 0, 0),
        ([0.0, 1e-300], [0.0, 0.0], INF, INF),
        ([0.1, 4.0], [0.0, 4.0], 0.025, INF),
        ([NAN, INF, -INF, 2.0], [NAN, INF, -INF, 2.0], 0, 0),
        ([NAN, 2.0], [1.0, 2.0], INF, INF),
        ([1.0, 2.0], [NAN, 2.0], INF, INF),
        ([INF, 2.0], [-INF, 2.0], INF, INF),
        ([INF, 2.0], [1.0, 2.0], INF, INF),
        ([], [], 0, 0),
    ],
)
def test_differences(actual: list[float], reference: list[float], scaled: float, relative: float) -> None:
    assert scaled_difference(np.array(actual), np.array(reference)) == pytest.approx(scaled)
    assert relative_difference(np.array(actual), np.array(reference)) == pytest.approx(relative)


def test_shapes_and_names_must_be_equal() -> None:
    with pytest.raises(ValueError, match=r"^actual: expected shape \[2, 1\], got \[2\]$"):
        scaled_difference(np.zeros(2), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"^actual: expected the arrays \['a'\], got \['b'\]$"):
        largest_difference({"b": np.zeros(2)}, {"a": np.zeros(2)})
    assert largest_difference({"a": np.ones(2), "b": np.ones(1)}, {"b": np.full(1, 2.0), "a": np.ones(2)}) == 0.5
