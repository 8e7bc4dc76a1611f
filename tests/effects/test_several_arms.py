"""Effects of several arms: between any two, with intervals and averages; two arms are the special case."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flax_impl import AdamW
from flax_impl.data import TreatmentData, synthetic
from flax_impl.effects import (
    EffectModel,
    EffectReport,
    EffectSettings,
    TwoHeadEstimator,
    average_effects,
    effect_figures,
    fit_effects,
    load_effect_model,
)
from flax_impl.effects.learners.contrast import find_pair

ARMS = ("none", "low", "high")
SMALL = EffectSettings(
    representation_features=(16,), head_features=(8,), members=5, epochs=20, bins=0, bootstrap=True, calibrate=True
)


def three_arms(rows: int = 600, seed: int = 0) -> TreatmentData:
    """Returns made-up data: "low" adds 1, and "high" 2 + x1; who gets which hangs on x2."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3))
    logits = np.stack([np.zeros(rows), 0.5 * x[:, 1], -0.5 * x[:, 1]])
    t = (generator.random(rows) > np.cumsum(np.exp(logits) / np.exp(logits).sum(axis=0), axis=0)).sum(axis=0)
    t = np.minimum(t, 2)
    mean = np.stack([x[:, 1], x[:, 1] + 1, x[:, 1] + 2 + x[:, 0]])
    y = mean[t, np.arange(rows)] + 0.3 * generator.normal(size=rows)
    return TreatmentData(x, t.astype(np.int32), y[:, None], arms=ARMS)


@pytest.fixture(scope="module")
def data() -> TreatmentData:
    return three_arms()


@pytest.fixture(scope="module")
def model(data: TreatmentData) -> EffectModel:
    return fit_effects(data, SMALL, progress=False)


def test_effects_between_any_two(model: EffectModel, data: TreatmentData) -> None:
    low, high = (model.effect(data.x, treatment=label) for label in ARMS[1:])
    np.testing.assert_allclose(low, 1, atol=1)
    assert np.corrcoef(high, data.x[:, 0])[0, 1] > 0.9
    np.testing.assert_allclose(model.effect(data.x, control="low", treatment="high"), high - low, atol=1e-12)
    np.testing.assert_allclose(model.effect(data.x, control="high", treatment="none"), -high, atol=1e-12)
    outcomes = model.potential_outcomes(data.x)
    np.testing.assert_allclose(outcomes[2] - outcomes[1], high - low, atol=1e-12)
    assert model.ate(data.x, treatment="high") == pytest.approx(high.mean())
    np.testing.assert_array_equal(model.effect(data.x, control="low", treatment="low"), np.zeros(len(data)))
    with pytest.raises(ValueError, match="treatment: expected another arm than 'low', got the same"):
        model.cross_fit(data).averages(control="low", treatment="low")


def test_intervals_of_any_two(model: EffectModel, data: TreatmentData) -> None:
    truth = {("none", "low"): 1.0, ("none", "high"): 2 + data.x[:, 0], ("low", "high"): 1 + data.x[:, 0]}
    for (control, treatment), expected in truth.items():
        low, high = model.effect_interval(data.x, control=control, treatment=treatment)
        assert np.mean((low <= expected) & (expected <= high)) > 0.85
        other, back = model.effect_interval(data.x, control=treatment, treatment=control)
        np.testing.assert_allclose((other, back), (-high, -low), atol=1e-12)
    ends = model.difference_interval(data, data.x[:5], control="low", treatment="high")
    assert (ends[0] < ends[1]).all()
    assert model.ensemble.calibration is not None
    assert len(model.ensemble.calibration) == 3


def test_averages_hold_the_truth(model: EffectModel, data: TreatmentData) -> None:
    found = model.cross_fit(data)
    for control, treatment, expected in (("none", "low", 1), ("none", "high", 2), ("low", "high", 1)):
        averages = found.averages(control=control, treatment=treatment)
        assert abs(averages.ate.value - expected) < 4 * averages.ate.standard_error
        assert averages.att.rows == (data.t == ARMS.index(treatment)).sum()
        assert averages.atc.rows == (data.t == ARMS.index(control)).sum()
    assert {"nets"} == set(found.contrast("low", "high").losses())


