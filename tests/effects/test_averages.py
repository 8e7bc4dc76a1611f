"""Average effects: by hand, by property, and how often their intervals hold the truth."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import average_effects, pseudo_outcomes

T, Y = np.array([1, 0, 1, 0]), np.array([5.0, 1.0, 2.0, 4.0])
MU0, MU1, SCORE = np.array([1.0, 2.0, 0.0, 3.0]), np.array([3.0, 3.0, 2.0, 5.0]), np.array([0.5, 0.75, 0.25, 0.5])
TABLE: dict[str, Any] = {"t": T, "y": Y, "mu0": MU0, "mu1": MU1, "score": SCORE}
PSEUDO = np.array([6.0, 5.0, 2.0, 0.0])


def drawn(generator: np.random.Generator, rows: int) -> dict[str, Any]:
    """A table with its true nuisances: average effects of 1 on all, more on the treated."""
    x = generator.normal(size=rows)
    score = 1 / (1 + np.exp(-x))
    t = (generator.random(rows) < score).astype(int)
    return {"t": t, "y": x + t * (1 + x) + generator.normal(size=rows), "mu0": x, "mu1": 1 + 2 * x, "score": score}


def test_the_ate_by_hand() -> None:
    found = average_effects(**TABLE)
    assert found.ate.value == pytest.approx(13 / 4)
    assert found.ate.standard_error == pytest.approx(np.std(PSEUDO, ddof=1) / 2)
    assert found.ate.low == pytest.approx(13 / 4 - 1.959964 * np.std(PSEUDO, ddof=1) / 2)
    assert found.ate.high - found.ate.value == pytest.approx(found.ate.value - found.ate.low)
    assert (found.ate.rows, found.att.rows, found.atc.rows) == (4, 2, 2)
    assert (found.by, found.trimmed, found.lowest, found.highest) == (None, 0, 0.25, 0.75)


def test_att_and_atc_by_their_scores() -> None:
    found = average_effects(**TABLE)
    p, odds = 0.5, SCORE / (1 - SCORE)
    first = (T * (Y - MU0) - (1 - T) * odds * (Y - MU0)) / p
    assert found.att.value == pytest.approx(first.mean())
    assert found.att.standard_error == pytest.approx(np.std(first - T / p * found.att.value, ddof=1) / 2)
    second = ((T / odds * (Y - MU1)) - (1 - T) * (Y - MU1)) / (1 - p)
    assert found.atc.value == pytest.approx(second.mean())
    assert found.atc.standard_error == pytest.approx(np.std(second - (1 - T) / (1 - p) * found.atc.value, ddof=1) / 2)


def test_a_sample_leaves_out_how_the_effects_vary() -> None:
    found = average_effects(**TABLE, target="sample")
    assert found.ate.value == pytest.approx(13 / 4)
    assert found.ate.standard_error == pytest.approx(np.std(PSEUDO - (MU1 - MU0), ddof=1) / 2)
    exact = {**TABLE, "y": np.where(T == 1, MU1, MU0)}
    assert average_effects(**exact, target="sample").att.standard_error == pytest.approx(0)
    assert average_effects(**exact).ate.standard_error > 0.2


def test_weights_by_hand() -> None:
    w = np.array([1, 2, 1, 0])
    found = average_effects(**TABLE, w=w)
    assert found.ate.value == pytest.approx((6 + 10 + 2) / 4)
    errors = np.array([1.5, 2 * 0.5, -2.5]) / 4
    assert found.ate.standard_error == pytest.approx(np.sqrt(np.sum(errors**2) * 3 / 2))
    assert found.ate.rows == 3


def test_clusters_by_hand() -> None:
    found = average_effects(**TABLE, groups=["a", "b", "a", "b"])
    sums = np.array([6 + 2, 5 + 0]) - 2 * 13 / 4
    assert found.ate.standard_error == pytest.approx(np.sqrt(np.sum((sums / 4) ** 2) * 2))
    dates = np.array(["2020-01-01", "2020-01-02", "2020-01-01", "2020-01-02"], "datetime64[ns]")
    several: list[Any] = [[1, "b", 1, "b"], dates, pd.Series(["x", "y", "x", "y"], dtype="category")]
    for labels in [*several, [(1, 2), (3, 4), (1, 2), (3, 4)]]:
        assert average_effects(**TABLE, groups=labels) == found


def test_groups_by_hand() -> None:
    by = average_effects(**TABLE, by=np.array(["n", "m", "n", "m"])).by
    assert by is not None
    assert list(by) == ["m", "n"]
    assert (by["n"].value, by["m"].value, by["n"].rows) == (pytest.approx(4), pytest.approx(2.5), 2)
    assert by["n"].standard_error == pytest.approx(np.std([6, 2], ddof=1) / np.sqrt(2))
    alone = average_effects(**TABLE, by=[2, "x", 2, 2]).by
    assert alone is not None
    assert list(alone) == [2, "x"]
    assert np.isnan(alone["x"].standard_error)


def test_trimming_only_where_asked() -> None:
    found = average_effects(**TABLE, trim=0.3, by=["a", "b", "b", "a"])
    assert (found.trimmed, found.ate.rows, found.ate.value) == (2, 2, pytest.approx(3))
    assert found.by is not None
    assert list(found.by) == ["a"]
    sure = {**TABLE, "score": np.array([0.5, 0, 1, 0.5])}
    assert average_effects(**sure, trim=0.01).ate.value == pytest.approx(3)
    with pytest.raises(ValueError, match=r"^score: .* got 0.0 in row 1 \(2 in all\); leave such rows out, as trim"):
        average_effects(**sure)
    assert average_effects(**TABLE, trim=0.25).trimmed == 0


def test_it_prints_itself() -> None:
    text = str(average_effects(**TABLE, trim=0.3, by=["a", "b", "b", "a"], target="sample", alpha=0.1))
    lines = text.splitlines()
    assert "90% interval" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "all rows (ATE)",
        "treated (ATT)",
        "untreated (ATC)",
        "group a",
    ]
    assert lines[5:] == [
        "intervals speak of exactly these rows",
        "left out for their propensity: 2 rows",
        "propensities from 0.5 to 0.5",
    ]


def test_columns_of_large_numbers_stay_apart() -> None:
    generator = np.random.default_rng(0)
    t, y = np.arange(60) % 2, 1e9 * generator.normal(size=60)
    found = average_effects(t, y, mu0=np.zeros(60), mu1=np.zeros(60), score=np.full(60, 0.5))
    between = f"{found.ate.low:.4g} to {found.ate.high:.4g}"
    assert len(between) > 22  # the width of the column
    assert f"  {between}  " in str(found).splitlines()[1]


@examples(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5), st.sampled_from(["population", "sample"]))
def test_properties(seed: int, scale: float, shift: float, target: str) -> None:
    generator = np.random.default_rng(seed)
    table = drawn(generator, 60)
    order = generator.permutation(60)
    w = generator.integers(0, 3, 60)
    w[[np.argmax(table["t"]), np.argmin(table["t"])]] = 1
    found = average_effects(**table, w=w, target=target)
    assert found.ate.value == pytest.approx(np.average(pseudo_outcomes(**table), weights=w))
    # The ATE is the mean of the others, each by its share of the weights.
    shares = w[table["t"] == 1].sum() / w.sum(), w[table["t"] == 0].sum() / w.sum()
    assert found.ate.value == pytest.approx(shares[0] * found.att.value + shares[1] * found.atc.value)
    shuffled = {name: column[order] for name, column in table.items()}
    moved = average_effects(**shuffled, w=7.5 * w[order], groups=order, target=target)
    kept = average_effects(**{name: column[w > 0] for name, column in table.items()}, w=w[w > 0], target=target)
    units = {name: scale * table[name] + shift for name in ("y", "mu0", "mu1")}
    other = average_effects(**{**table, **units}, w=w, target=target)
    # Who is treated is a matter of names: the effects of the other arm are the negatives.
    turned = {"t": 1 - table["t"], "mu0": table["mu1"], "mu1": table["mu0"], "score": 1 - table["score"]}
    mirrored = average_effects(**{**table, **turned}, w=w, target=target)
    for name, opposite in (("ate", "ate"), ("att", "atc"), ("atc", "att")):
        one, same, less, unit = (getattr(result, name) for result in (found, moved, kept, other))
        mirror = getattr(mirrored, opposite)
        for again in (same, less):
            assert (again.value, again.standard_error) == pytest.approx((one.value, one.standard_error))
        assert unit.value == pytest.approx(scale * one.value, abs=1e-9)
        assert unit.standard_error == pytest.approx(scale * one.standard_error)
        assert (mirror.value, mirror.standard_error) == pytest.approx((-one.value, one.standard_error))


def test_intervals_hold_the_truth() -> None:
    """Of 400 tables: the true averages of the population, and of the sample by its narrower interval."""
    generator = np.random.default_rng(0)
    many = drawn(generator, 10**6)
    effect = many["mu1"] - many["mu0"]
    truths = {"ate": 1.0, "att": effect[many["t"] == 1].mean(), "atc": effect[many["t"] == 0].mean()}
    held = {(name, target): 0 for name in truths for target in ("population", "sample")}
    for _ in range(400):
        table = drawn(generator, 400)
        of_rows, t = table["mu1"] - table["mu0"], table["t"]
        here = {"ate": of_rows.mean(), "att": of_rows[t == 1].mean(), "atc": of_rows[t == 0].mean()}
        for target, true in (("population", truths), ("sample", here)):
            found = average_effects(**table, target=target)
            for name in true:
                one = getattr(found, name)
                held[name, target] += one.low <= true[name] <= one.high
    for name, count in held.items():
        assert 0.91 < count / 400 < 0.985, (name, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.array([1, 1, 1, 1])}, "t: expected rows of both arms, got none that are untreated"),
        ({"w": np.array([0, 1, 0, 1])}, "t: expected rows of both arms, got none that are treated"),
        ({"mu0": np.zeros(3)}, r"mu0: expected shape \[4\], got \[3\]"),
        ({"groups": ["a"] * 4}, "groups: expected rows of at least two clusters, got 4 rows of one"),
        ({"groups": ["a", None, "b", "c"]}, "groups: expected a label in every row, got None in row 1"),
        ({"by": np.array([1, np.nan, 1, 1])}, "by: expected a label in every row, got nan in row 1"),
        ({"by": [1, 2, 3]}, r"by: expected shape \[4\], got \[3\]"),
        ({"by": [{}, {}, {}, {}]}, "by: expected labels that a dict takes as keys, got unhashable type: 'dict'"),
        ({"by": [1, 2, 1, 1], "w": np.array([1, 0, 1, 1])}, "by: expected .* got a group without"),
        ({"trim": 0.5}, "trim: expected a finite number above 0 and below 0.5, got 0.5"),
        ({"trim": 0.4, "score": np.full(4, 0.2)}, "trim: expected some propensities from 0.4 to 0.6, got none"),
        ({"alpha": 0}, "alpha: expected a finite number above 0 and below 1, got 0"),
        ({"target": "all"}, "target: expected one of 'population', 'sample', got 'all'"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        average_effects(**{**TABLE, **change})
