"""The marginal sensitivity model: by hand, against a search over all weights, by property; and E-values."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import average_effects, e_value, marginal_bounds, tipping_odds_ratio

HALF = np.full(4, 0.5)
TABLE: dict[str, Any] = {
    "t": np.array([0, 1, 0, 1]), "y": np.array([1.0, 3.0, 2.0, 5.0]), "mu0": np.full(4, 1.5), "mu1": np.full(4, 4.0),
    "score": HALF,
}  # fmt: skip


def drawn(seed: int, rows: int = 60, binary: bool = False) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    score = 1 / (1 + np.exp(-x / 2))
    t = (generator.random(rows) < score).astype(int)
    t[:2] = 0, 1
    mu0, mu1 = (x, 1 + 2 * x) if not binary else (1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-x - 1)))
    mean = np.where(t == 1, mu1, mu0)
    y = (generator.random(rows) < mean).astype(float) if binary else mean + generator.normal(size=rows)
    return {"t": t, "y": y, "mu0": mu0, "mu1": mu1, "score": score}


def test_by_hand() -> None:
    """Two treated rows with residuals -1 and 1, two untreated with -0.5 and 0.5; each stands for one more."""
    found = marginal_bounds(**TABLE, odds_ratio=3.0)
    # The lower residual counts 1/3 and the higher 5/3, whose mean is 1: 2/3 of the higher one, on half the rows.
    assert (found.y1.low, found.y1.high) == (pytest.approx(4 - 1 / 3), pytest.approx(4 + 1 / 3))
    assert (found.y0.low, found.y0.high) == (pytest.approx(1.5 - 1 / 6), pytest.approx(1.5 + 1 / 6))
    assert (found.ate.low, found.ate.high) == (pytest.approx(2.5 - 0.5), pytest.approx(2.5 + 0.5))


@pytest.mark.parametrize("odds_ratio", [1.5, 2.0, 3.0])
def test_no_weights_go_beyond(odds_ratio: float) -> None:
    """Without features, all weights from 1 / Lambda to Lambda with the right mean: tried one after the other."""
    y = np.array([0.0, 1.0, 4.0, 6.0, 7.0, 9.0])
    rows, mean = 12, y.mean()
    t = np.arange(rows) % 2
    table = {"t": t, "y": np.repeat(y, 2), "mu0": np.full(rows, mean), "mu1": np.full(rows, mean)}
    found = marginal_bounds(**table, score=np.full(rows, 0.5), odds_ratio=odds_ratio)
    best = -math.inf
    for free in range(6):  # at a corner, all but one weight are at an end
        for ends in product((1 / odds_ratio, odds_ratio), repeat=5):
            rest = 6 - sum(ends)
            if 1 / odds_ratio - 1e-12 <= rest <= odds_ratio + 1e-12:
                best = max(best, float(np.insert(ends, free, rest) @ y) / 6)
    assert found.y1.high == pytest.approx((mean + best) / 2)  # half the rows are seen as they are


@pytest.mark.parametrize("odds_ratio", [1.5, 4.0])
def test_a_binary_outcome_by_its_probabilities(odds_ratio: float) -> None:
    """Expectations that are exact: a share p of 1s can become as large as the odds allow, and no larger than 1."""
    p, rows = 0.4, 20
    t = np.repeat([0, 1], rows // 2)
    y = np.tile(np.arange(10) < 10 * p, 2).astype(float)
    found = marginal_bounds(t, y, np.full(20, p), np.full(20, p), np.full(20, 0.5), odds_ratio=odds_ratio)
    most = min(p * odds_ratio, 1 - (1 - p) / odds_ratio)
    least = max(p / odds_ratio, 1 - (1 - p) * odds_ratio)
    assert (found.y1.low, found.y1.high) == (pytest.approx((p + least) / 2), pytest.approx((p + most) / 2))
    assert found.y0.high == pytest.approx(found.y1.high)


@examples(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.floats(1, 20), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, binary: bool, odds_ratio: float, scale: float, shift: float) -> None:
    generator, rows = np.random.default_rng(seed), drawn(seed, binary=binary)
    w, groups = generator.integers(1, 4, 60), generator.integers(0, 12, 60)
    ate = average_effects(**rows, w=w, groups=groups).ate
    none = marginal_bounds(**rows, odds_ratio=1.0, w=w, groups=groups).ate
    assert (none.low, none.high) == (pytest.approx(ate.value), pytest.approx(ate.value))
    assert (none.interval_low, none.interval_high) == (pytest.approx(ate.low), pytest.approx(ate.high))
    found = marginal_bounds(**rows, odds_ratio=odds_ratio, w=w, groups=groups)
    turned = {"t": 1 - rows["t"], "mu0": rows["mu1"], "mu1": rows["mu0"], "score": 1 - rows["score"]}
    mirrored = marginal_bounds(**{**rows, **turned}, odds_ratio=odds_ratio, w=w, groups=groups)
    assert mirrored.ate.interval_low == pytest.approx(-found.ate.interval_high, abs=1e-9)
    assert (mirrored.y0.low, mirrored.y0.high) == (pytest.approx(found.y1.low), pytest.approx(found.y1.high))
    if binary:
        return
    wider = marginal_bounds(**rows, odds_ratio=1.3 * odds_ratio, w=w, groups=groups)
    for name in ("y0", "y1", "ate"):
        ends, more = getattr(found, name), getattr(wider, name)
        assert more.low - 1e-9 <= ends.low <= ends.high + 1e-9 <= more.high + 2e-9
    units = {name: scale * rows[name] + shift for name in ("y", "mu0", "mu1")}
    other = marginal_bounds(**{**rows, **units}, odds_ratio=odds_ratio, w=w, groups=groups)
    assert other.ate.interval_low == pytest.approx(scale * found.ate.interval_low, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("interval", [False, True])
def test_the_tipping_point_brings_the_end_to_0(sign: int, interval: bool) -> None:
    rows = drawn(0, rows=400)
    rows |= {name: sign * rows[name] for name in ("y", "mu0", "mu1")}
    found = tipping_odds_ratio(**rows, interval=interval)
    ends = marginal_bounds(**rows, odds_ratio=found).ate
    nearer = ("interval_" if interval else "") + ("low" if sign > 0 else "high")
    assert 1 < found < 20
    assert getattr(ends, nearer) == pytest.approx(0, abs=1e-3)
    assert tipping_odds_ratio(**rows, interval=True) <= tipping_odds_ratio(**rows)


def test_no_tipping_point() -> None:
    exact: dict[str, Any] = TABLE | {"y": np.where(TABLE["t"] == 1, 4.0, 1.5)}
    assert tipping_odds_ratio(**exact) == math.inf  # no residual that other rows could have
    none: dict[str, Any] = TABLE | {"mu1": np.full(4, 1.5), "y": np.array([1.0, 1.0, 2.0, 2.0])}
    assert tipping_odds_ratio(**none) == 1


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"^odds_ratio: expected a finite number of at least 1, got 0.5$"):
        marginal_bounds(**TABLE, odds_ratio=0.5)
    with pytest.raises(ValueError, match=r"^t: expected rows of both arms, got none that are treated$"):
        marginal_bounds(**{**TABLE, "t": np.zeros(4, int)})
    with pytest.raises(ValueError, match=r"^alpha: expected"):
        tipping_odds_ratio(**TABLE, alpha=2.0)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 3.9, 0.25])
def test_the_e_value_is_what_a_confounder_needs(ratio: float) -> None:
    """A confounder that goes with both by the E-value biases a ratio of risks by exactly that ratio."""
    found = e_value(ratio)
    assert found**2 / (2 * found - 1) == pytest.approx(max(ratio, 1 / ratio))
    with pytest.raises(ValueError, match=r"^risk_ratio: expected a finite number above 0, got 0$"):
        e_value(0)
