"""Nets and trees together: from a table to effects, and to a file and back."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
from flax_impl.commands.torch_effects import load_nets
from flax_impl.effects import EffectModel, EffectSettings, fit_effects, fit_effects_each, load_effect_model
from flax_impl.effects.learners import trees as of_trees
from flax_impl.effects.learners.blend import LEARNERS, Blend
from flax_impl.effects.learners.cross_fit import CrossFit
from torch_ref.common.files.array_file import read_arrays, write_arrays
from torch_ref.data import TreatmentData

DATA = flax_impl.data.synthetic(rows=120, features=4)
NEW = flax_impl.data.synthetic(rows=50, features=4, seed=1)
TINY: dict[str, Any] = {
    "representation_features": [4], "head_features": [4], "members": 2, "steps": 3,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def few_trees() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(of_trees._SETTINGS, "iterations", 20)
        patch.setitem(of_trees._SETTINGS, "learning_rate", 0.3)
        yield


def trained(data: TreatmentData = DATA, **changed: Any) -> EffectModel:
    settings: dict[str, Any] = TINY | {"learners": ("nets", "trees")} | changed
    return fit_effects(data, EffectSettings(**settings), progress=False)


@pytest.fixture(scope="module")
def model() -> EffectModel:
    return trained(bootstrap=True)


@pytest.fixture(scope="module")
def binary_model() -> EffectModel:
    return trained(replace(DATA, y=(DATA.y > DATA.y.mean()).astype(float)), binary=True)


def blend_of(model: EffectModel) -> Blend:
    assert model.ensemble.blend is not None
    return model.ensemble.blend


def cross_fit_of(model: EffectModel) -> CrossFit:
    assert model.training is not None
    assert model.training.cross_fit is not None
    return model.training.cross_fit


def stepped(rows: int = 600, seed: int = 0) -> TreatmentData:
    """Returns a table whose effect is 3 where the first feature is above 0.5, and else 0."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 4))
    t = (np.arange(rows) % 2).astype(np.int32)
    mu0, mu1 = np.sign(x[:, 1:2]), np.sign(x[:, 1:2]) + 3 * (x[:, :1] > 0.5)
    y = np.where(t[:, None] == 1, mu1, mu0) + 0.1 * generator.normal(size=(rows, 1))
    return TreatmentData(x, t, y, mu0=mu0, mu1=mu1)


def test_trees_win_where_outcomes_have_steps() -> None:
    data, new = stepped(), stepped(seed=1)
    model = trained(data, members=5, steps=5)  # too few for nets
    blend = blend_of(model)
    assert blend.effects[0, 0] < 0.1
    assert (blend.outcomes[:, 1] > 0.9).all()
    truth = (new.mu1 - new.mu0)[:, 0]  # pyright: ignore[reportOptionalOperand] (made-up data has both)
    y0, y1 = model.member_outcomes(new.x)
    assert np.std(model.effect(new.x) - truth) < np.std((y1 - y0).mean(axis=0) - truth) / 2
    losses = model.cross_fit(data).contrast().losses()
    assert list(losses) == [*LEARNERS, "all"]
    assert losses["all"][0] < losses["nets"][0]
    average = model.cross_fit(data).averages().ate
    assert average.low - 0.1 < (data.mu1 - data.mu0).mean() < average.high + 0.1  # pyright: ignore[reportOptionalOperand]


def test_nets_win_where_trees_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(of_trees._SETTINGS, "iterations", 1)
    monkeypatch.setitem(of_trees._SETTINGS, "learning_rate", 1e-6)
    data = flax_impl.data.synthetic(rows=300, features=4)
    model = trained(data, members=5, steps=300, representation_features=[16], optimizer=flax_impl.AdamW(lr=1e-2))
    blend = blend_of(model)
    assert blend.effects[0, 0] > 0.5
    assert (blend.outcomes[:, 0] > 0.8).all()


