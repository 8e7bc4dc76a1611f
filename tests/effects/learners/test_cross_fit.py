"""What is expected of rows by models that did not see them."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import flax_impl
from flax_impl.effects import (
    EffectModel,
    EffectSettings,
    average_effects,
    dr_loss,
    fit_effects,
    load_effect_model,
    r_loss,
)
from flax_impl.effects.learners.cross_fit import (
    CrossFit,
    cross_fit,
    unseen_mean,
)
from flax_impl.effects.propensities import cross_fitted_propensity, logistic_scores, logistic_weights, propensity
from flax_impl.effects.rows import draw_folds

DATA = flax_impl.data.synthetic(rows=120, features=4)
TINY: dict[str, Any] = {
    "representation_features": [4], "head_features": [4], "members": 2, "steps": 3,
}  # fmt: skip


def trained(data: Any = DATA, **changed: Any) -> EffectModel:
    return fit_effects(data, EffectSettings(**TINY | changed), progress=False)


@pytest.fixture(scope="module")
def model() -> EffectModel:
    return trained(members=5)


def made_up(rows: int = 4000, seed: int = 0) -> CrossFit:
    """Returns what two learners expect, of whom one is right: the effect is 2, and 3 where x is above 0."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    score = np.clip(1 / (1 + np.exp(-x)), 0.05, 0.95)
    t = (generator.random(rows) < score).astype(int)
    effect = 2.0 + (x > 0)
    y = x + t * effect + 0.1 * generator.normal(size=rows)
    effects, scores = {"right": effect[None], "wrong": -x[None]}, np.stack([1 - score, score])
    weights = {"right": np.array([0.75]), "wrong": np.array([0.25])}
    return CrossFit(np.arange(rows), t, y, None, None, (0, 1), np.stack([x, x + effect]), scores, effects, weights)


class TestUnseenMean:
    def test_hand_values(self) -> None:
        each = np.arange(24.0).reshape(2, 3, 4)
        rows, found = unseen_mean(np.array([[0, 1], [1, 3], [3, 3]]), each)
        assert rows.tolist() == [0, 1, 3]
        # Row 1 is the mean of the first two members, row 3 of the last two, and one that is there twice counts once.
        expected = [[of_kind[0, 0], of_kind[:2, 1].mean(), of_kind[1:, 3].mean()] for of_kind in each]
        np.testing.assert_allclose(found, expected)

    def test_where_none_is_held_out_all_members_speak(self) -> None:
        each = np.random.default_rng(0).normal(size=(2, 3, 4))
        rows, found = unseen_mean(None, each)
        assert rows.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(found, each.mean(axis=1))

    def test_members_that_saw_a_row_are_not_asked(self) -> None:
        each = np.full((1, 2, 3), np.nan)
        each[0, 0, 1], each[0, 1, 2] = 5, 7
        rows, found = unseen_mean(np.array([[1], [2]]), each)
        assert (rows.tolist(), found.tolist()) == ([1, 2], [[5, 7]])


