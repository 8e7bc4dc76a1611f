"""Features as finite columns: hand values, and what holds for any table."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import Design, array_columns, count_unseen, finite_features, finite_tables
from torch_ref.common.data.encoding import Encoding, encode_features
from torch_ref.common.data.treatment_data import Scales, TreatmentData

NAN = float("nan")
COLUMNS = (Column("city", levels=("Bonn", "Oslo", "Rome")), Column("age", gaps=True), Column("pets"))
PLAIN = Scales(np.zeros(1), np.ones(1), np.zeros(1), np.ones(1))
X = np.array([[0, 30.0, 1], [1, NAN, 0], [2, 50.0, 1], [2, 40.0, 0]])


class TestHandValues:
    def test_numbers_come_first_then_levels(self) -> None:
        design = Design.of(X, COLUMNS)
        assert design.names == ("age", "age is missing", "pets", "city is Oslo", "city is Rome")
        np.testing.assert_array_equal(
            design.finite(X), [[30, 0, 1, 0, 0], [40, 1, 0, 1, 0], [50, 0, 1, 0, 1], [40, 0, 0, 0, 1]]
        )
        np.testing.assert_array_equal(
            design.for_nets(X), [[30, 0, 1, 0, 0], [NAN, 1, 0, 1, 0], [50, 0, 1, 0, 1], [40, 0, 0, 0, 1]]
        )
        scales = design.net_scales(PLAIN)
        np.testing.assert_allclose(scales.x_mean, [40, 0.25, 0.5, 0.25, 0.5])
        np.testing.assert_allclose(scales.x_std, [np.sqrt(200 / 3), np.sqrt(3) / 4, 0.5, np.sqrt(3) / 4, 0.5])

    def test_what_training_had_not_lies_at_the_mean(self) -> None:
        design = Design.of(X, COLUMNS)
        np.testing.assert_array_equal(
            design.finite(np.array([[-1, 30.0, 1], [NAN, 30.0, 1]]))[:, 3:], [[0.25, 0.5]] * 2
        )
        half = Design.of(X[[1, 2]], COLUMNS)  # no Bonn
        np.testing.assert_array_equal(half.finite(X)[:, 3:], [[0.5, 0.5], [1, 0], [0, 1], [0, 1]])
        whole = Design.of(X[[0, 2, 3]], COLUMNS)  # no gap
        assert whole.names == design.names
        np.testing.assert_array_equal(whole.finite(X)[1], [40, 0, 0, 0, 2 / 3])  # Oslo is as unknown as the gap

    def test_gaps_of_a_category_are_a_level(self) -> None:
        columns = (Column("city", levels=("Bonn", "Oslo"), gaps=True),)
        design = Design.of(np.array([[0], [1], [NAN], [NAN]]), columns)
        assert design.names == ("city is Oslo", "city is missing")
        np.testing.assert_array_equal(design.finite(np.array([[0], [1], [NAN]])), [[0, 0], [1, 0], [0, 1]])
        np.testing.assert_array_equal(design.finite(np.array([[-1]])), [[0.25, 0.5]])

    def test_a_constant_category_keeps_its_column(self) -> None:
        design = Design.of(np.zeros((3, 1)), (Column("city", levels=("Bonn",)),))
        assert design.names == ("city is Bonn",)
        np.testing.assert_array_equal(design.finite(np.array([[0], [-1]])), [[1], [1]])

    def test_many_levels(self) -> None:
        levels = tuple(f"l{i:02}" for i in range(40))
        codes = np.repeat(np.arange(40), np.where(np.arange(40) < 10, 1, 3))  # the first ten are rare
        design = Design.of(codes[:, None].astype(float), (Column("town", levels=levels),))
        assert design.names == tuple(f"town is {level}" for level in levels[10:])
        rare, unseen, last = design.finite(np.array([[4.0], [-1.0], [39.0]]))
        np.testing.assert_array_equal(rare, np.zeros(30))
        np.testing.assert_array_equal(unseen, np.zeros(30))  # as rare as the rare ones
        assert last.tolist() == [0.0] * 29 + [1.0]
        np.testing.assert_array_equal(
            design.for_nets(codes[:, None]), design.finite(codes[:, None])
        )  # beside the codes
        age = (*design.columns, Column("age"))
        assert Design.of(np.stack([codes, codes], 1).astype(float), age).for_nets(np.ones((1, 2))).tolist() == [[1]]
        np.testing.assert_array_equal(design.codes(np.array([[4.0], [-1.0], [NAN]])), [[4], [-1], [-1]])
        assert (design.embedded, design.code_counts) == ((0,), (40,))

    def test_between_twenty_and_thirty_levels(self) -> None:
        columns = (Column("town", levels=tuple(range(25)), gaps=True),)
        design = Design.of(np.append(np.arange(25.0), NAN)[:, None], columns)
        assert len(design.names) == 25  # 24 levels, and gaps
        assert design.code_counts == (26,)
        np.testing.assert_array_equal(design.codes(np.array([[NAN], [-1], [24]])), [[25], [-1], [24]])

    def test_columns_of_nets(self) -> None:
        columns = (*COLUMNS, Column("town", levels=tuple(range(21))))
        x = np.c_[np.tile(X, (6, 1)), np.arange(24) % 21]
        design = Design.of(x, columns)
        scales = design.net_scales(PLAIN)
        plain = encode_features(x, scales, None, design)
        assert plain.shape == (24, 6)
        np.testing.assert_array_equal(plain[:, -1], np.arange(24) % 21)
        np.testing.assert_array_equal(plain[1, :1], [0])  # a gap, once standardised
        np.testing.assert_allclose(plain[:, :-1].mean(axis=0), 0, atol=1e-12)
        encoding = Encoding.of(scales.features(design.for_nets(x)), bins=2)
        encoded = encode_features(x, scales, encoding, design)
        assert encoding.widths.tolist() == [4, 1, 1, 1, 1]  # only the ages are more than two values
        np.testing.assert_array_equal(encoded[1, :4], np.zeros(4))
        np.testing.assert_array_equal(encoded[:, 4:], plain[:, 1:])


class TestAnyTable:
    @given(st.data())
    def test_finite_and_alike(self, data: st.DataObject) -> None:
        kinds = data.draw(st.lists(st.tuples(st.integers(0, 45), st.booleans()), min_size=1, max_size=4))
        columns = tuple(Column(f"x{i}", tuple(range(n)) if n else None, gaps) for i, (n, gaps) in enumerate(kinds))
        rows = data.draw(st.integers(1, 30))
        generator = np.random.default_rng(data.draw(st.integers(0, 9)))

        def draw(unseen: bool) -> np.ndarray:
            x = [
                generator.normal(size=rows) if c.levels is None else generator.integers(-unseen, len(c.levels), rows)
                for c in columns
            ]
            gaps = [(generator.random(rows) < 0.3) & c.gaps for c in columns]
            return np.where(np.stack(gaps, 1), np.nan, np.stack(x, 1))

        train, new = draw(False), draw(True)
        design = Design.of(train, columns)
        known = design.finite(train)
        assert np.isfinite(known).all()
        assert np.isfinite(design.finite(new)).all()
        assert known.shape[1] == len(design.names) == len(design.scales(PLAIN).x_mean)
        # A number that is there stays, and the columns of a row depend on no other row.
        whole = [i for i, column in enumerate(columns) if column.levels is None and not column.gaps]
        place = [design.names.index(columns[i].name) for i in whole]
        np.testing.assert_array_equal(known[:, place], train[:, whole])
        np.testing.assert_array_equal(design.finite(train[:1]), known[:1])
        # Rows that differ in the training differ in the columns, as long as no levels are pooled.
        if all(len(column.levels or ()) <= 30 for column in columns):
            different = len(np.unique(np.nan_to_num(train, nan=1e9), axis=0))
            assert len(np.unique(known, axis=0)) == different


def test_tables_of_numbers_stay() -> None:
    data = TreatmentData(np.ones((3, 2)), np.array([0, 1, 0]), np.ones((3, 1)))
    assert finite_features(data) is data.x
    assert finite_tables(data, data) == [data, data]
    assert array_columns(data.x, ()) is None


def test_finite_tables() -> None:
    data = TreatmentData(X, np.array([0, 1, 0, 1]), np.ones((4, 1)), columns=COLUMNS)
    train, test = finite_tables(data.take(np.array([0, 1, 2])), data.take(np.array([3])))
    assert train.feature_names == test.feature_names == Design.of(X, COLUMNS).names
    assert train.columns is None
    np.testing.assert_array_equal(train.x, finite_features(data.take(np.array([0, 1, 2]))))


def test_columns_of_an_array() -> None:
    x = np.array([[1.0, NAN], [2.0, 3.0]])
    assert array_columns(x, ("a", "b")) == (Column("a"), Column("b", gaps=True))
    assert array_columns(x, ()) == (Column("x1"), Column("x2", gaps=True))


def test_unseen_levels_are_counted() -> None:
    columns = (*COLUMNS, Column("town", levels=(0, 1), gaps=True))
    x = np.array([[-1, NAN, 0, NAN], [NAN, NAN, 0, NAN], [0, NAN, 0, NAN]])
    assert count_unseen(x, columns) == {"city": 2}  # a gap, too: training had none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 2, NAN), "column pets: expected a number in every row, as in training, got nan in row 0"),
        ((1, 1, np.inf), "column age: expected finite numbers, got inf in row 1"),
        ((2, 0, 3.0), "column city: expected the place of a level, 0 to 2, or -1 for another, got 3.0 in row 2"),
        ((3, 0, 0.5), "column city: expected the place of a level, 0 to 2, or -1 for another, got 0.5 in row 3"),
        (None, "x: expected shape [rows, 3], got [rows, 2]"),
    ],
)
def test_values_that_the_columns_do_not_allow(change: Any, message: str) -> None:
    design, x = Design.of(X, COLUMNS), X.copy()
    if change is None:
        x = x[:, :2]
    else:
        x[change[:2]] = change[2]
    for call in (design.finite, design.for_nets, lambda x: Design.of(x, COLUMNS)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(x)