def test_third_arm_counts_in_averages_as_rows_that_either_could_have_had() -> None:
    t, y = np.array([0, 1, -1, 1]), np.array([1.0, 3.0, 9.0, 5.0])
    mu0, mu1, score, score0 = np.full(4, 1.0), np.full(4, 4.0), np.full(4, 0.5), np.full(4, 0.25)
    found = average_effects(t, y, mu0, mu1, score, score0=score0)
    # Pseudo-outcomes by hand: 3 - 0 / 0.25, 3 - 1 / 0.5, 3, 3 + 1 / 0.5.
    assert found.ate.value == pytest.approx(np.mean([3, 1, 3, 5]))
    assert (found.ate.rows, found.att.rows, found.atc.rows) == (4, 2, 1)
    two = average_effects(t[[0, 1, 3]], y[[0, 1, 3]], mu0[:3], mu1[:3], score[:3], score0=1 - score[:3])
    assert two == average_effects(t[[0, 1, 3]], y[[0, 1, 3]], mu0[:3], mu1[:3], score[:3])


def test_two_arms_by_other_labels_are_the_same() -> None:
    made = synthetic(rows=80, features=4)
    small = replace(SMALL, epochs=2, calibrate=False)
    first, second = (fit_effects(one, small, progress=False) for one in (made, replace(made, arms=("off", "on"))))
    np.testing.assert_array_equal(first.effect(made.x), second.effect(made.x, control="off", treatment="on"))
    np.testing.assert_array_equal(-first.effect(made.x), second.effect(made.x, control="on"))


def test_file_keeps_arms(model: EffectModel, data: TreatmentData, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    again = load_effect_model(tmp_path / "model.safetensors")
    assert again.arms == ARMS
    first, second = (one.effect_interval(data.x, control="low", treatment="high") for one in (model, again))
    np.testing.assert_array_equal(first, second)


def test_report_and_pictures(model: EffectModel, data: TreatmentData) -> None:
    report = EffectReport.of(model, data)
    text = str(report)
    for words in ("low against none", "high against none", "high against low", "rows almost never in some arm"):
        assert words in text
    assert list(report.columns())[:6] == ["y_none", "y_low", "y_high", "effect_low", "low_low", "high_low"]
    assert report.pair("low", "high").averages is not None
    assert set(effect_figures(report)) == {"losses", "effects", "outcomes", "overlap", "qini"}


def test_trees_beside_nets() -> None:
    pytest.importorskip("catboost")
    made = three_arms(300)
    model = fit_effects(made, replace(SMALL, learners=("nets", "trees"), calibrate=False), progress=False)
    fresh = three_arms(200, seed=1)
    for control, treatment, truth in (("none", "high", 2 + fresh.x[:, 0]), ("low", "high", 1 + fresh.x[:, 0])):
        effect = model.effect(fresh.x, control=control, treatment=treatment)
        assert np.sqrt(np.mean((effect - truth) ** 2)) < 0.6
    report = EffectReport.of(model, made)
    learners = report.pair("none", "low").learners
    assert learners is not None
    assert sum(weight for name, (weight, *_) in learners.items() if name != "all") == pytest.approx(1)


def test_estimator_takes_labels(data: TreatmentData) -> None:
    labels = np.array(ARMS)[data.t]
    settings = {
        "representation_features": (16,),
        "head_features": (8,),
        "members": 3,
        "epochs": 60,
        "bins": 0,
        "optimizer": AdamW(lr=1e-2),
    }
    estimator = TwoHeadEstimator(**settings, control="none", progress=False)
    estimator.fit(data.x, data.y[:, 0], treatment=labels)
    assert estimator.treatments_ == ("none", "high", "low")
    assert estimator.predict(data.x).shape == (len(data), 2)
    assert estimator.ate(data.x, T0="low", T1="high") == pytest.approx(1, abs=0.3)
    assert estimator.score(data.x, data.y[:, 0], treatment=labels) > 0.5
    assert estimator.set_params(scoring="r_loss").score(data.x, data.y[:, 0], treatment=labels) < 0
    with pytest.raises(ValueError, match="treatment: expected one of 'none', 'high', 'low', got 'more' in row 0"):
        estimator.score(data.x, data.y[:, 0], treatment=np.full(len(data), "more"))


@pytest.mark.parametrize(
    ("control", "treatment", "error"),
    [
        (None, None, "treatment: expected one of none, low, high, as there are 3 arms, got None"),
        (None, "more", "treatment: expected one of none, low, high, got 'more'"),
        (["low"], "high", r"control: expected one of none, low, high, got \['low'\]"),
    ],
)
def test_unknown_arms_are_refused(control: object, treatment: object, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        find_pair(ARMS, control, treatment)


def test_arm_without_rows_is_refused() -> None:
    made = replace(synthetic(rows=40, features=4), arms=ARMS)
    with pytest.raises(ValueError, match="t: expected rows of every arm, got none of 'high'"):
        fit_effects(made, replace(SMALL, calibrate=False), progress=False)
    with pytest.raises(ValueError, match="targeted: expected False with more than two arms, got True with 3"):
        fit_effects(three_arms(60), replace(SMALL, targeted=True), progress=False)
