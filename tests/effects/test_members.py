"""What an ensemble trains on and what it says: rows of its members, scales, doubts, intervals and uplift, by hand."""

import re
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from flax_impl.effects.estimates import interval
from flax_impl.effects.overlap import examine, examine_overlap, feature_names, propensity
from flax_impl.effects.prepare import gave_up, prepare, restarting
from flax_impl.effects.rows import MemberRows, draw_members
from flax_impl.effects.uplift import qini_coefficient, qini_curve
from torch_ref.data import Scales, TreatmentData, treatment_weights

DRAW: dict[str, Any] = {"members": 3, "validation_share": 0.3, "bootstrap": False, "seed": 0}


def draw(t: np.ndarray, **changes: Any) -> MemberRows:
    return draw_members(**{"t": t, **DRAW, **changes})


def table(rows: int = 60, treated: int | None = None, **changes: Any) -> TreatmentData:
    """Returns a table with nothing to complain of; the treated rows are its last."""
    generator = np.random.default_rng(0)
    t = (np.arange(rows) >= rows - (rows // 2 if treated is None else treated)).astype(np.int32)
    made = {"x": generator.normal(size=(rows, 3)), "t": t, "y": generator.normal(size=(rows, 1))}
    return TreatmentData(**(made | changes))


class TestDrawnRows:
    @examples(max_examples=40)
    @given(
        st.lists(st.integers(0, 1), min_size=4, max_size=60),
        st.sampled_from([0.2, 0.5, 0.9]),
        st.integers(1, 4),
        st.integers(0, 2**31 - 1),
    )
    def test_arms_are_kept(self, arms: list[int], share: float, members: int, seed: int) -> None:
        t = np.array(arms)
        expected = [min(round(share * count), count - 1) if count else 0 for count in np.bincount(t, minlength=2)]
        settings: dict[str, Any] = {"members": members, "validation_share": share, "seed": seed}
        if not sum(expected):
            with pytest.raises(ValueError, match=r"^validation_share: expected a share that holds a row out, got "):
                draw_members(t, bootstrap=False, **settings)
            return
        rows, drawn = (draw_members(t, bootstrap=bootstrap, **settings) for bootstrap in (False, True))
        for of_all in (rows, drawn):
            assert of_all.validation is not None
            assert of_all.train.dtype == of_all.validation.dtype == np.int32
            assert len(of_all.train) == len(of_all.validation) == members
            for train, held_out in zip(of_all.train, of_all.validation, strict=True):
                assert np.bincount(t[held_out], minlength=2).tolist() == expected
                assert np.bincount(t[train], minlength=2).tolist() == (np.bincount(t, minlength=2) - expected).tolist()
                assert not np.intersect1d(train, held_out).size
                assert len(np.unique(held_out)) == len(held_out)
                if of_all is rows:
                    assert sorted([*train, *held_out]) == list(range(len(t)))

    def test_a_bootstrap_draws_from_the_kept_rows(self) -> None:
        t = np.arange(200) % 2
        drawn = draw(t, bootstrap=True)
        assert drawn.validation is not None
        for train, held_out in zip(drawn.train, drawn.validation, strict=True):
            different = len(np.unique(train))
            assert 0.5 * len(train) < different < 0.75 * len(train)  # 63 % of them, on average
            assert not np.isin(train, held_out).any()

    def test_members_and_seeds_differ(self) -> None:
        t = np.arange(60) % 2
        for bootstrap in (False, True):
            first, again, other = (draw(t, bootstrap=bootstrap, seed=seed) for seed in (1, 1, 2))
            np.testing.assert_array_equal(first.train, again.train)
            assert not np.array_equal(first.train, other.train)
            assert first.validation is not None
            assert not np.array_equal(np.sort(first.validation[0]), np.sort(first.validation[1]))

    def test_nothing_is_held_out(self) -> None:
        rows = draw(np.arange(7) % 2, validation_share=0)
        assert rows.validation is None
        np.testing.assert_array_equal(np.sort(rows.train), [np.arange(7)] * 3)

    def test_held_out_rows_are_capped(self) -> None:
        t = (np.arange(100_000) % 4 == 0).astype(np.int32)
        rows = draw(t, members=1)
        assert rows.validation is not None
        assert rows.validation.shape == (1, 16_384)
        assert t[rows.validation].mean() == 0.25
        assert rows.train.shape == (1, 100_000 - 16_384)

    def test_an_arm_keeps_a_row(self) -> None:
        rows = draw(np.array([1, 0, 0, 0, 0, 0]), validation_share=0.99)
        assert rows.validation is not None
        assert rows.validation.shape == (3, 4)
        assert (rows.train == 0).any(axis=1).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"members": 0}, "members: expected a whole number of at least 1, got 0"),
            ({"validation_share": 1}, "validation_share: expected a finite number of at least 0 and below 1, got 1"),
            ({"validation_share": -0.1}, "validation_share: expected a finite number of at least 0 and below 1"),
            ({"validation_share": 0.01}, "validation_share: expected a share that holds a row out, got 0.01 of 6"),
            ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
            ({"t": np.array([0, 2])}, "t: expected 0 or 1 in every row, got 2 in row 1"),
        ],
    )
    def test_bad_arguments(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            draw(**{"t": np.arange(6) % 2, **change})


class TestInterval:
    def test_by_hand(self) -> None:
        """Student's 0.975 quantile is 12.7062 with one degree of freedom, and 4.3027 with two."""
        low, high = interval(np.array([[1.0, 2.0], [3.0, 2.0]]))
        np.testing.assert_allclose(low, [2 - 12.7062 * 2**0.5, 2], rtol=1e-5)
        np.testing.assert_allclose(high, [2 + 12.7062 * 2**0.5, 2], rtol=1e-5)
        low, high = interval(np.array([1.0, 2.0, 3.0]))
        assert (low, high) == pytest.approx((2 - 4.3027, 2 + 4.3027), rel=1e-4)
        low, high = interval(np.array([1.0, 2.0, 3.0]), alpha=0.5)
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
            interval(values, alpha)


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


class TestDoubts:
    def test_none_where_all_is_well(self) -> None:
        assert examine(table()) == []
        assert examine(table(40)) == []  # 20 in each arm

    @pytest.mark.parametrize("arm", ["treated", "untreated"])
    def test_few_rows_in_an_arm(self, arm: str) -> None:
        made = table(treated=19 if arm == "treated" else 41)
        assert examine(made) == [f"only 19 of 60 rows are {arm}: their outcome is little more than a guess"]
        assert examine(table(treated=20 if arm == "treated" else 40)) == []

    def test_constant_columns(self) -> None:
        made = table()
        made.x[:, 1] = 3
        assert examine(made) == ["constant columns tell nothing: x2"]
        named = table(x=made.x, feature_names=("age", "sex", "income"))
        assert examine(named) == ["constant columns tell nothing: sex"]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_features_that_determine_the_treatment(self, sign: int) -> None:
        made = table(feature_names=("age", "sex", "income"))
        made.x[:, 0] = made.x[:, 2] = sign * made.t
        assert examine(made) == [
            "the treatment is determined by age, income: no row says what it would have had in the other arm"
        ]
        made.x[0] = sign  # one row is enough, if it is in the other arm
        assert examine(made) == []

    def test_all_at_once(self) -> None:
        made = table(treated=3)
        made.x[:, 0], made.x[:, 1] = made.t, 0
        named = [sentence.split(":")[0] for sentence in examine(made)]
        assert named == [
            "only 3 of 60 rows are treated", "constant columns tell nothing", "the treatment is determined by x1"
        ]  # fmt: skip

    def test_one_arm_determines_nothing(self) -> None:
        assert examine(table(treated=0)) == ["only 0 of 60 rows are treated: their outcome is little more than a guess"]

    def test_overlap(self) -> None:
        score = np.full(100, 0.5)
        score[:6], score[6:10] = 0.01, 0.99
        assert examine_overlap(score) == []  # a tenth of them may
        score[10] = 0.981
        assert examine_overlap(score) == [
            "poor overlap: 11 of 100 rows have a propensity below 0.02 or above 0.98; their effects are extrapolated"
        ]
        assert examine_overlap(np.full(100, 0.02)) == []

    def test_names(self) -> None:
        assert feature_names(table()) == ("x1", "x2", "x3")
        assert feature_names(table(feature_names=("a", "b", "c"))) == ("a", "b", "c")


class TestPropensity:
    def test_a_logistic_relation_is_found(self, measured: list[str]) -> None:
        generator = np.random.default_rng(0)
        z = generator.normal(size=(4000, 2))
        true = 1 / (1 + np.exp(-(2 * z[:, 0] - 1)))
        t = (generator.random(4000) < true).astype(np.int32)
        x = z * [1e4, 1e-4] + [5e4, 0]  # whatever the scale
        error = np.abs(propensity(x, t) - true).mean()
        measured.append(f"propensities of a logistic relation: off by {error:.3f} (at most 0.03)")
        assert error <= 0.03
        assert np.abs(t.mean() - true).mean() > 0.2  # what a constant would be off by

    def test_a_rare_arm_of_a_large_table(self) -> None:
        """The one treated row is not among those that are drawn to fit on."""
        rows = 20_100
        drawn = np.random.default_rng(0).choice(rows, 20_000, replace=False)
        t, x = np.zeros(rows, np.int32), np.zeros((rows, 2))
        alone = np.setdiff1d(np.arange(rows), drawn)[0]
        t[alone], x[alone, 0] = 1, 1
        score = propensity(x, t)
        assert score.shape == (rows,)
        assert score.argmax() == alone

    def test_what_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
        with pytest.raises(ImportError, match=r"^propensities need scikit-learn: pip install 'twohead\[estimator\]'$"):
            propensity(np.zeros((2, 1)), np.array([0, 1]))


PREPARE: dict[str, Any] = {
    "binary": False, "cfr_weights": False, "epochs": None, "steps": None, "batch_size": None, "patience": None,
    "members": 2, "validation_share": 0.2, "bootstrap": False, "seed": 0,
}  # fmt: skip


def with_(change: dict[str, Any]) -> dict[str, Any]:
    return PREPARE | change


class TestPreparation:
    def test_defaults(self) -> None:
        made = prepare(data := table(), **PREPARE)
        assert made.settings == {"epochs": 300, "steps": None, "batch_size": 100, "patience": 30}
        assert sorted(made.arrays) == ["t", "x", "y"]
        for name in ("x", "y"):
            np.testing.assert_allclose(made.arrays[name].mean(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(made.arrays[name].std(axis=0), 1)
        np.testing.assert_array_equal(made.arrays["t"], data.t)
        np.testing.assert_allclose(made.scales.y_mean, data.y.mean(axis=0))
        expected = draw_members(data.t, members=2, validation_share=0.2, bootstrap=False, seed=0)
        np.testing.assert_array_equal(made.rows.train, expected.train)
        assert made.rows.validation is not None
        assert made.rows.validation.shape == (2, 12)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"batch_size": 1}, 21),  # 1000 steps are 20.8 epochs of 48 rows
            ({"batch_size": 2}, 30),
            ({"batch_size": 1, "rows": 500}, 5),
            ({"patience": 7}, 7),
            ({"validation_share": 0}, None),
        ],
    )
    def test_patience(self, change: dict[str, Any], expected: int | None) -> None:
        change = dict(change)
        made = prepare(table(change.pop("rows", 60)), **with_(change))
        assert made.settings["patience"] == expected

    def test_how_long(self) -> None:
        made = prepare(table(), **with_({"steps": 9})).settings
        assert (made["epochs"], made["steps"]) == (None, 9)
        made = prepare(table(), **with_({"epochs": 4, "batch_size": 7})).settings
        assert (made["epochs"], made["steps"], made["batch_size"]) == (4, None, 7)

    def test_weights(self) -> None:
        w = np.random.default_rng(1).uniform(1, 2, 60)
        data = table(treated=24, w=w)
        np.testing.assert_array_equal(prepare(data, **PREPARE).arrays["w"], w)
        by_arm = treatment_weights(data.t)
        settings = PREPARE | {"cfr_weights": True}
        np.testing.assert_allclose(prepare(data, **settings).arrays["w"], w * by_arm)
        np.testing.assert_allclose(prepare(table(treated=24), **settings).arrays["w"], by_arm)

    def test_binary_outcomes_stay(self) -> None:
        data = table(y=(np.arange(60) % 3 == 0).astype(float)[:, None])
        made = prepare(data, **with_({"binary": True}))
        np.testing.assert_array_equal(made.arrays["y"], data.y)
        assert made.scales == Scales(made.scales.x_mean, made.scales.x_std, made.scales.y_mean, made.scales.y_std, True)

    def test_doubts_are_warnings(self) -> None:
        data = table(treated=3)
        data.x[:, 1] = 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepare(data, **PREPARE)
        assert [str(warning.message) for warning in caught] == examine(data)
        assert len(caught) == 2
        assert {warning.category for warning in caught} == {UserWarning}

    @pytest.mark.parametrize(
        ("data", "change", "message"),
        [
            ({"treated": 0}, {}, "t: expected treated and untreated rows, got 0 treated of 60"),
            ({"treated": 60}, {}, "t: expected treated and untreated rows, got 60 treated of 60"),
            (
                {"y": np.full((60, 1), 2.0)},
                {"binary": True},
                "y: expected 0 or 1 in every row, got 2.0 in row 0",
            ),
            ({"y": np.full((60, 1), np.nan)}, {}, "y: expected finite numbers, got nan in row 0, column 0 (60 in all)"),
            ({}, {"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
            ({}, {"members": 0}, "members: expected a whole number of at least 1, got 0"),
        ],
    )
    def test_bad_arguments(self, data: dict[str, Any], change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            prepare(table(**data), **with_(change))

    def test_words_of_a_second_start(self) -> None:
        assert restarting([0, 3], 1e-4) == "net 0, 3 diverged and starts again, with lr=0.0001"
        assert gave_up(3, 1e-4, "why") == "net 3 diverged, and again with lr=0.0001: why"
