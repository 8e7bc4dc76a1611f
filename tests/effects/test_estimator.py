"""The estimator keeps scikit-learn's rules, and EconML's names; what it says are the effects of its ensemble."""

import dataclasses
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import d2_log_loss_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _num_samples

import flax_impl
from flax_impl.commands.torch_effects import load_nets
from flax_impl.effects import TwoHeadEstimator
from flax_impl.effects.learners import trees as of_trees
from torch_ref.common.files.array_file import read_arrays, write_arrays

ROOT = Path(__file__).parents[2]
DATA = flax_impl.data.synthetic(rows=150, features=4)
NEW = flax_impl.data.synthetic(rows=200, features=4, seed=1)
X, Y, T = DATA.x, DATA.y[:, 0], DATA.t
LABELS = (Y > 0.5).astype(int)
TINY: dict[str, Any] = {
    "representation_features": (8,), "head_features": (8,), "members": 2, "epochs": 3, "batch_size": 30,
}  # fmt: skip
FRAME = pd.DataFrame(dict(zip(("age", "income", "height", "weight"), X.T, strict=True)))


def tiny(**changed: Any) -> Any:  # scikit-learn's attributes are in no type
    return TwoHeadEstimator(**TINY | changed)


def cloned(estimator: Any) -> Any:
    return clone(estimator)


@pytest.fixture(scope="module")
def fitted() -> Any:
    """Trained long enough to know something, and not to be changed."""
    optimizer = flax_impl.AdamW(lr=0.03, schedule=flax_impl.training.Cosine(T_max=100))
    return tiny(epochs=20, optimizer=optimizer, bootstrap=True).fit(FRAME, Y, treatment=T)


@pytest.fixture(scope="module")
def fitted_binary() -> Any:
    optimizer = flax_impl.AdamW(lr=0.03)
    return tiny(epochs=20, optimizer=optimizer, binary=True).fit(X, LABELS, treatment=T)


# scikit-learn's own checks


