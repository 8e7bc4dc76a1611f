"""An ensemble that is interrupted in any of its stages goes on to the same bits."""

import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
from flax_impl.effects import EffectModel, EffectSettings, TwoHeadEstimator, fit_effects, fit_effects_each
from flax_impl.training.checkpoints.stages import in_stages
from flax_impl.training.plan import Plan
from tests.support.interrupted import interrupting, steps_in
from torch_ref.common.files.lock import FolderLock

DATA = flax_impl.data.synthetic(rows=120, features=4, seed=1)
SMALL = EffectSettings(
    representation_features=[4], head_features=[4], members=3, steps=24, batch_size=20, bootstrap=True, calibrate=True,
    optimizer=flax_impl.SGD(lr=0.1),
)  # fmt: skip
FAST = replace(SMALL, optimizer=flax_impl.SGD(lr=1.5))  # diverges, and does not with a tenth of the rate


def trained(settings: EffectSettings, folder: Path | None = None, every: int | None = 8) -> EffectModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return fit_effects(DATA, settings, checkpoint=folder, every=every if folder else None, progress=False)


def assert_same(found: EffectModel, expected: EffectModel) -> None:
    for one, other in zip(found.ensemble.weights, expected.ensemble.weights, strict=True):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
    assert found.training is not None
    assert expected.training is not None
    np.testing.assert_array_equal(found.training.losses, expected.training.losses)
    np.testing.assert_array_equal(found.ensemble.calibration, expected.ensemble.calibration)
    np.testing.assert_array_equal(found.effect(DATA.x), expected.effect(DATA.x))
    np.testing.assert_array_equal(found.cross_fit(DATA).mu, expected.cross_fit(DATA).mu)
    for one, other in zip(found.effect_interval(DATA.x), expected.effect_interval(DATA.x), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("other", ["step-0000000001", "net-0"])
def test_another_kind_of_training_keeps_its_folder(other: str, tmp_path: Path) -> None:
    (tmp_path / other).mkdir()
    for _ in range(2):  # it leaves no lock
        with pytest.raises(ValueError, match=rf"^checkpoint: expected a folder .* holds {other} of another kind"):
            trained(SMALL, tmp_path)
    (tmp_path / "nets").mkdir()  # as a streamed ensemble sees it
    with pytest.raises(ValueError, match="of another kind"), in_stages(tmp_path, None, None, "nets"):
        pytest.fail("it began")


@pytest.mark.slow
def test_it_goes_on_in_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, folder = trained(FAST), tmp_path / "kept"
    stopped = 0
    while not (folder / "calibration" / "nets-again").is_dir():
        with interrupting(after=2):
            trained(FAST, folder)
        stopped += 1
    assert stopped >= 4  # once in each stage at least
    assert_same(trained(FAST, folder), whole)
    assert sorted(path.name for path in folder.iterdir()) == ["calibration", "lock", "nets", "nets-again"]
    monkeypatch.setattr(Plan, "run", None)  # finished: no net takes a step
    assert_same(trained(FAST, folder), whole)


def test_trees_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("catboost")
    settings = replace(SMALL, learners=("nets", "trees"), calibrate=False)
    monkeypatch.setattr("flax_impl.effects.learners.trees._SETTINGS", {"iterations": 5, "learning_rate": 0.3})
    whole = trained(settings)
    assert_same(trained(settings, tmp_path), whole)
    assert steps_in(tmp_path / "trees") == [1]
    monkeypatch.setattr("flax_impl.effects.learners.kept_blend.fit_blend", None)
    assert_same(trained(settings, tmp_path), whole)


def test_several_tables_have_folders_of_their_own(tmp_path: Path) -> None:
    datas = [flax_impl.data.synthetic(rows=120, features=4, seed=seed) for seed in range(2)]

    def trained_each(folder: Path | None) -> list[EffectModel]:
        return fit_effects_each(datas, SMALL, checkpoint=folder, every=8 if folder else None, progress=False)

    with interrupting(after=8):
        trained_each(tmp_path)
    for found, expected in zip(trained_each(tmp_path), trained_each(None), strict=True):
        np.testing.assert_array_equal(found.effect_interval(DATA.x), expected.effect_interval(DATA.x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "nets", "table-0", "table-1"]
    assert [path.name for path in (tmp_path / "table-1").iterdir()] == ["calibration"]


def test_the_estimator_goes_on(tmp_path: Path) -> None:
    estimator = TwoHeadEstimator(**vars(SMALL), progress=False)
    given: dict[str, Any] = {"X": DATA.x, "y": DATA.y[:, 0], "treatment": DATA.t}
    whole = estimator.fit(**given).effect(DATA.x)
    with interrupting(after=2):
        estimator.fit(**given, checkpoint=tmp_path, every=8)
    np.testing.assert_array_equal(estimator.fit(**given, checkpoint=tmp_path, every=8).effect(DATA.x), whole)


def test_another_training_is_told_apart(tmp_path: Path) -> None:
    settings = replace(SMALL, calibrate=False)
    trained(settings, tmp_path)
    for name, other in {"seed": {"seed": 1}, "steps": {"steps": 25}, "model": {"head_features": [5]}}.items():
        with pytest.raises(ValueError, match=f"that .*nets holds, got another: .*{name}: expected .*, got "):
            trained(replace(settings, **other), tmp_path)
    trained(SMALL, tmp_path)  # the calibration comes on top
    with (
        closing(FolderLock(tmp_path)),
        pytest.raises(ValueError, match="expected a folder that no other training uses"),
    ):
        trained(settings, tmp_path)
    with pytest.raises(ValueError, match="every: expected checkpoint with it, got 5 alone"):
        fit_effects(DATA, settings, every=5)
