"""Features in pieces: hand values, and what holds for any feature."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from torch_ref.common.data.encoding import Encoding, align

# Of a few values; of every magnitude; heavy in the tails.
COLUMNS = st.one_of(
    st.lists(st.integers(0, 3).map(float), min_size=1, max_size=60),
    st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=60),
    st.lists(st.floats(-300, 300).map(lambda power: 10.0**power), min_size=3, max_size=60),
)


def encoded(column: Sequence[float], bins: int, dtype: Any = np.float64) -> tuple[Encoding, np.ndarray]:
    x = np.array(column, dtype)[:, None]
    encoding = Encoding.of(x, bins)
    return encoding, encoding.encode(x)


class TestHandValues:
    def test_a_feature_of_four_values(self) -> None:
        _, found = encoded([5, 6, 9, 30], bins=3)
        # Ranks 1/8, 3/8, 5/8, 7/8 of the standard normal, over their deviation.
        inner, outer = 0.318639, 1.150349
        deviation = np.sqrt((inner**2 + outer**2) / 2)
        np.testing.assert_array_equal(found[:, 0], [5, 6, 9, 30])
        np.testing.assert_allclose(found[:, 1], np.array([-outer, -inner, inner, outer]) / deviation, rtol=1e-5)
        np.testing.assert_allclose(found[:, 2:], np.tri(4, 3, -1), atol=1e-12)

    def test_what_lies_between_and_beyond(self) -> None:
        encoding, known = encoded([5, 6, 9, 30], bins=3)
        found = encoding.encode(np.array([[-1e9], [5.5], [19.5], [1e9]]))
        np.testing.assert_array_equal(found[:, 0], [-1e9, 5.5, 19.5, 1e9])  # itself goes on beyond the ends
        np.testing.assert_array_equal(found[[0, 3], 1:], known[[0, 3], 1:])
        np.testing.assert_allclose(found[[1, 2], 2:], [[0.5, 0, 0], [1, 1, 0.5]], atol=1e-12)

    def test_more_values_than_pieces(self) -> None:
        _, found = encoded(list(range(101)), bins=4)
        assert found.shape == (101, 6)
        np.testing.assert_allclose(found[[0, 25, 50, 75, 100], 2:], np.tri(5, 4, -1), atol=1e-12)
        assert found[:, 1].mean() == pytest.approx(0, abs=1e-12)
        assert found[:, 1].std() == pytest.approx(1)

    def test_the_share_of_rows_with_a_value_sets_its_rank(self) -> None:
        _, found = encoded([0] * 8 + [1] + [2], bins=5)
        # Ranks 4/10, 8.5/10 and 9.5/10.
        z = np.array([-0.253347] * 8 + [1.036433, 1.644854])
        np.testing.assert_allclose(found[:, 1], (z - z.mean()) / z.std(), rtol=1e-5)

    @pytest.mark.parametrize("column", [[3.0], [3.0] * 5, [0.0, 1.0], [-7.0, 2.0, 2.0, -7.0]])
    def test_one_or_two_values_stay(self, column: list[float]) -> None:
        encoding, found = encoded(column, bins=8)
        np.testing.assert_array_equal(found, np.array(column)[:, None])
        np.testing.assert_array_equal(encoding.encode(np.array([[0.3], [-1e6]])), [[0.3], [-1e6]])

    def test_features_lie_side_by_side(self) -> None:
        x = np.random.default_rng(0).normal(size=(50, 4))
        x[:, 1] = 2
        x[:, 3] = x[:, 3] > 0
        encoding = Encoding.of(x, bins=5)
        assert encoding.widths.tolist() == [7, 1, 7, 1]
        alone = [Encoding.of(column[:, None], 5).encode(column[:, None]) for column in x.T]
        np.testing.assert_array_equal(encoding.encode(x), np.hstack(alone))

    def test_whole_numbers(self) -> None:
        x = np.arange(6)[:, None]
        encoding = Encoding.of(x, bins=2)
        np.testing.assert_array_equal(encoding.encode(x), encoding.encode(x.astype(float)))


class TestAnyFeature:
    @given(COLUMNS, st.integers(1, 9), st.sampled_from([np.float32, np.float64]))
    @example([0.0, 0.0, 5e-324, 1e-323], 2, np.float64)
    @example([-1.7e308, 0.0, 1.0, 1.7e308], 3, np.float64)
    @example([1.0, 1.0 + 2**-52, 1.0 + 2**-51, 1e16], 8, np.float64)
    def test_pieces_rise_from_0_to_1(self, column: list[float], bins: int, dtype: Any) -> None:
        if dtype is np.float32:
            column = [value for value in column if abs(value) < 3e38] or [0.0]
        encoding, found = encoded(column, bins, dtype)
        known = np.unique(np.array(column, dtype))
        largest = np.finfo(dtype).max
        ends = np.array([-largest, largest], dtype)
        between = np.random.default_rng(0).choice(known, 20) / 2 + np.random.default_rng(1).choice(known, 20) / 2
        ordered = np.unique(np.concatenate([known, ends, between.astype(dtype)]))
        everywhere = encoding.encode(ordered[:, None])
        assert everywhere.dtype == found.dtype == dtype
        assert found.shape[1] == encoding.widths[0] <= bins + 2
        assert np.isfinite(everywhere).all()
        np.testing.assert_array_equal(everywhere[:, 0], ordered)
        assert (np.diff(everywhere[:, 1:], axis=0) >= -1e-6).all()  # never falls, but for rounding
        if len(known) > 2:
            assert np.abs(everywhere[:, 1]).max() < 30
            assert everywhere[:, 2:].min() == 0
            assert everywhere[:, 2:].max() == 1
            np.testing.assert_allclose(everywhere[0, 2:], 0, atol=1e-6)
            np.testing.assert_allclose(everywhere[-1, 2:], 1, atol=1e-6)
            assert found[:, 1].mean() == pytest.approx(0, abs=1e-5)
            assert found[:, 1].std() == pytest.approx(1, abs=1e-5)

    @given(st.integers(3, 400), st.integers(1, 9), st.floats(-30, 30))
    def test_only_ranks_count(self, rows: int, bins: int, power: float) -> None:
        """Another unit changes the feature itself alone; so does what keeps the order, among the training rows."""
        column = np.random.default_rng(rows).normal(size=rows)
        _, found = encoded(column.tolist(), bins)
        _, scaled = encoded((column * 10**power).tolist(), bins)
        _, skewed = encoded(np.exp(3 * column).tolist(), bins)
        np.testing.assert_allclose(scaled[:, 1:], found[:, 1:], atol=1e-9)
        np.testing.assert_allclose(skewed[:, 1:], found[:, 1:], atol=1e-9)

    @pytest.mark.parametrize("rows", [1001, 5000])
    @pytest.mark.parametrize("kind", ["normal", "heavy", "mostly zero"])
    def test_many_values(self, rows: int, kind: str) -> None:
        generator = np.random.default_rng(0)
        column = generator.normal(size=rows)
        if kind == "heavy":
            column = generator.standard_cauchy(rows) ** 3
        if kind == "mostly zero":
            column = np.where(generator.random(rows) < 0.7, 0, np.abs(column))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoding, found = encoded(column.tolist(), bins=8)
        assert 2 < encoding.points[0] <= 1000
        assert encoding.values[0] == column.min()
        assert encoding.values[-1] == column.max()
        assert np.isfinite(found).all()
        order = np.argsort(column)
        assert (np.diff(found[order, 1:], axis=0) >= -1e-12).all()
        assert found[:, 1].std() == pytest.approx(1, abs=0.02)
        assert found[:, 2:].min() == 0
        assert found[:, 2:].max() == 1
        if kind != "mostly zero":  # an eighth of the rows is within each piece
            inside = ((found[:, 2:] > 0) & (found[:, 2:] < 1)).mean(axis=0)
            np.testing.assert_allclose(inside, 1 / 8, atol=0.01)

    def test_rows_are_encoded_one_by_one(self) -> None:
        x = np.random.default_rng(0).normal(size=(30, 3))
        encoding = Encoding.of(x, bins=4)
        whole = encoding.encode(x)
        np.testing.assert_array_equal(np.vstack([encoding.encode(row[None]) for row in x]), whole)
        assert encoding.encode(x[:0]).shape == (0, whole.shape[1])


class TestAlign:
    def test_missing_pieces_are_zeros(self) -> None:
        tables = [np.array([[0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [2.0]]), np.arange(9.0)[:, None]]
        alone = [Encoding.of(x, bins=4) for x in tables]
        together = align(alone)
        assert [encoding.widths.tolist() for encoding in alone] == [[1], [4], [6]]
        assert [encoding.widths.tolist() for encoding in together] == [[6]] * 3
        for x, one, aligned in zip(tables, alone, together, strict=True):
            found = aligned.encode(x)
            np.testing.assert_array_equal(found[:, : one.widths[0]], one.encode(x))
            assert not found[:, one.widths[0] :].any()

    def test_each_feature_by_itself(self) -> None:
        generator = np.random.default_rng(0)
        few, many = (generator.integers(2, size=20).astype(float), generator.normal(size=20))
        tables = [np.stack([few, many], axis=1), np.stack([many, few], axis=1)]
        for x, encoding in zip(tables, align([Encoding.of(x, bins=3) for x in tables]), strict=True):
            assert encoding.widths.tolist() == [5, 5]
            found = encoding.encode(x)
            np.testing.assert_array_equal(found[:, [0, 5]], x)


@pytest.mark.parametrize(
    ("x", "bins", "message"),
    [
        (np.zeros((0, 2)), 3, "x: expected at least one row, got an empty batch"),
        (np.zeros(3), 3, "x: expected shape [rows, features], got [3]"),
        (np.zeros((3, 2)), 0, "bins: expected a whole number of at least 1, got 0"),
        (np.zeros((3, 2)), 2.5, "bins: expected a whole number of at least 1, got 2.5"),
    ],
)
def test_bad_input(x: np.ndarray, bins: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Encoding.of(x, bins)


def test_another_number_of_features() -> None:
    encoding = Encoding.of(np.zeros((3, 2)), 3)
    for x in (np.zeros((3, 3)), np.zeros((3, 1)), np.zeros(2)):
        with pytest.raises(ValueError, match=r"^x: expected shape \[rows, 2\], got "):
            encoding.encode(x)


def test_a_gap_is_zero_in_all_columns_and_moves_no_other_row() -> None:
    column = np.array([5.0, np.nan, 6.0, 9.0, np.nan, 30.0])[:, None]
    there = ~np.isnan(column[:, 0])
    encoding, whole = Encoding.of(column, bins=3), Encoding.of(column[there], bins=3)
    np.testing.assert_array_equal(encoding.encode(column)[there], whole.encode(column[there]))
    np.testing.assert_array_equal(encoding.encode(column)[~there], np.zeros((2, 5)))
    nothing = Encoding.of(np.full((2, 1), np.nan), bins=3)
    np.testing.assert_array_equal(nothing.encode(np.array([[np.nan], [np.nan]])), np.zeros((2, 1)))
