"""From a table to effects: as good as they should be, equal to a net of the reference, kept in files, and honest."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import flax_impl
import torch_ref
from flax_impl.commands.torch_effects import fit_net, load_nets
from flax_impl.data import TreatmentData
from flax_impl.effects import EffectModel, EffectSettings, fit_effects, load_effect_model
from torch_ref.common.settings.optimizers import Adam

ROOT = Path(__file__).parents[2]
DATA = flax_impl.data.synthetic(rows=150, features=4)
NEW = flax_impl.data.synthetic(rows=200, features=4, seed=1)
TINY: dict[str, Any] = {
    "representation_features": [8], "head_features": [8], "members": 2, "epochs": 3, "batch_size": 30,
}  # fmt: skip


def trained(data: TreatmentData = DATA, **changed: Any) -> Any:
    return fit_effects(data, EffectSettings(**TINY | changed), progress=False)


def binary_data() -> TreatmentData:
    return replace(DATA, y=(DATA.y > DATA.y.mean()).astype(float))


@pytest.fixture(scope="module")
def model() -> EffectModel:
    """A tiny ensemble on bootstrap rows."""
    return trained(bootstrap=True, members=3)


@pytest.fixture(scope="module")
def binary_model() -> EffectModel:
    return trained(binary_data(), binary=True)


def test_it_recovers_effects_that_the_arms_do_not_show(measured: list[str]) -> None:
    data, new = (flax_impl.data.synthetic(rows=rows, features=6, seed=seed) for rows, seed in ((600, 0), (500, 1)))
    truth = (new.mu1 - new.mu0)[:, 0]  # pyright: ignore[reportOptionalOperand] (made-up data has both)
    changed = {
        "representation_features": [16],
        "head_features": [16],
        "optimizer": flax_impl.AdamW(lr=1e-2),
        "epochs": 40,
    }
    model = trained(data, **changed, batch_size=None)
    naive = float(data.y[data.t == 1].mean() - data.y[data.t == 0].mean())
    of_model, of_naive = (np.sqrt(np.mean((found - truth) ** 2)) for found in (model.effect(new.x), naive))
    ate_of_model, ate_of_naive = (abs(found - truth.mean()) for found in (model.ate(new.x), naive))
    measured.append(f"effects: off by {of_model:.2f}, a difference of means by {of_naive:.2f}")
    assert of_model < of_naive / 2
    assert ate_of_model < ate_of_naive / 4


# Files


LOAD = """
import sys, numpy as np, flax_impl
np.save(sys.argv[2], flax_impl.effects.load_effect_model(sys.argv[1]).member_outcomes(np.load(sys.argv[3])))
"""


def test_a_new_process_gives_the_same_bits(model: EffectModel, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("m.safetensors", "found.npy", "x.npy")]
    model.save(files[0])
    np.save(files[2], NEW.x)
    same = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.read("jax_disable_most_optimizations")))}
    subprocess.run([sys.executable, "-c", LOAD, *files], cwd=ROOT, env=same, check=True, timeout=120)
    np.testing.assert_array_equal(np.load(files[1]), model.member_outcomes(NEW.x))


@pytest.mark.parametrize("binary", [False, True])
def test_torch_runs_the_nets_of_a_file(
    binary: bool, model: EffectModel, binary_model: EffectModel, tmp_path: Path
) -> None:
    model, path = binary_model if binary else model, tmp_path / "model.safetensors"
    model.save(path)
    same, other = load_effect_model(path), load_nets(path)
    np.testing.assert_array_equal(same.effect(NEW.x), model.effect(NEW.x))
    for found, expected in zip(other.member_outcomes(NEW.x), model.member_outcomes(NEW.x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert other.feature_names == ("x1", "x2", "x3", "x4")
    assert other.scales.binary == binary
    assert other.training is None
    if not binary:
        np.testing.assert_allclose(other.effect_interval(NEW.x), model.effect_interval(NEW.x), rtol=1e-4, atol=1e-5)


def test_the_same_ensemble_is_the_same_bytes(model: EffectModel, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    model.save(paths[0])
    model.save(paths[1])
    load_effect_model(paths[0]).save(paths[2])
    load_nets(paths[0]).save(paths[3])
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_damaged_file_is_an_error_that_names_it(model: EffectModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    whole = path.read_bytes()
    places = range(0, len(whole), 41)  # in the header and in the numbers
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    for content in [*flipped, whole[:-1], whole[: len(whole) // 2], whole[:4], b"", whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: "):
            load_effect_model(path)


def test_a_file_of_something_else(model: EffectModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = torch_ref.TwoHead(4, [3], [3])
    torch_ref.save_model(path, net)
    message = f"^{re.escape(str(path))}: format: expected one of 'effects/3', 'effects/2', 'effects/1', got 'model/1'$"
    with pytest.raises(ValueError, match=message):
        load_effect_model(path)
    model.save(path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: format: expected one of 'model/1', got "):
        flax_impl.load_model(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_effect_model(tmp_path / "missing")


# Equal on both sides


def starting_alike(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], seed: int) -> None:
    """Lets the port's one net start from the weights that the reference draws."""
    torch.manual_seed(seed)
    port = flax_impl.TwoHead(**config)
    params = flax_impl.models.from_numpy(port, torch_ref.models.to_numpy(torch_ref.TwoHead(**config)))

    def init_params(model: Any, seeds: range) -> Any:
        assert (model.config, seeds) == (port.config, range(seed, seed + 1))
        return jax.tree.map(lambda leaf: leaf[None], params)

    monkeypatch.setattr(flax_impl.TwoHead, "init_params", init_params)