def test_weights_are_shares(model: EffectModel, binary_model: EffectModel) -> None:
    for one in (model, binary_model):
        blend = blend_of(one)
        assert (blend.effects.shape, blend.outcomes.shape) == ((1, 3), (2, 2))
        assert (blend.effects >= 0).all()
        assert (blend.outcomes >= 0).all()
        assert blend.effects.sum() == pytest.approx(1)
        np.testing.assert_allclose(blend.outcomes.sum(axis=1), 1)
        assert cross_fit_of(one).contrast().weights == dict(zip(LEARNERS, blend.effects[0].tolist(), strict=True))


def test_the_effect_is_the_weighted_one(model: EffectModel) -> None:
    blend, x = blend_of(model), NEW.x
    y0, y1 = (outcomes.mean(axis=0) for outcomes in model.member_outcomes(x))
    t0, t1 = blend.trees.outcomes(x)
    score = 1 / (1 + np.exp(-(blend.intercepts[0] + x @ blend.slopes[0])))
    clipped = np.clip(score, 0.01, 0.99)
    each = np.stack([y1 - y0, t1 - t0, *blend.trees.effects(x, np.stack([1 - clipped, clipped]))], axis=1)
    np.testing.assert_allclose(model.effect(x), each @ blend.effects[0], atol=1e-9)
    outcomes = model.potential_outcomes(x)
    np.testing.assert_allclose(outcomes[1] - outcomes[0], model.effect(x), atol=1e-9)
    expected = [np.stack(pair, axis=1) @ w for pair, w in zip(((y0, t0), (y1, t1)), blend.outcomes, strict=True)]
    np.testing.assert_allclose(
        (1 - score) * outcomes[0] + score * outcomes[1], (1 - score) * expected[0] + score * expected[1], atol=1e-6
    )
    assert model.ate(x) == pytest.approx(model.effect(x).mean())


def test_intervals_lie_around_the_effect_by_all(model: EffectModel) -> None:
    low, high = model.effect_interval(NEW.x)
    np.testing.assert_allclose((low + high) / 2, model.effect(NEW.x), atol=1e-9)
    y0, y1 = model.member_outcomes(NEW.x)
    np.testing.assert_allclose(high - low, 2 * 12.706205 * (y1 - y0).std(axis=0, ddof=1), rtol=1e-6)


def test_a_binary_outcome_has_probabilities(binary_model: EffectModel) -> None:
    for x in (NEW.x, NEW.x * 1e3):
        y0, y1 = binary_model.potential_outcomes(x)
        for outcome in (y0, y1):
            assert outcome.min() >= 0
            assert outcome.max() <= 1
        np.testing.assert_allclose(binary_model.effect(x), y1 - y0, atol=1e-9)
    found = cross_fit_of(binary_model)
    assert found.mu.min() >= 0
    assert found.mu.max() <= 1


def test_what_was_not_seen(model: EffectModel) -> None:
    found = cross_fit_of(model)
    assert model.training is not None
    assert model.training.held_out is not None
    np.testing.assert_array_equal(found.rows, np.unique(model.training.held_out))
    assert list(found.effects) == list(LEARNERS)
    assert all(effect.shape == (1, len(found.rows)) for effect in found.effects.values())
    assert all(np.isfinite(effect).all() for effect in found.effects.values())
    assert model.cross_fit(DATA) is found


def test_the_whole_pipeline_learns_nothing_from_noise() -> None:
    data = replace(DATA, y=np.random.default_rng(5).normal(size=(120, 1)))
    found = cross_fit_of(trained(data, members=5))
    observed = np.choose(found.t, found.mu)
    assert np.mean((found.y - observed) ** 2) > 0.9 * found.y.var()


def test_each_of_many_tables_has_its_own() -> None:
    datas = [stepped(120), stepped(120, seed=1)]
    settings = EffectSettings(**TINY, learners=("nets", "trees"))
    both = fit_effects_each(datas, settings, progress=False)
    for data, model in zip(datas, both, strict=True):
        alone = fit_effects(data, settings, progress=False)
        np.testing.assert_allclose(model.effect(data.x), alone.effect(data.x), rtol=1e-3, atol=1e-3)
    assert not np.allclose(blend_of(both[0]).slopes, blend_of(both[1]).slopes)


