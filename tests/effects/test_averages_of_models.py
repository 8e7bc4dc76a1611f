"""Averages, scores, clusters, trees, intervals and targeting, as a model and an estimator give them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
from flax_impl.commands.torch_effects import fit_net, load_nets
from flax_impl.effects import EffectReport, EffectSettings, TwoHeadEstimator, fit_effects, load_effect_model
from torch_ref.common.data.treatment_data import TreatmentData

DATA = flax_impl.data.synthetic(rows=200, features=4)
NEW = flax_impl.data.synthetic(rows=50, features=4, seed=1)
TINY: Any = {
    "representation_features": (8,), "head_features": (8,), "members": 5, "epochs": 5, "batch_size": 30,
}  # fmt: skip


def fitted(**changed: Any) -> Any:
    return TwoHeadEstimator(**TINY | changed).fit(DATA.x, DATA.y[:, 0], treatment=DATA.t)


def test_the_averages_are_those_of_the_rows_that_nets_did_not_see() -> None:
    estimator = fitted()
    averages = estimator.average_effects()
    found = estimator.effect_model_.cross_fit(DATA).contrast()
    assert averages.ate.rows == len(DATA) == len(found.t)  # five folds hold out every row
    pseudo = found.mu1 - found.mu0
    pseudo = pseudo + np.where(found.t == 1, found.y - found.mu1, 0) / found.score
    pseudo = pseudo - np.where(found.t == 0, found.y - found.mu0, 0) / (1 - found.score)
    assert averages.ate.value == pytest.approx(pseudo.mean())
    by = estimator.average_effects(by=DATA.x[:, 0] > 0)
    assert set(by.by) == {False, True}
    assert by.by[True].rows == (DATA.x[:, 0] > 0).sum()
    assert estimator.average_effects(trim=0.2).trimmed > 0
    text = str(estimator.report())
    assert text.index("all rows (ATE)") < text.index("mean outcome, observed")
    assert f"{averages.ate.value:.4g}" in text


# Trees have seen the copies of a row whose clusters nobody told, and so its treatment.
@pytest.mark.filterwarnings("ignore:propensities that do not fit:UserWarning")
def test_clusters_are_held_out_whole_and_widen_the_interval() -> None:
    """Each row four times is no new knowledge: as clusters the errors are twice those of rows."""
    rows = np.repeat(np.arange(len(DATA)), 4)
    many = DATA.take(rows)
    single, clustered = TwoHeadEstimator(**TINY), TwoHeadEstimator(**TINY)
    single.fit(many.x, many.y[:, 0], treatment=many.t)
    clustered.fit(many.x, many.y[:, 0], treatment=many.t, groups=rows)
    training = clustered.effect_model_.training
    assert training is not None
    assert training.held_out is not None
    for held_out in training.held_out:
        assert np.all(np.isin(np.flatnonzero(np.isin(rows, rows[held_out])), held_out))
    errors = [estimator.average_effects().ate.standard_error for estimator in (single, clustered)]
    assert errors[1] > 1.5 * errors[0]


def test_calibrated_intervals_survive_a_file(tmp_path: Path) -> None:
    estimator = fitted(calibrate=True)
    low, high = estimator.effect_interval(NEW.x)
    assert (low < estimator.effect(NEW.x)).all()
    assert (estimator.effect(NEW.x) < high).all()
    wider = estimator.effect_interval(NEW.x, alpha=0.01)
    assert (wider[0] <= low).all()
    estimator.save(tmp_path / "effects.safetensors")
    again = TwoHeadEstimator.load(tmp_path / "effects.safetensors")
    np.testing.assert_array_equal(np.stack(again.effect_interval(NEW.x)), np.stack([low, high]))
    with pytest.raises(ValueError, match="averages, report: expected an estimator that was fitted here"):
        again.average_effects()


def test_trees_join_the_nets_and_survive_a_file(tmp_path: Path) -> None:
    pytest.importorskip("catboost")
    estimator = fitted(learners=("nets", "trees"))
    model = estimator.effect_model_
    weights = model.cross_fit(DATA).contrast().weights
    assert sum(weights.values()) == pytest.approx(1)
    y0, y1 = estimator.potential_outcomes(NEW.x)
    np.testing.assert_allclose(y1 - y0, estimator.effect(NEW.x), atol=1e-12)
    assert "trees, X" in str(estimator.report())
    estimator.save(tmp_path / "effects.safetensors")
    for again in (load_effect_model(tmp_path / "effects.safetensors"), load_nets(tmp_path / "effects.safetensors")):
        np.testing.assert_allclose(again.effect(NEW.x), estimator.effect(NEW.x), atol=1e-5)


def test_a_search_chooses_by_a_loss_that_needs_no_truth() -> None:
    """One candidate learns, the other may not: both losses of the effects tell which."""
    estimator = TwoHeadEstimator(**TINY)
    for scoring in ("r_loss", "dr_loss"):
        score = [
            estimator.set_params(scoring=scoring, epochs=epochs, steps=None)
            .fit(DATA.x, DATA.y[:, 0], treatment=DATA.t)
            .score(NEW.x, NEW.y[:, 0], treatment=NEW.t)
            for epochs in (1, 60)
        ]
        assert score[0] < score[1] < 0
    with pytest.raises(ValueError, match="scoring: expected one of"):
        fitted(scoring="truth")


def test_targeted_nets_move_the_average_alike_in_both_frameworks(tmp_path: Path) -> None:
    settings = EffectSettings(**TINY | {"members": 1}, targeted=True)
    model = fit_effects(DATA, settings, progress=False)
    assert model.ate(NEW.x) != model.effect(NEW.x).mean()
    model.save(tmp_path / "effects.safetensors")
    assert load_nets(tmp_path / "effects.safetensors").ate(NEW.x) == pytest.approx(model.ate(NEW.x), abs=1e-5)
    assert load_effect_model(tmp_path / "effects.safetensors").ate(NEW.x) == model.ate(NEW.x)
    of_torch = fit_net(DATA, settings, progress=False)
    assert of_torch.ate(NEW.x) != of_torch.effect(NEW.x).mean()
    with pytest.raises(ValueError, match="balance: expected None with targeted"):
        EffectSettings(targeted=True, balance="rbf_mmd")


@pytest.mark.parametrize("learners", [("trees",), "nets", ("nets", "forest"), ()])
def test_other_learners_are_refused(learners: Any) -> None:
    with pytest.raises(ValueError, match="learners: expected"):
        EffectSettings(learners=learners)


def test_a_table_without_held_out_rows_has_no_averages() -> None:
    model = fit_effects(DATA, EffectSettings(**TINY, validation_share=0.0), progress=False)
    assert EffectReport.of(model, DATA).pair().averages is None
    with pytest.raises(ValueError, match="validation_share: expected above 0 with trees"):
        EffectSettings(**TINY, validation_share=0.0, learners=("nets", "trees"))


def test_an_arm_with_a_single_row_still_has_a_report() -> None:
    t = np.zeros(40, np.int32)
    t[0] = 1
    data = TreatmentData(DATA.x[:40], t, DATA.y[:40])
    with pytest.warns(UserWarning, match="only 1 of 40 rows are treated"):
        model = fit_effects(data, EffectSettings(**TINY), progress=False)
    assert EffectReport.of(model, data).pair().averages is None


def test_a_tiny_arm_leaves_intervals_as_the_bootstrap_has_them() -> None:
    t = np.zeros(40, np.int32)
    t[:3] = 1
    data = TreatmentData(DATA.x[:40], t, DATA.y[:40])
    with pytest.warns(UserWarning, match="3 of 40 rows are treated|not calibrated: half of an arm of 3 rows") as said:
        model = fit_effects(data, EffectSettings(**TINY, bootstrap=True, calibrate=True), progress=False)
    assert len(said) == 2
    assert model.ensemble.calibration is None
    assert model.effect_interval(NEW.x)[0].shape == (50,)