def config_of(**changed: Any) -> dict[str, Any]:
    columns = 10  # of each feature: itself, its rank, and 8 pieces
    config = {"in_features": 4 * columns, "representation_features": [8], "head_features": [8], "activation": "gelu"}
    return config | {"final_activation": "identity", "input_groups": [columns] * 4} | changed


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"bootstrap": True, "reduction": "per_head", "activation": "elu", "validation_share": 0.0},
        {"binary": True, "cfr_weights": True, "seed": 7},
        {"balance": "linear_mmd", "balance_weight": 0.5, "steps": 17, "epochs": None},
        {"epochs": 40, "patience": 2, "optimizer": Adam(lr=0.03)},
        {"bins": 0, "gates": False},
    ],
    ids=["defaults", "bootstrap", "binary", "balance", "early stopping", "plain"],
)
def test_both_sides_train_alike(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, measured: list[str], request: pytest.FixtureRequest
) -> None:
    data = binary_data() if changed.get("binary") else DATA
    data = replace(data, w=np.random.default_rng(0).uniform(0.5, 2, len(data)))
    plain = {} if changed.get("bins", 8) else {"in_features": 4, "input_groups": None}
    config = config_of(activation=changed.get("activation", "gelu"), **plain)
    starting_alike(monkeypatch, config, changed.get("seed", 0))
    settings = EffectSettings(**TINY | {"members": 1, "dtype": "float64"} | changed)
    reference, port = fit_net(data, settings, progress=False), fit_effects(data, settings, progress=False)
    apart = float(np.abs(port.effect(NEW.x) - reference.effect(NEW.x)).max())
    measured.append(f"effects on both sides, {request.node.callspec.id}, float64: {apart:.1e} apart (at most 1e-9)")
    assert apart <= 1e-9
    assert np.ptp(port.effect(NEW.x)) > 1e-3  # something was learnt that can be compared
    assert port.training is not None
    assert reference.training is not None
    np.testing.assert_allclose(port.training.losses, reference.training.losses, rtol=1e-9)
    assert port.training.best == reference.training.best
    if settings.patience:  # it did stop
        assert port.training.losses.shape[1] < 40 * 4
    if settings.validation_share == 0:
        assert port.training.held_out is reference.training.held_out is None
        assert port.training.best == [15]
    else:
        np.testing.assert_array_equal(port.training.held_out, reference.training.held_out)