def test_clusters_stay_together() -> None:
    model = trained(replace(DATA, groups=np.arange(120) // 4))
    found = cross_fit_of(model)
    assert found.groups is not None
    assert np.isfinite(model.effect(NEW.x)).all()
    assert (np.unique(found.groups, return_counts=True)[1] == 4).all()


def test_rows_of_weight_0_are_left_out() -> None:
    w = (np.arange(120) % 3 > 0).astype(float)
    spoilt = replace(DATA, w=w, y=np.where(w[:, None] == 0, DATA.y + 2, DATA.y))
    one, two = (blend_of(trained(replace(DATA, w=w))), blend_of(trained(spoilt)))
    scales = [of.trees.scales for of in (one, two)]
    assert scales[0].y_mean != scales[1].y_mean  # the scale is of all rows
    for found, expected in zip(two.trees.outcomes(NEW.x), one.trees.outcomes(NEW.x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


# Tables that leave little


@pytest.mark.filterwarnings("ignore:only:UserWarning")
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("members", [1, 5])
def test_an_arm_with_two_rows(binary: bool, members: int) -> None:
    few = np.concatenate([np.flatnonzero(DATA.t == 0), np.flatnonzero(DATA.t == 1)[:2]])
    data = DATA.take(few)
    if binary:
        data = replace(data, y=(data.y > np.median(data.y)).astype(float))
    model = trained(data, members=members, binary=binary)
    assert np.isfinite(model.effect(NEW.x)).all()
    assert blend_of(model).effects.sum() == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:only:UserWarning")
def test_an_arm_with_one_row() -> None:
    few = np.concatenate([np.flatnonzero(DATA.t == 0), np.flatnonzero(DATA.t == 1)[:1]])
    with pytest.raises(ValueError, match=r"^t: expected at least 2 rows of each arm for folds, got 1 of one$"):
        trained(DATA.take(few))


@pytest.mark.filterwarnings("ignore:the outcome is:UserWarning")
@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_a_constant_outcome(constant: float) -> None:
    model = trained(replace(DATA, y=np.full((120, 1), constant)))
    assert np.abs(model.effect(NEW.x)).max() < 2
    assert blend_of(model).effects.sum() == pytest.approx(1)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_an_arm_of_one_label(label: float) -> None:
    data = replace(DATA, y=np.where(DATA.t[:, None] == 1, label, DATA.y > DATA.y.mean()).astype(float))
    _, y1 = trained(data, binary=True).potential_outcomes(NEW.x)
    assert np.abs(y1 - label).max() < 0.5


@pytest.mark.filterwarnings("ignore:constant columns:UserWarning")
def test_constant_features() -> None:
    data = replace(DATA, x=np.full((120, 4), 4.0))
    model = trained(data)
    assert np.ptp(model.effect(NEW.x * 0 + 4)) == 0


def test_lists_will_do() -> None:
    as_lists: Any = replace(DATA, x=DATA.x.tolist(), t=DATA.t.tolist(), y=DATA.y.tolist())
    np.testing.assert_array_equal(trained(as_lists).effect(NEW.x), trained().effect(NEW.x))


def test_units_do_not_matter(model: EffectModel) -> None:
    other = trained(replace(DATA, x=DATA.x * 1e6 - 1e9, y=DATA.y * 1e3 + 1e6), bootstrap=True)
    found = other.effect(NEW.x * 1e6 - 1e9) / 1e3
    np.testing.assert_allclose(found, model.effect(NEW.x), rtol=1e-3, atol=1e-3)


# Files


@pytest.mark.parametrize("binary", [False, True])
def test_a_file_gives_the_same_bits(
    binary: bool, model: EffectModel, binary_model: EffectModel, tmp_path: Path
) -> None:
    one, path = binary_model if binary else model, tmp_path / "model"
    one.save(path)
    same = load_effect_model(path)
    np.testing.assert_array_equal(same.effect(NEW.x), one.effect(NEW.x))
    np.testing.assert_array_equal(same.potential_outcomes(NEW.x), one.potential_outcomes(NEW.x))
    one.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    in_torch = load_nets(path)
    np.testing.assert_allclose(in_torch.effect(NEW.x), one.effect(NEW.x), rtol=1e-4, atol=1e-5)


def resaved(model: EffectModel, path: Path, change: Any) -> None:
    """Writes a model's file anew, with other arrays."""
    model.save(path)
    arrays, metadata = read_arrays(path)
    write_arrays(path, change(dict(arrays)), metadata)


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("blend.effects", np.ones(2), r"blend\.effects: expected shape \[1, 3\], got \[1, 2\]"),
        ("blend.outcomes", np.ones((3, 2)), r"blend\.outcomes: expected shape \[2, 2\], got \[3, 2\]"),
        ("blend.intercept", np.ones(0), r"blend\.intercept: expected shape \[1\], got \[0\]"),
        ("blend.slopes", np.ones(5), r"blend\.slopes: expected shape \[1, 4\], got \[1, 5\]"),
        ("blend.slopes", np.full(4, np.nan), r"blend\.slopes: expected finite numbers, got nan in row 0"),
        ("blend.effects", None, "expected 'effects' in it, found none"),
        ("blend.trees.outcome1", None, r"trees\.outcome1: expected boosted trees, got KeyError"),
        (
            "blend.trees.effect0",
            np.arange(99, dtype=np.uint8),
            r"trees\.effect0: expected boosted trees, got CatBoost",
        ),
        ("blend.trees.effect0", np.zeros(0, np.uint8), r"trees\.effect0: expected boosted trees, got CatBoostError"),
    ],
)
def test_a_damaged_blend_is_one_error(
    name: str, damaged: np.ndarray | None, message: str, model: EffectModel, tmp_path: Path
) -> None:
    def change(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {of: array for of, array in (arrays | {name: damaged}).items() if array is not None}

    resaved(model, tmp_path / "model", change)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'model'}: {message}"):
        load_effect_model(tmp_path / "model")


def test_flipped_bits_are_an_error(model: EffectModel, tmp_path: Path) -> None:
    path = tmp_path / "model"
    model.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=f"^{path}: "):
            load_effect_model(path)


def test_a_file_without_the_blend_is_the_nets(model: EffectModel, tmp_path: Path) -> None:
    def nets(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array for name, array in arrays.items() if not name.startswith("blend.")}

    resaved(model, tmp_path / "model", nets)
    y0, y1 = model.member_outcomes(NEW.x)
    np.testing.assert_array_equal(load_effect_model(tmp_path / "model").effect(NEW.x), (y1 - y0).mean(axis=0))


def test_an_older_file(tmp_path: Path) -> None:
    """Of a format that knew no pieces, gates and trees."""
    model, path = trained(bins=0, gates=False, learners=("nets",)), tmp_path / "model"
    model.save(path)
    arrays, metadata = read_arrays(path)
    assert not [name for name in arrays if name.startswith(("encoding.", "blend."))]
    config = {name: value for name, value in metadata["config"].items() if name != "input_groups"}
    write_arrays(path, arrays, metadata | {"format": "effects/1", "config": json.loads(json.dumps(config))})
    same = load_effect_model(path)
    np.testing.assert_array_equal(same.effect(NEW.x), model.effect(NEW.x))
    assert same.ensemble.blend is None
    assert same.ensemble.encoding is None
    write_arrays(path, arrays, metadata | {"format": "effects/0"})
    with pytest.raises(
        ValueError, match=r"format: expected one of 'effects/3', 'effects/2', 'effects/1', got 'effects/0'$"
    ):
        load_effect_model(path)


def test_without_catboost(model: EffectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "catboost", None)
    message = r"^learners with trees need CatBoost: pip install 'twohead\[trees\]'$"
    with pytest.raises(ImportError, match=message):
        load_effect_model(tmp_path / "model")
    with pytest.raises(ImportError, match=message):
        trained()
    assert np.isfinite(trained(learners=("nets",)).effect(NEW.x)).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learners": ("trees",)}, r"learners: expected \('nets',\) or \('nets', 'trees'\), got \('trees',\)"),
        ({"learners": "nets"}, r"learners: expected \('nets',\) or \('nets', 'trees'\), got 'nets'"),
        ({"learners": None}, r"learners: expected \('nets',\) or \('nets', 'trees'\), got None"),
        ({"validation_share": 0}, "validation_share: expected above 0 with trees, which are weighed on held-out rows"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        trained(**changed)
