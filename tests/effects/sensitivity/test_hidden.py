"""Hidden confounding of the average effect: by hand, by property, and benchmarks by features of known strength."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.data import TreatmentData
from flax_impl.effects import (
    Benchmark,
    HiddenConfounding,
    OutOfFold,
    average_effects,
    confounding_benchmarks,
    hidden_confounding,
)
from refutation_level import linear, true_strength

pytestmark = pytest.mark.filterwarnings("ignore:score. weights too uneven")  # tables of few rows
T, Y = np.array([1, 0, 1, 0]), np.array([5.0, 1.0, 2.0, 4.0])
MU0, MU1, SCORE = np.array([1.0, 2.0, 0.0, 3.0]), np.array([3.0, 3.0, 2.0, 5.0]), np.array([0.5, 0.75, 0.25, 0.5])
TABLE: dict[str, Any] = {"t": T, "y": Y, "mu0": MU0, "mu1": MU1, "score": SCORE}
FOUND = HiddenConfounding(2.0, 0.5, scale=4.0, scale_error=0.2, covariance=0.03, rows=100)


def drawn(seed: int, rows: int = 60) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    score = 1 / (1 + np.exp(-x))
    t = (generator.random(rows) < score).astype(int)
    t[:2] = 0, 1
    y = x + t * (1 + x) + generator.normal(size=rows)
    return {"t": t, "y": y, "mu0": x, "mu1": 1 + 2 * x, "score": score}


def test_the_scale_by_hand() -> None:
    found = hidden_confounding(**TABLE)
    # Residuals 2, -1, 0, 1; weights of inverse propensities 2, -4, 4, -2; precisions 4, 16/3, 16/3, 4.
    of_outcome, of_weight = 6 / 4, np.mean([8 - 4, 32 / 3 - 16, 32 / 3 - 16, 8 - 4])
    assert of_weight < 0  # four rows: the weights are more uneven than their propensities say
    of_weight = np.mean([4, 16 / 3, 16 / 3, 4])
    assert found.scale == pytest.approx(np.sqrt(of_outcome * of_weight))
    influence = of_weight * (np.array([4, 1, 0, 1]) - of_outcome)
    influence = influence + of_outcome * (np.array([4, 16 / 3, 16 / 3, 4]) - of_weight)
    influence = influence / (2 * found.scale)
    pseudo = np.array([6.0, 5.0, 2.0, 0.0])
    expected = np.cov(pseudo, influence) / 4
    assert found.standard_error == pytest.approx(np.sqrt(expected[0, 0]))
    assert found.scale_error == pytest.approx(np.sqrt(expected[1, 1]))
    assert found.covariance == pytest.approx(expected[0, 1])


def test_uneven_weights_are_said() -> None:
    with pytest.warns(UserWarning, match="^score: weights too uneven"):
        hidden_confounding(**TABLE)


def test_bounds_by_hand() -> None:
    ends = FOUND.bounds(eta_y=0.2, eta_d=0.2, rho=0.5)
    strength = 0.5 * np.sqrt(0.2 * 0.2 / 0.8)
    assert (ends.low, ends.high) == (pytest.approx(2 - 4 * strength), pytest.approx(2 + 4 * strength))
    below = np.sqrt(0.25 - 2 * strength * 0.03 + strength**2 * 0.04)
    above = np.sqrt(0.25 + 2 * strength * 0.03 + strength**2 * 0.04)
    assert ends.interval_low == pytest.approx(ends.low - 1.959964 * below)
    assert ends.interval_high == pytest.approx(ends.high + 1.959964 * above)


@pytest.mark.parametrize("value", [2.0, -2.0])
@pytest.mark.parametrize("rho", [1.0, 0.7])
@pytest.mark.parametrize("null", [0.0, 0.5, -0.5])
def test_a_robustness_value_brings_the_end_to_the_null(value: float, rho: float, null: float) -> None:
    found = HiddenConfounding(value, 0.5, scale=4.0, scale_error=0.9, covariance=-0.2, rows=100)
    share, least = (found.robustness_value(null, interval=interval, rho=rho) for interval in (False, True))
    assert 0 < least < share < 1
    ends, intervals = found.bounds(share, share, rho), found.bounds(least, least, rho)
    assert (ends.low if value > null else ends.high) == pytest.approx(null, abs=1e-9)
    assert (intervals.interval_low if value > null else intervals.interval_high) == pytest.approx(null, abs=1e-9)


def test_robustness_by_hand() -> None:
    strength = 2 / 4
    assert FOUND.robustness_value() == pytest.approx((np.sqrt(strength**4 + 4 * strength**2) - strength**2) / 2)
    assert FOUND.robustness_value(null=2.0) == 0
    assert FOUND.robustness_value(null=1.2, interval=True) == 0  # in the interval already
    exact = HiddenConfounding(2.0, 0.0, scale=0.0, scale_error=0.0, covariance=0.0, rows=100)
    assert exact.robustness_value() == 1  # no residual is left for anything hidden to explain


@examples(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 0.9), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, eta_y: float, eta_d: float, scale: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    rows = drawn(seed)
    w, groups = generator.integers(1, 4, 60), generator.integers(0, 12, 60)
    found = hidden_confounding(**rows, w=w, groups=groups)
    ate = average_effects(**rows, w=w, groups=groups).ate
    assert (found.value, found.standard_error) == (pytest.approx(ate.value), pytest.approx(ate.standard_error))
    for none in (found.bounds(0, eta_d), found.bounds(eta_y, 0), found.bounds(eta_y, eta_d, rho=0)):
        assert (none.low, none.high) == (found.value, found.value)
        assert (none.interval_low, none.interval_high) == (pytest.approx(ate.low), pytest.approx(ate.high))
    ends, wider = found.bounds(eta_y, eta_d), found.bounds(min(1, 1.1 * eta_y), eta_d + 0.05)
    assert wider.low <= ends.low <= found.value <= ends.high <= wider.high
    assert found.value - ends.low == pytest.approx(ends.high - found.value)
    units = {name: scale * rows[name] + shift for name in ("y", "mu0", "mu1")}
    other = hidden_confounding(**{**rows, **units}, w=w, groups=groups)
    assert other.bounds(eta_y, eta_d).interval_low == pytest.approx(scale * ends.interval_low, abs=1e-6)
    assert other.robustness_value() == pytest.approx(found.robustness_value())
    turned = {"t": 1 - rows["t"], "mu0": rows["mu1"], "mu1": rows["mu0"], "score": 1 - rows["score"]}
    mirrored = hidden_confounding(**{**rows, **turned}, w=w, groups=groups)
    assert mirrored.bounds(eta_y, eta_d).interval_low == pytest.approx(-ends.interval_high, abs=1e-9)
    assert mirrored.robustness_value(interval=True) == pytest.approx(found.robustness_value(interval=True))


def test_benchmarks_of_known_strength() -> None:
    """The confounder whose strength is known is a feature here, and is left out."""
    generator = np.random.default_rng(0)
    x, other, rows = generator.normal(size=40_000), generator.choice([-1.0, 1.0], 40_000), 40_000
    score = 1 / (1 + np.exp(-0.5 * x))
    t = (generator.random(rows) < score * (1 + other * 0.5 * (1 - score))).astype(int)
    y = 0.5 * x + t + other + generator.normal(size=rows)
    data = TreatmentData(np.column_stack([x, other]), t, y[:, None], feature_names=("mild", "strong"))
    found = confounding_benchmarks(data, linear)
    assert [one.name for one in found] == ["strong", "mild"]
    eta_y, eta_d = true_strength()
    assert found[0].eta_y == pytest.approx(eta_y, abs=0.01)
    assert found[0].eta_d == pytest.approx(eta_d, abs=0.01)
    assert found[0].change == pytest.approx(0.5, abs=0.05)
    [both] = confounding_benchmarks(data, linear, {"one of them": ["strong"]})
    assert (both.name, both.eta_y) == ("one of them", found[0].eta_y)


def test_a_benchmark_that_tells_nothing_is_0() -> None:
    def fit(data: TreatmentData) -> OutOfFold:
        return OutOfFold(**drawn(0))

    data = TreatmentData(np.zeros((60, 2)), drawn(0)["t"], drawn(0)["y"][:, None])
    assert confounding_benchmarks(data, fit) == (Benchmark("x1", 0.0, 0.0, 0.0), Benchmark("x2", 0.0, 0.0, 0.0))


def test_it_prints_itself() -> None:
    one, two = Benchmark("age", 0.04, 0.25, -0.1), Benchmark("sex", 0.01, 0.01, 0.2)
    text = str(HiddenConfounding(2.0, 0.5, 4.0, 0.2, 0.0, 100, benchmarks=(two, one)))
    assert text.splitlines()[-2:] == [
        "the strongest observed one, `age`, explains 4.0% of the outcome and 25% of the treatment, "
        "of what the others leave",
        "with a hidden one as strong, the effect is 1.538 to 2.462 (interval 0.5571 to 3.443)",
    ]
    assert "the interval holds 0 without any" in str(HiddenConfounding(0.5, 0.5, 4.0, 0.2, 0.0, 100))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.ones(4, int)}, "t: expected rows of both arms, got none that are untreated"),
        ({"w": np.array([0, 1, 0, 1])}, "t: expected rows of both arms, got none that are treated"),
        ({"groups": ["a"] * 4}, "groups: expected rows of at least two clusters, got 4 rows of one"),
        ({"alpha": 1}, "alpha: expected a finite number above 0 and below 1, got 1"),
        ({"score": np.array([0.5, 0.5, 1, 0.5])}, "score: expected probabilities above 0 and below 1, got 1.0 .*"),
    ],
)
def test_bad_columns(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        hidden_confounding(**{**TABLE, **change})


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1.5, 0.5), "eta_y: expected a share from 0 to 1, got 1.5"),
        ((0.5, 1.0), "eta_d: expected a finite number of at least 0 and below 1, got 1.0"),
        ((0.5, 0.5, 2), "rho: expected a share from 0 to 1, got 2"),
    ],
)
def test_bad_strengths(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        FOUND.bounds(*shares)


@pytest.mark.parametrize("features", [["age"], [], ["x1", "x2"]])
def test_bad_benchmarks(features: list[str]) -> None:
    data = TreatmentData(np.zeros((60, 2)), drawn(0)["t"], drawn(0)["y"][:, None])
    with pytest.raises(
        ValueError, match=r"^leave_out: expected some, but not all, of the features x1, x2, got .* for it$"
    ):
        confounding_benchmarks(data, linear, {"it": features})