class Alternating(TwoHeadEstimator):
    """Treats every other row: the checks know nothing of treatments."""

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Any:  # noqa: N803  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().fit(X, y, treatment=alternating(X), sample_weight=sample_weight)

    def score(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> float:  # noqa: N803  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().score(X, y, treatment=alternating(X), sample_weight=sample_weight)

    def __str__(self) -> str:  # in the names of the tests
        return "Alternating"


def alternating(rows: Any) -> Any:
    try:
        return np.arange(_num_samples(rows)) % 2
    except TypeError:  # no table at all, which is what the check wants to hear about
        return [0]


def expected_failed_checks(estimator: Any) -> dict[str, str]:
    return {"check_sample_weight_equivalence_on_dense_data": "a row of weight 0 fills a batch, and the scales"}


# Linear nets, and all in float64, since some checks ask for seven digits: what they compile is what takes time.
SMALLEST = Alternating(
    representation_features=[], head_features=[], members=1, steps=2, validation_share=0.0,
    optimizer=flax_impl.SGD(lr=1e-2), dtype="float64", progress=False,
)  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.filterwarnings("ignore:only .* rows are:UserWarning")  # the tables of the checks are small
@pytest.mark.filterwarnings("ignore:constant columns:UserWarning")
@pytest.mark.filterwarnings("ignore:the treatment is determined:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([SMALLEST], expected_failed_checks=expected_failed_checks)
def test_checks_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


# Arguments


def test_parameters_are_kept_cloned_and_changed(fitted: Any) -> None:
    copy = cloned(fitted)
    assert copy.get_params() == fitted.get_params()
    assert copy.get_params()["optimizer"] == flax_impl.AdamW(lr=0.03, schedule=flax_impl.training.Cosine(T_max=100))
    with pytest.raises(NotFittedError):
        copy.effect(X)
    assert copy.set_params(members=7, activation="elu").get_params()["members"] == 7
    assert fitted.get_params()["members"] == 2
    with pytest.raises(ValueError, match="Invalid parameter 'width'"):
        copy.set_params(width=3)


def test_the_arguments_are_those_of_the_settings(fitted: Any) -> None:
    changed = TINY | {"epochs": 20, "optimizer": fitted.optimizer, "bootstrap": True}
    progress = changed.pop("progress", True)
    model = flax_impl.effects.fit_effects(DATA, flax_impl.effects.EffectSettings(**changed), progress=progress)
    fields = {field.name for field in dataclasses.fields(flax_impl.effects.EffectSettings)}
    assert set(fitted.get_params()) == fields | {"progress", "mesh", "scoring", "control"}
    defaults = {**vars(flax_impl.effects.EffectSettings()), "optimizer": None, "progress": True, "mesh": None}
    defaults |= {"scoring": "outcome", "control": None}
    assert TwoHeadEstimator().get_params() == defaults
    np.testing.assert_array_equal(fitted.effect(FRAME), model.effect(X))
    np.testing.assert_array_equal(fitted.predict(FRAME), model.effect(X))
    np.testing.assert_array_equal(fitted.potential_outcomes(FRAME), model.potential_outcomes(X))
    np.testing.assert_array_equal(fitted.effect_interval(FRAME, alpha=0.3), model.effect_interval(X, 0.3))
    assert fitted.ate(FRAME) == pytest.approx(model.ate(X))
    assert fitted.ate_interval(FRAME, alpha=0.3) == model.ate_interval(X, 0.3)
    assert not np.array_equal(
        fitted.effect_interval(FRAME), fitted.effect_interval(FRAME, alpha=0.3)
    )  # alpha is passed on


# Inside scikit-learn's tools


def test_pipeline() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = tiny().set_fit_request(treatment=True).set_score_request(treatment=True)
        requests = estimator.get_metadata_routing()
        assert set(requests.fit.requests) == {"treatment", "sample_weight", "groups"}
        assert set(requests.score.requests) == {"treatment", "sample_weight"}
        pipeline = make_pipeline(StandardScaler(), estimator).fit(X, Y, treatment=T)
        assert pipeline.predict(NEW.x).shape == (200,)
        scaled = StandardScaler().fit_transform(X)
        alone = tiny().fit(scaled, Y, treatment=T)
        np.testing.assert_array_equal(pipeline.predict(X), alone.effect(scaled))
        assert pipeline.score(X, Y, treatment=T) == alone.score(scaled, Y, treatment=T)


def test_grid_search() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        optimizers = [flax_impl.AdamW(lr=lr) for lr in (1e-6, 3e-2)]  # one that learns nothing, and one that does
        estimator = tiny(epochs=10)
        estimator = estimator.set_fit_request(treatment=True).set_score_request(treatment=True)
        search = GridSearchCV(
            estimator, {"optimizer": optimizers, "members": [1, 2]}, cv=2
        )  # a failed fit warns, which is an error here
        search.fit(X, Y, treatment=T)
    assert search.best_params_["optimizer"] == optimizers[1]
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 4
    assert search.best_score_ == max(scores) > min(scores)
    assert search.best_estimator_.effect(NEW.x).shape == (200,)


def test_cross_val_predict() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = tiny().set_fit_request(treatment=True)
        found: Any = cross_val_predict(estimator, X, Y, cv=2, params={"treatment": T})
        half = cloned(estimator).fit(X[75:], Y[75:], treatment=T[75:])
    assert found.shape == (150,)
    np.testing.assert_array_equal(found[:75], half.effect(X[:75]))


def test_frames_have_names(fitted: Any) -> None:
    assert fitted.feature_names_in_.tolist() == ["age", "income", "height", "weight"]
    assert fitted.effect_model_.feature_names == ("age", "income", "height", "weight")
    assert fitted.n_features_in_ == 4
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        fitted.predict(FRAME[["income", "age", "height", "weight"]])
    with pytest.raises(ValueError, match="Feature names unseen at fit time"):
        fitted.effect(FRAME.rename(columns={"age": "years"}))
    unnamed = tiny().fit(X, Y, treatment=T)
    assert not hasattr(unnamed, "feature_names_in_")
    assert unnamed.effect_model_.feature_names == ("x1", "x2", "x3", "x4")
    with pytest.raises(ValueError, match="X has 3 features, but TwoHeadEstimator is expecting 4"):
        unnamed.effect(X[:, :3])


def test_series_are_taken_as_they_lie() -> None:
    """A frame's columns, whatever their index and dtype."""
    shuffled = FRAME.assign(t=T, y=Y).sample(frac=1, random_state=0)
    found = tiny().fit(shuffled[list(FRAME)], shuffled["y"], treatment=shuffled["t"])
    expected = tiny().fit(
        shuffled[list(FRAME)].to_numpy(), shuffled["y"].to_numpy(), treatment=shuffled["t"].to_numpy()
    )
    np.testing.assert_array_equal(found.effect(FRAME), expected.effect(X))


# Names and treatments


def test_names_of_econml(fitted: Any) -> None:
    by_name = tiny().fit(X=X, Y=Y, T=T)
    np.testing.assert_array_equal(by_name.effect(X), tiny().fit(X, Y, treatment=T).effect(X))
    assert by_name.score(X, Y, T=T) == by_name.score(X, Y, treatment=T)
    effect = fitted.effect(FRAME)
    np.testing.assert_array_equal(fitted.effect(FRAME, T0=1, T1=0), -effect)
    np.testing.assert_array_equal(fitted.effect(FRAME, T0=0, T1=1), effect)
    np.testing.assert_array_equal(fitted.effect(FRAME, T0=1, T1=1), np.zeros_like(effect))
    assert fitted.ate(FRAME, T0=1, T1=0) == pytest.approx(-fitted.ate(FRAME))
    for arms in ({"T0": 2}, {"T1": -1}):
        with pytest.raises(ValueError, match=r"^T[01]: expected one of 0, 1, got "):
            fitted.effect(FRAME, **arms)


def test_an_arm_between_the_arms(fitted: Any) -> None:
    with pytest.raises(ValueError, match=r"^T0: expected "):
        fitted.effect(FRAME, T0=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": Y, "Y": Y, "treatment": T}, "y, Y: expected one of the two names, got both"),
        ({"y": Y, "T": T, "treatment": T}, "treatment, T: expected one of the two names, got both"),
        ({"y": Y}, "treatment: expected a label for each row, got None"),
        ({"y": Y, "treatment": X[:, 0]}, "treatment: expected at most 20 arms, and several rows in each, got 150 "),
        ({"y": Y, "treatment": np.where(T == 1, np.nan, 0.0)}, "treatment: expected an arm in every row, got none in"),
        ({"y": Y, "treatment": T * 0}, "treatment: expected at least two arms, got 0 in every row"),
        ({"y": Y, "treatment": T, "sample_weight": -np.ones(150)}, "w: expected weights of at least 0, got -1.0"),
    ],
)
def test_bad_arguments_of_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tiny().fit(X, **arguments)


def test_lengths_that_differ() -> None:
    estimator = tiny()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.fit(X, Y, treatment=T[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.fit(X, Y[:-1], treatment=T)
    with pytest.raises(ValueError, match="149"):
        estimator.fit(X, Y, treatment=T, sample_weight=np.ones(149))


def test_score_asks_for_the_treatment(fitted: Any) -> None:
    with pytest.raises(ValueError, match=r"^treatment: expected a label for each row, got None$"):
        fitted.score(FRAME, Y)
    with pytest.raises(ValueError, match=r"^treatment, T: expected one of the two names, got both$"):
        fitted.score(FRAME, Y, treatment=T, T=T)


@pytest.mark.parametrize("dtype", [bool, np.float64, np.int8, object])
def test_a_treatment_of_any_dtype(dtype: Any) -> None:
    estimator = tiny(members=1, epochs=1)
    expected = cloned(estimator).fit(X, Y, treatment=T).effect(X)
    np.testing.assert_array_equal(estimator.fit(X, Y, treatment=T.astype(dtype)).effect(X), expected)
    np.testing.assert_array_equal(estimator.fit(X, Y, treatment=T.astype(dtype).tolist()).effect(X), expected)


# Scores and weights


def test_score_is_the_share_of_variance_that_is_explained(fitted: Any) -> None:
    y0, y1 = fitted.potential_outcomes(FRAME)
    w = np.random.default_rng(0).uniform(0.5, 2, 150)
    assert fitted.score(FRAME, Y, treatment=T) == r2_score(Y, np.where(T == 1, y1, y0)) > 0.2
    weighted = fitted.score(FRAME, Y, treatment=T, sample_weight=w)
    assert weighted == r2_score(Y, np.where(T == 1, y1, y0), sample_weight=w) != fitted.score(FRAME, Y, treatment=T)
    assert fitted.score(FRAME, Y, treatment=1 - T) < fitted.score(FRAME, Y, treatment=T)  # the other head knows less


def test_score_of_a_binary_outcome(fitted_binary: Any) -> None:
    y0, y1 = fitted_binary.potential_outcomes(X)
    probability = np.where(T == 1, y1, y0)
    found = fitted_binary.score(X, LABELS, treatment=T)
    assert found == d2_log_loss_score(LABELS, np.c_[1 - probability, probability]) > 0.1
    mean = LABELS.mean()
    losses = [-(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p)).mean() for p in (probability, mean)]
    assert found == pytest.approx(1 - losses[0] / losses[1])
    # One label only, in a small fold: the score is defined all the same.
    of_one = fitted_binary.score(X[LABELS == 1], LABELS[LABELS == 1], treatment=T[LABELS == 1])
    assert np.isfinite(of_one)


def test_weights_of_rows_change_the_effects() -> None:
    estimator = tiny(epochs=10, optimizer=flax_impl.AdamW(lr=0.03))
    effects = [
        cloned(estimator).fit(X, Y, treatment=T, sample_weight=w).effect(X)
        for w in (None, np.ones(150), np.where(Y > 0.5, 5.0, 0.1))
    ]
    np.testing.assert_allclose(effects[1], effects[0], rtol=1e-4, atol=1e-5)
    assert np.abs(effects[2] - effects[0]).max() > 0.05


# Files


def test_a_file_gives_the_estimator_back(fitted: Any, tmp_path: Path) -> None:
    path = tmp_path / "estimator.safetensors"
    fitted.save(path)
    loaded: Any = TwoHeadEstimator.load(path)
    assert loaded.get_params() == fitted.get_params()
    np.testing.assert_array_equal(loaded.effect(FRAME), fitted.effect(FRAME))
    np.testing.assert_array_equal(loaded.effect_interval(FRAME), fitted.effect_interval(FRAME))
    assert loaded.feature_names_in_.tolist() == ["age", "income", "height", "weight"]
    assert loaded.n_features_in_ == 4
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        loaded.predict(FRAME[["income", "age", "height", "weight"]])
    np.testing.assert_array_equal(flax_impl.effects.load_effect_model(path).effect(X), fitted.effect(FRAME))
    np.testing.assert_allclose(load_nets(path).effect(X), fitted.effect(FRAME), rtol=1e-5, atol=1e-5)
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    refitted = loaded.fit(FRAME, Y, treatment=T)  # the arguments are whole
    np.testing.assert_array_equal(refitted.effect(FRAME), fitted.effect(FRAME))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_a_file_keeps_every_optimizer(name: str, tmp_path: Path) -> None:
    optimizer = flax_impl.training.make_optimizer(
        name, lr=1e-4, schedule=flax_impl.training.StepDecay(step_size=3), clip_norm=2.0
    )
    estimator = tiny(members=1, epochs=1, optimizer=optimizer)
    estimator.fit(X, Y, treatment=T).save(tmp_path / "estimator")
    loaded: Any = TwoHeadEstimator.load(tmp_path / "estimator")
    assert loaded.optimizer == optimizer
    assert loaded.get_params() == estimator.get_params()
    assert not hasattr(loaded, "feature_names_in_")


def test_a_file_keeps_tuples(tmp_path: Path) -> None:
    """As the defaults are."""
    estimator = tiny(representation_features=(8,), members=1, epochs=1)
    estimator.fit(X, Y, treatment=T).save(tmp_path / "estimator")
    assert TwoHeadEstimator.load(tmp_path / "estimator").get_params() == estimator.get_params()


def test_numbers_of_numpy_are_saved(tmp_path: Path) -> None:
    """A search over numpy's arrays sets them."""
    changed = {"members": np.int64(1), "epochs": np.int64(1), "representation_features": (np.int64(8),)}
    estimator = tiny(**changed, balance_weight=np.float32(0.5))
    estimator.fit(X, Y, treatment=T).save(tmp_path / "estimator")
    loaded: Any = TwoHeadEstimator.load(tmp_path / "estimator")
    assert (loaded.members, loaded.epochs, list(loaded.representation_features), loaded.balance_weight) == (
        1, 1, [8], 0.5,
    )  # fmt: skip


def test_a_file_of_something_else(fitted: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fitted.effect_model_.save(path)
    expected = f"^{re.escape(str(path))}: expected an estimator's file, written by save, got "
    with pytest.raises(ValueError, match=expected):
        TwoHeadEstimator.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: expected a safetensors file written by this pack"):
        TwoHeadEstimator.load(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        TwoHeadEstimator.load(tmp_path / "missing")
    with pytest.raises(NotFittedError):
        TwoHeadEstimator().save(path)


def test_pickle(fitted: Any) -> None:
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.effect(FRAME), fitted.effect(FRAME))
    assert copy.get_params() == fitted.get_params()


# What it needs


WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import flax_impl
data = flax_impl.data.synthetic(rows=100, features=4)
small = flax_impl.effects.EffectSettings(representation_features=[4], head_features=[4], members=1, steps=1)
model = flax_impl.effects.fit_effects(data, small)
print(model.effect(data.x).shape)
try:
    flax_impl.effects.TwoHeadEstimator
except ImportError as error:
    print(error)
print("sklearn" in sys.modules)
"""


def test_scikit_learn_is_an_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = "TwoHeadEstimator needs scikit-learn: pip install 'twohead[estimator]'"
    assert done.stdout.splitlines() == ["(100,)", said, "False"]


def test_trees_are_kept_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(of_trees._SETTINGS, "iterations", 5)
    made = tiny(learners=("nets", "trees")).fit(FRAME, Y, treatment=T)
    made.save(tmp_path / "estimator")
    same = TwoHeadEstimator.load(tmp_path / "estimator")
    assert same.get_params() == made.get_params()
    np.testing.assert_array_equal(same.effect(FRAME), made.effect(FRAME))
    assert not np.array_equal(made.effect(FRAME), tiny().fit(FRAME, Y, treatment=T).effect(FRAME))


def test_what_older_files_lack_is_as_it_was(tmp_path: Path) -> None:
    made = tiny(bins=0, gates=False).fit(X, Y, treatment=T)
    made.save(path := tmp_path / "estimator")
    arrays, metadata = read_arrays(path)
    arguments = metadata["settings"]["arguments"]
    for name in ("bins", "gates", "learners"):
        del arguments[name]
    write_arrays(path, arrays, metadata | {"format": "effects/1"})
    same = TwoHeadEstimator.load(path)
    assert same.get_params() == made.get_params()
    np.testing.assert_array_equal(same.effect(X), made.effect(X))