def test_each_net_stops_for_itself() -> None:
    early: dict[str, Any] = {"epochs": 40, "patience": 2, "optimizer": Adam(lr=0.03)}
    both, first = trained(**early).training, trained(**early, members=1).training
    ends = np.isfinite(both.losses[:, :, 0]).sum(axis=1)
    assert len(set(ends)) == 2  # so the shorter losses are filled up
    assert max(ends) == both.losses.shape[1] < 40 * 4
    assert all(np.isnan(losses[end:]).all() for losses, end in zip(both.losses, ends, strict=True))
    assert (first.losses.shape[1], first.best) == (ends[0], both.best[:1])


# What the numbers mean


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_effects_are_in_the_unit_of_the_outcome(factor: float, model: EffectModel) -> None:
    expected = model.effect(NEW.x)
    found = trained(replace(DATA, y=DATA.y * factor), bootstrap=True, members=3).effect(NEW.x)
    np.testing.assert_allclose(found / factor, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_shift_of_the_outcome_is_in_the_outcomes_only(model: EffectModel) -> None:
    shifted = trained(replace(DATA, y=DATA.y + 1e3), bootstrap=True, members=3)
    expected = model.effect(NEW.x)
    np.testing.assert_allclose(shifted.effect(NEW.x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    outcomes = zip(shifted.potential_outcomes(NEW.x), model.potential_outcomes(NEW.x), strict=True)
    for found, plain in outcomes:
        np.testing.assert_allclose(found, plain + 1e3, atol=1e-3)


def test_the_unit_of_a_feature_does_not_matter(model: EffectModel) -> None:
    unit, offset = np.array([1e-6, 1.0, 1e6, 3.0]), np.array([0.0, 1e3, 0.0, -1.0])
    other = trained(replace(DATA, x=DATA.x * unit + offset), bootstrap=True, members=3)
    expected = model.effect(NEW.x)
    found = other.effect(NEW.x * unit + offset)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_effects_come_from_the_outcomes(model: EffectModel) -> None:
    y0, y1 = model.member_outcomes(NEW.x)
    assert y0.shape == y1.shape == (3, 200)
    np.testing.assert_allclose(model.potential_outcomes(NEW.x), (y0.mean(axis=0), y1.mean(axis=0)), rtol=1e-6)
    np.testing.assert_allclose(model.effect(NEW.x), (y1 - y0).mean(axis=0), rtol=1e-6)
    assert model.ate(NEW.x) == pytest.approx((y1 - y0).mean())


def test_a_binary_outcome_has_probabilities(binary_model: EffectModel) -> None:
    model = binary_model
    outcomes = np.stack(model.potential_outcomes(NEW.x * 100))  # far out, too
    assert outcomes.min() >= 0
    assert outcomes.max() <= 1
    assert outcomes.max() - outcomes.min() > 0.5
    np.testing.assert_allclose(model.effect(NEW.x * 100), outcomes[1] - outcomes[0], atol=1e-6)


def test_intervals_hold_the_mean_and_grow_with_certainty(model: EffectModel) -> None:
    ends = [model.effect_interval(NEW.x, alpha) for alpha in (0.01, 0.05, 0.5)]
    of_ate = [model.ate_interval(NEW.x, alpha) for alpha in (0.01, 0.05, 0.5)]
    for (low, high), (ate_low, ate_high) in zip(ends, of_ate, strict=True):
        assert ((low < model.effect(NEW.x)) & (model.effect(NEW.x) < high)).all()
        assert ate_low < model.ate(NEW.x) < ate_high
    for wide, narrow in ((0, 1), (1, 2)):
        assert ((ends[wide][0] < ends[narrow][0]) & (ends[narrow][1] < ends[wide][1])).all()
        assert of_ate[wide][0] < of_ate[narrow][0] < of_ate[narrow][1] < of_ate[wide][1]
    np.testing.assert_array_equal(model.effect_interval(NEW.x), ends[1])
    values = np.diff(model.member_outcomes(NEW.x), axis=0)[0]
    half = 4.302653 * values.std(axis=0, ddof=1)  # Student's quantile of 0.975 with 2 degrees of freedom
    np.testing.assert_allclose(ends[1][1] - ends[1][0], 2 * half, rtol=1e-5)


def test_a_net_is_the_same_in_an_ensemble_of_any_size(model: EffectModel) -> None:
    large = model.member_outcomes(NEW.x)
    for members in (1, 2):
        found = trained(bootstrap=True, members=members).member_outcomes(NEW.x)
        np.testing.assert_allclose(found, large[:, :members], rtol=1e-5, atol=1e-6)
    assert np.abs(large[:, 0] - large[:, 1]).max() > 1e-3
    other = trained(bootstrap=True, members=1, seed=1)
    assert np.abs(np.stack(other.member_outcomes(NEW.x)) - large[:, :1]).max() > 1e-3


# Trouble


def test_a_net_that_diverges_starts_again() -> None:
    with pytest.warns(UserWarning, match="diverged") as caught:
        model = trained(optimizer=flax_impl.SGD(lr=5.0))
    said = [str(warning.message) for warning in caught]
    assert said == ["net 0, 1 diverged and starts again, with lr=0.5"]
    assert {warning.filename for warning in caught} == {__file__}
    assert np.isfinite(model.effect(NEW.x)).all()
    assert np.isfinite(model.training.losses[:, :, 0]).all()
    # As if nothing had happened before.
    np.testing.assert_allclose(
        model.effect(NEW.x), trained(optimizer=flax_impl.SGD(lr=0.5)).effect(NEW.x), rtol=1e-5, atol=1e-6
    )


def test_the_others_stay_as_they_are_when_one_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"optimizer": flax_impl.SGD(lr=0.01), "members": 3, "bins": 0, "gates": False}
    good = trained(**settings)
    start = flax_impl.TwoHead(**config_of(in_features=4, input_groups=None)).init_params(range(3))

    def begin_with(factor: float) -> None:
        """Lets the second net start from weights so large that it diverges."""
        large = jax.tree.map(lambda leaf: leaf.at[1].multiply(factor), start)
        monkeypatch.setattr(flax_impl.TwoHead, "init_params", lambda model, seed: large)

    begin_with(10.0)  # for a tenth of the rate they are not too large
    with pytest.warns(UserWarning, match=r"^net 1 diverged and starts again, with lr=0\.001$"):
        found = trained(**settings)
    outcomes = [model.member_outcomes(NEW.x) for model in (found, good)]
    np.testing.assert_array_equal(outcomes[0][:, [0, 2]], outcomes[1][:, [0, 2]])
    np.testing.assert_array_equal(found.training.losses[[0, 2]], good.training.losses[[0, 2]])
    assert np.isfinite(outcomes[0]).all()
    assert np.isfinite(found.training.losses[:, :, 0]).all()

    begin_with(100.0)
    with (
        pytest.warns(UserWarning, match=r"^net 1 diverged and starts again, with lr=0\.001$"),
        pytest.raises(FloatingPointError, match=r"^net 1 diverged, and again with lr=0\.001: "),
    ):
        trained(**settings)


def test_a_net_that_diverges_twice_is_an_error() -> None:
    message = (
        r"^net 0 diverged, and again with lr=1e\+08: loss: expected finite numbers, got (inf|nan) in step \d+ of 12, "
        r"output \d: the training diverged; try a smaller lr"
    )
    with (
        pytest.warns(UserWarning, match=r"diverged and starts again, with lr=1e\+08$"),
        pytest.raises(FloatingPointError, match=message),
    ):
        trained(optimizer=flax_impl.SGD(lr=1e9))


def lone(rows: int) -> TreatmentData:
    """Returns data with so few treated rows."""
    chosen = np.concatenate([np.flatnonzero(DATA.t == 0)[:40], np.flatnonzero(DATA.t == 1)[:rows]])
    return DATA.take(chosen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lone(19), "only 19 of 59 rows are treated: their outcome is little more than a guess"),
        (
            lambda: replace(lone(19), t=1 - lone(19).t),
            "only 19 of 59 rows are untreated: their outcome is little more than a guess",
        ),
        (lambda: replace(DATA, x=DATA.x * [1, 0, 1, 1]), "constant columns tell nothing: x2"),
        (
            lambda: replace(DATA, x=np.c_[DATA.x[:, :3], DATA.t * 2.0 - 1], feature_names=("a", "b", "c", "arm")),
            "the treatment is determined by arm: no row says what it would have had in the other arm",
        ),
    ],
)
def test_a_doubtful_table_is_warned_of(make: Callable[[], Any], message: str) -> None:
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        model = trained(make(), epochs=1)
    assert len(caught) == 1
    assert np.isfinite(model.effect(NEW.x)).all()