class TestPropensity:
    def test_it_is_that_of_scikit_learn(self) -> None:
        intercept, weights = logistic_weights(DATA.x, DATA.t)
        expected = np.clip(propensity(DATA.x, DATA.t), 0.01, 0.99)
        np.testing.assert_allclose(logistic_scores(intercept, weights, DATA.x)[1], expected, rtol=1e-6)

    @pytest.mark.parametrize(("unit", "offset"), [(1e-9, 0), (1e9, -1e9), (1.0, 1e6)])
    def test_units_do_not_matter(self, unit: float, offset: float) -> None:
        moved = DATA.x * unit + offset
        expected = logistic_scores(*logistic_weights(DATA.x, DATA.t), DATA.x)
        np.testing.assert_allclose(logistic_scores(*logistic_weights(moved, DATA.t), moved), expected, rtol=1e-4)

    def test_constant_features_tell_nothing(self) -> None:
        x = np.c_[DATA.x, np.full(120, 1e12)]
        intercept, weights = logistic_weights(x, DATA.t)
        assert weights[0, 4] == 0
        plain = logistic_scores(*logistic_weights(DATA.x, DATA.t), DATA.x)
        np.testing.assert_allclose(logistic_scores(intercept, weights, x), plain, rtol=1e-4)

    def test_it_keeps_away_from_0_and_1(self) -> None:
        found = logistic_scores(np.zeros(1), np.ones((1, 1)), np.array([[-1e6], [0], [1e6]]))
        np.testing.assert_allclose(found, [[0.99, 0.5, 0.01], [0.01, 0.5, 0.99]])

    def test_it_did_not_see_the_row(self) -> None:
        """With as many features as rows, those who saw a row know its arm."""
        generator = np.random.default_rng(0)
        x, t = generator.normal(size=(60, 60)), np.arange(60) % 2
        seen = logistic_scores(*logistic_weights(x, t), x)
        found = cross_fitted_propensity(x, t, draw_folds(t, seed=0))
        assert ((seen[1] > 0.5) == t).mean() > 0.9
        assert 0.25 < ((found[1] > 0.5) == t).mean() < 0.75
        assert found.min() >= 0.01
        assert found.max() <= 0.99

    def test_each_fold_has_its_own_regression(self) -> None:
        folds = draw_folds(DATA.t, seed=0)
        found = cross_fitted_propensity(DATA.x, DATA.t, folds)
        for unseen in folds:
            fitted = logistic_weights(DATA.x[~unseen], DATA.t[~unseen])
            np.testing.assert_allclose(found[:, unseen], logistic_scores(*fitted, DATA.x[unseen]))

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
        with pytest.raises(ImportError, match=r"^propensities need scikit-learn: pip install 'twohead\[estimator\]'$"):
            logistic_weights(DATA.x, DATA.t)


