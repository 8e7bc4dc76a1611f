"""What propensities make doubtful: said by averages, by reports and by the estimator."""

from typing import Any

import numpy as np
import pytest
from jaxtyping import Float, Int

from flax_impl.data import synthetic
from flax_impl.effects import TwoHeadEstimator, average_effects
from flax_impl.effects.overlap import examine_weights
from flax_impl.effects.propensities import cross_fitted_propensity
from flax_impl.effects.rows import draw_folds

TINY: dict[str, Any] = {
    "representation_features": (4,), "head_features": (4,), "members": 5, "epochs": 2, "progress": False,
}  # fmt: skip
NAMES = ("untreated", "treated")


def made_up(
    seed: int, rows: int = 2000, kind: str = "linear"
) -> tuple[Float[np.ndarray, "rows features"], Int[np.ndarray, " rows"]]:
    """Returns features and treatments; the bent ones are those of Nie and Wager (2021), setup A."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(size=(rows, 100 if kind == "many" else 6))
    linear = 1 / (1 + np.exp(1 - 2 * x[:, 0]))
    score = np.clip(np.sin(np.pi * x[:, 0] * x[:, 1]), 0.1, 0.9) if kind == "bent" else linear
    return x, generator.binomial(1, score)


def examined(x: Float[np.ndarray, "rows features"], t: Int[np.ndarray, " rows"]) -> list[str]:
    return examine_weights(cross_fitted_propensity(x, t, draw_folds(t, seed=0)), t, NAMES)


@pytest.mark.parametrize("seed", range(3))
def test_weights_tell_a_shape_that_no_logistic_regression_has(seed: int) -> None:
    [said] = examined(*made_up(seed, kind="bent"))
    assert "weighed by them, rows that are untreated stand for 1" in said
    assert examined(*made_up(seed)) == []


@pytest.mark.parametrize("seed", range(3))
def test_weights_tell_too_many_features(seed: int) -> None:
    said = examined(*made_up(seed, rows=300, kind="many"))
    assert len(said) == 2
    assert "treated stand for" in said[1]
    assert examined(*made_up(seed, rows=300)) == []


def test_copies_of_rows_are_no_surer_as_clusters() -> None:
    t = np.repeat([0, 1, 1], 30)
    score = np.full((2, 90), 0.5)
    assert len(examine_weights(score, t, NAMES)) == 2
    assert examine_weights(score, t, NAMES, clusters=np.arange(90) // 30) == []
    assert examine_weights(score, t, NAMES, w=np.repeat([2.0, 1, 1], 30)) == []


def test_weights_by_hand() -> None:
    t = np.arange(400) % 2
    half = np.full((2, 400), 0.5)
    assert examine_weights(half, t, NAMES) == []
    end = "average effects may be further off than their intervals say"
    assert [said.split(": ")[1] for said in examine_weights(0.8 * half, t, NAMES)] == [
        f"weighed by them, rows that are {name} stand for 125% of all rows, not 100%; {end}" for name in NAMES
    ]
    assert examine_weights(half / 1.09, t, NAMES) == []  # a tenth is little
    assert examine_weights(0.8 * half[:, :20], t[:20], NAMES) == []  # a few rows are off by chance


def test_averages_say_what_makes_them_doubtful() -> None:
    rare = np.arange(100) < 11  # hardly ever treated, and none of them was
    t, score = np.where(rare, 0, np.arange(100) % 2), np.where(rare, 0.015, 0.5)
    y = mu0 = mu1 = np.zeros(100)
    found = average_effects(t, y, mu0, mu1, score)
    assert [doubt.split(" rows")[0] for doubt in found.doubts] == ["poor overlap: 11 of 100"]
    assert str(found).splitlines()[-1] == f"doubtful: {found.doubts[0]}"
    assert average_effects(t, y, mu0, mu1, score, trim=0.02).doubts == ()
    third = average_effects(np.where(rare, -1, t), y, mu0, mu1, score, score0=np.full(100, 0.45))
    assert third.doubts == found.doubts


@pytest.fixture(scope="module")
def apart() -> TwoHeadEstimator:
    """Arms that hardly overlap, one of which has a name that comes first by its letters only."""
    data = synthetic(rows=300, features=4)
    t = (data.x[:, 0] + 0.1 * data.x[:, 1] > 0).astype(int)
    t[:10] = 1 - t[:10]
    return TwoHeadEstimator(**TINY).fit(data.x, data.y[:, 0], treatment=np.where(t == 1, "drug", "placebo"))


def test_the_estimator_warns(apart: TwoHeadEstimator) -> None:
    with pytest.warns(UserWarning, match="poor overlap: .* of 300 rows"):
        found = apart.average_effects()
    assert found.doubts[0].startswith("poor overlap")
    with pytest.warns(UserWarning, match="poor overlap: .* of 300 rows"):
        report = apart.report()
    assert report.doubts()[0].startswith("poor overlap")


@pytest.mark.filterwarnings("ignore:poor overlap:UserWarning")
@pytest.mark.filterwarnings("ignore:propensities that do not fit:UserWarning")
def test_a_report_says_which_arm_is_compared_with_which(apart: TwoHeadEstimator) -> None:
    assert str(apart.report()).startswith("placebo against drug\n")


def test_no_averages_from_nets_that_saw_all_rows() -> None:
    data = synthetic(rows=60, features=4)
    estimator = TwoHeadEstimator(**TINY, validation_share=0.0).fit(data.x, data.y[:, 0], treatment=data.t)
    with pytest.raises(ValueError, match=r"^validation_share: expected above 0 for averages, as nets saw all rows, "):
        estimator.average_effects()