def test_enough_rows_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(lone(20), epochs=1)


def test_a_warning_names_the_line_of_the_call() -> None:
    with pytest.warns(UserWarning, match="only 19 of 59") as caught:
        trained_here = fit_effects(lone(19), EffectSettings(**TINY))
    assert trained_here is not None
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (lambda: DATA.take(np.flatnonzero(DATA.t == 1)), {}, "t: expected treated and untreated rows, got "),
        (lambda: DATA.take(np.flatnonzero(DATA.t == 0)), {}, "t: expected treated and untreated rows, got 0 treated"),
        (lambda: replace(DATA, t=DATA.t * 2), {}, "t: expected 0 or 1 in every row, got 2 in row "),
        (lambda: replace(DATA, x=np.where(DATA.x == DATA.x[3, 2], np.nan, DATA.x)), {},
            "x: expected finite numbers, got nan in row 3"),
        (lambda: replace(DATA, y=np.full_like(DATA.y, np.inf)), {}, "y: expected finite numbers, got inf in row 0"),
        (lambda: replace(DATA, y=DATA.y[:-1]), {}, "y: expected 150 rows, as x has, got 149"),
        (lambda: DATA, {"binary": True}, "y: expected "),
        (lambda: DATA, {"members": 0}, "members: expected a whole number of at least 1, got 0"),
        (lambda: DATA, {"validation_share": 1.0}, "validation_share: expected a finite number of at least 0 and below "
            "1, got 1.0"),
        (lambda: DATA, {"dtype": "float16"}, "dtype: expected one of 'float32', 'float64', got 'float16'"),
        (lambda: DATA, {"optimizer": "adam"}, "optimizer: expected settings such as Adam(lr=0.001), got 'adam'"),
        (lambda: DATA, {"balance": "mmd"}, "balance: expected one of "),
        (lambda: DATA, {"steps": 3}, "epochs, steps: expected exactly one of the two, got "),
        (lambda: DATA, {"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        (lambda: DATA, {"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    ],
)  # fmt: skip
def test_bad_arguments(make: Callable[[], Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        trained(make(), **changed)


def test_bad_questions(model: EffectModel, binary_model: EffectModel) -> None:
    for ask in (model.effect, model.potential_outcomes, model.effect_interval, model.ate, model.ate_interval):
        with pytest.raises(ValueError, match=r"^x: expected shape \[rows, 4\], got \[rows, 3\]$"):
            ask(NEW.x[:, :3])
        with pytest.raises(ValueError, match=r"^x: expected finite numbers, got nan in row 0"):
            ask(np.full_like(NEW.x, np.nan))
    alone = trained(bootstrap=True, members=1, epochs=1)
    for interval in ("effect_interval", "ate_interval"):
        for alpha in (0, 1, -0.1, 5, float("nan")):
            with pytest.raises(ValueError, match=r"^alpha: expected a finite number above 0 and below 1, got "):
                getattr(model, interval)(NEW.x, alpha)
        with pytest.raises(ValueError, match=r"^bootstrap: expected members trained on bootstrap rows \(bootstrap=Tru"):
            getattr(binary_model, interval)(NEW.x)
        with pytest.raises(ValueError, match=r"^members: expected at least 2 for an interval, got 1$"):
            getattr(alone, interval)(NEW.x)