class TestCrossFit:
    def test_all_rows_of_five_members(self, model: EffectModel) -> None:
        found = model.cross_fit(DATA)
        assert found.rows.tolist() == list(range(120))
        np.testing.assert_array_equal(found.t, DATA.t)
        np.testing.assert_array_equal(found.y, DATA.y[:, 0])
        assert found.w is None
        assert found.groups is None
        assert found.contrast().weights == {"nets": 1.0}
        np.testing.assert_allclose(found.contrast().effect, found.mu[1] - found.mu[0])
        y0, y1 = model.member_outcomes(DATA.x)
        assert model.training is not None
        assert model.training.held_out is not None
        for row in (0, 50, 119):
            asked = [number for number, rows in enumerate(model.training.held_out) if row in rows]
            assert 0 < len(asked) < 5
            np.testing.assert_allclose(found.mu[:, row], (y0[asked, row].mean(), y1[asked, row].mean()))

    def test_the_rows_of_two_members(self) -> None:
        data = replace(DATA, w=np.arange(120.0), groups=np.arange(120) // 2)
        model = trained(data)
        found = model.cross_fit(data)
        assert model.training is not None
        assert model.training.held_out is not None
        assert found.w is not None
        np.testing.assert_array_equal(found.rows, np.unique(model.training.held_out))
        np.testing.assert_array_equal(found.w, found.rows)
        np.testing.assert_array_equal(found.groups, found.rows // 2)
        np.testing.assert_array_equal(found.y, data.y[found.rows, 0])
        assert found.mu.shape == found.score.shape == (2, len(found.rows))
        assert len(found.contrast().effect) == len(found.rows) < 120

    def test_lists_will_do(self, model: EffectModel) -> None:
        as_lists: Any = replace(DATA, x=DATA.x.tolist(), t=DATA.t.tolist(), y=DATA.y.tolist())
        np.testing.assert_equal(vars(model.cross_fit(as_lists)), vars(model.cross_fit(DATA)))

    def test_nothing_held_out(self) -> None:
        model = trained(validation_share=0)
        found = model.cross_fit(DATA)
        y0, y1 = model.potential_outcomes(DATA.x)
        assert found.rows.tolist() == list(range(120))
        np.testing.assert_allclose(found.mu, (y0, y1))

    def test_a_loaded_model(self, model: EffectModel, tmp_path: Any) -> None:
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match=r"^model: expected one that was trained here, got a loaded one$"):
            load_effect_model(tmp_path / "model").cross_fit(DATA)

    def test_an_arm_with_a_single_row(self) -> None:
        y = np.zeros((1, 4))
        data = replace(DATA.take(np.arange(4)), t=np.array([0, 0, 1, 0]))
        with pytest.raises(ValueError, match=r"^t: expected at least 2 rows of each arm for folds, got 1 of one$"):
            cross_fit(data, np.stack([y, y]), None)


class TestAverages:
    def test_they_are_right(self) -> None:
        made = made_up()
        found = made.averages()
        [truth] = made.effects["right"]
        for average, rows in ((found.ate, made.t >= 0), (found.att, made.t == 1), (found.atc, made.t == 0)):
            assert average.low < truth[rows].mean() < average.high
            assert average.high - average.low < 0.1
            assert average.rows == rows.sum()

    def test_they_are_those_of_the_columns(self) -> None:
        generator = np.random.default_rng(0)
        made = replace(made_up(300), w=generator.uniform(size=300), groups=np.arange(300) // 3)
        by = np.arange(300) % 2
        found = made.averages(by=by, trim=0.1, alpha=0.2, target="sample")
        columns = (made.t, made.y, *made.mu, made.score[1])
        assert found == average_effects(  # pyright: ignore[reportCallIssue]
            *columns, w=made.w, groups=made.groups, by=by, trim=0.1, alpha=0.2, target="sample"
        )
        assert found.trimmed > 0
        assert (
            found.ate.standard_error
            != replace(made, groups=None).averages(by=by, trim=0.1, target="sample").ate.standard_error
        )

    def test_of_a_model(self, model: EffectModel) -> None:
        found = model.cross_fit(DATA).averages()
        assert found.ate.rows == 120
        assert np.isfinite([found.ate.value, found.ate.standard_error]).all()


class TestLosses:
    def test_the_right_learner_has_the_least(self) -> None:
        found = made_up().contrast().losses()
        assert list(found) == ["right", "wrong", "all"]
        for right, both, wrong in zip(found["right"], found["all"], found["wrong"], strict=True):
            assert right < both < wrong

    def test_they_are_those_of_the_columns(self) -> None:
        made = replace(made_up(200), w=np.random.default_rng(0).uniform(size=200))
        found = made.contrast()
        mean = found.score * found.mu1 + found.score0 * found.mu0
        np.testing.assert_allclose(found.effect, 0.75 * found.effects["right"] + 0.25 * found.effects["wrong"])
        for name, effect in {**found.effects, "all": found.effect}.items():
            expected = (
                r_loss(effect, made.t, made.y, mean, found.score, made.w),
                dr_loss(effect, made.t, made.y, found.mu0, found.mu1, found.score, made.w),
            )
            assert found.losses()[name] == pytest.approx(expected)

    def test_nets_alone(self, model: EffectModel) -> None:
        assert list(model.cross_fit(DATA).contrast().losses()) == ["nets"]


def test_probability_of_an_arm_that_no_row_shows() -> None:
    t, y, score = np.array([0, 1, 0, 1]), np.arange(4.0), np.repeat([[0.4], [0.3], [0.3]], 4, axis=1)
    nothing = {"nets": np.zeros((2, 4))}, {"nets": np.ones(2)}
    found = CrossFit(np.arange(4), t, y, None, None, ("a", "b", "c"), np.zeros((3, 4)), score, *nothing)
    pseudo = found.contrast("a", "b").pseudo_outcomes()  # the third arm was drawn for none, but could have been
    np.testing.assert_allclose(pseudo, np.where(t == 1, y / 0.3, -y / 0.4))
