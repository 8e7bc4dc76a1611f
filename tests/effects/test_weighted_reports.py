"""What a report and a page say of a table with weights: means of the population, not of the rows."""

from dataclasses import replace

import numpy as np
import pytest

from flax_impl.data import TreatmentData
from flax_impl.effects import EffectModel, EffectReport, EffectSettings, effect_importance, fit_effects, rate
from flax_impl.effects.judging.uplift import qini_curve
from flax_impl.effects.page.findings import look

pytest.importorskip("sklearn")

SMALL = EffectSettings(representation_features=(8,), head_features=(8,), members=5, epochs=5, bins=0, bootstrap=True)


@pytest.fixture(scope="module")
def data() -> TreatmentData:
    """The effect is x1, and rows with a large x1 stand for five others."""
    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(200, 2)), np.arange(200) % 2
    y = x[:, 1] + t * x[:, 0] + 0.3 * generator.normal(size=200)
    w = np.where(x[:, 0] > 0, 5.0, 1.0)
    w[:3] = 0
    return TreatmentData(x, t.astype(np.int32), y[:, None], w=w)


@pytest.fixture(scope="module")
def model(data: TreatmentData) -> EffectModel:
    return fit_effects(data, SMALL, progress=False)


@pytest.fixture(scope="module")
def report(model: EffectModel, data: TreatmentData) -> EffectReport:
    return EffectReport.of(model, data)


def test_means_of_a_report_are_weighted(report: EffectReport, data: TreatmentData) -> None:
    pair, w, y = report.pair(), data.w, data.y[:, 0]
    assert w is not None
    assert pair.ate == pytest.approx(np.average(pair.effect, weights=w))
    assert abs(pair.ate - pair.effect.mean()) > 0.01
    assert pair.ate_interval is not None
    assert pair.ate_interval[0] < pair.ate < pair.ate_interval[1]
    treated = (data.t == 1) & (w > 0)
    observed, expected = y[treated], report.factual[treated]
    left, whole = (np.average((observed - of) ** 2, weights=w[treated]) for of in (
        expected, np.average(observed, weights=w[treated])))  # fmt: skip
    assert report.explained(1) == pytest.approx(1 - left / whole)
    line = next(line for line in str(report).splitlines() if line.startswith("mean outcome, observed"))
    assert line.split()[-1] == f"{np.average(y[treated], weights=w[treated]):.4g}"


def test_ranking_and_curve_of_a_report_are_weighted(
    report: EffectReport, model: EffectModel, data: TreatmentData
) -> None:
    pair, found = report.pair(), model.cross_fit(data).contrast()
    assert pair.ranking == rate(found.effect, found.pseudo_outcomes(), w=data.w)
    assert report.score is not None
    expected = qini_curve(found.effect, data.t, data.y[:, 0], report.score[1], data.w)
    np.testing.assert_allclose(report.qini(pair), expected, atol=1e-12)
    assert not np.allclose(replace(report, w=None).qini(pair)[1][-1], expected[1][-1])
    plain, ones = (replace(report, w=w) for w in (None, np.ones(200)))
    np.testing.assert_allclose(ones.qini(pair), plain.qini(pair), atol=1e-12)
    assert ones.explained(0) == pytest.approx(plain.explained(0), abs=1e-12)
    assert str(ones) == str(plain)


def test_a_page_looks_at_the_population(report: EffectReport, model: EffectModel, data: TreatmentData) -> None:
    [one] = look(model, data, report, refutations=False, progress=False).pairs
    expected, plain = (effect_importance(model.effect, data.x, repeats=3, rows=500, w=w).share for w in (data.w, None))
    np.testing.assert_allclose(one.importance.share, expected)
    assert not np.allclose(expected, plain)


def test_an_arm_without_weight_has_no_mean(report: EffectReport, data: TreatmentData) -> None:
    lines = str(replace(report, w=(data.t == 1).astype(float))).splitlines()
    assert next(line for line in lines if line.startswith("mean outcome, observed")).split()[-2] == "nan"


def test_few_rows_with_a_weight_tell_no_ranking(model: EffectModel, data: TreatmentData) -> None:
    w = np.zeros(200)
    w[[10, 11, 12]] = 1
    assert EffectReport.of(model, replace(data, w=w)).pair().ranking is None
