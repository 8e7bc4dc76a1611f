"""Refutations: what each does to a table, by hand; that honest analyses pass, and planted faults do not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flax_impl.data import TreatmentData
from flax_impl.effects import EffectSettings, Refutation, average_by, cross_fit_nets, cross_fit_trees, refute
from flax_impl.effects.sensitivity.altered import (
    dummy_outcome,
    placebo_treatment,
    propensity_strata,
    random_common_cause,
    subset,
)
from flax_impl.effects.sensitivity.nuisances import Estimate
from refutation_level import (
    LINEAR,
    a_tenth_of_the_rows,
    confounded_by_the_last,
    last_column_only,
    level,
    no_adjustment,
    saw_the_rows,
    table,
    with_a_result,
)
from torch_ref.common.data.columns import Column


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_p_value_by_hand() -> None:
    found = Refutation("subset", 1.0, np.array([1.0, 3.0, 1.5, -1.1]), np.full(4, 1.0))
    assert found.outside == 2
    assert found.p_value == pytest.approx(1 - 0.95**4 - 4 * 0.05 * 0.95**3)
    assert found.accuses
    assert Refutation("subset", 1.0, np.ones(4), np.ones(4)).p_value == pytest.approx(1)


def test_no_p_value_is_below_its_level() -> None:
    """Where each draw is outside with probability alpha, a test accuses in at most alpha, however many draws."""
    for alpha in (0.01, 0.05, 0.2):
        for draws in (1, 3, 10, 20):
            ends = [np.repeat([9.0, 0.0], [outside, draws - outside]) for outside in range(draws + 1)]
            tests = [Refutation("subset", 0.0, values, np.ones(draws), alpha) for values in ends]
            accusing = [one.p_value for one in tests if one.accuses]
            assert max(accusing, default=0) <= alpha
            assert all(one.accuses for one in tests[-1:])


def test_a_placebo_stays_in_its_stratum() -> None:
    data = table(0)
    strata = propensity_strata(data, 5, seed=0)
    drawn = placebo_treatment(data, strata, generator())
    assert (drawn.t != data.t).any()
    for stratum in np.unique(strata):
        rows = strata == stratum
        assert drawn.t[rows].sum() == data.t[rows].sum()
        assert 0 < data.t[rows].mean() < 1
    shares = [data.t[strata == stratum].mean() for stratum in range(5)]
    assert shares[0] + 0.1 < shares[2] < shares[4] - 0.1  # strata of rising propensity
    assert (propensity_strata(data, 1, seed=0) == 0).all()


def test_strata_hold_both_arms_where_the_arms_hardly_overlap() -> None:
    data = table(0)
    x = data.x + 3 * data.t[:, None]
    strata = propensity_strata(replace(data, x=x), 5, seed=0)
    assert all(0 < data.t[strata == stratum].mean() < 1 for stratum in np.unique(strata))


def test_a_treatment_of_clusters_is_permuted_by_cluster() -> None:
    groups = np.repeat(np.arange(20), 5)
    data = TreatmentData(np.zeros((100, 1)), (groups < 8).astype(int), np.zeros((100, 1)), groups=groups)
    drawn = placebo_treatment(data, np.arange(100) % 2, generator())
    of_clusters = drawn.t.reshape(20, 5)
    assert (of_clusters == of_clusters[:, :1]).all()
    assert (drawn.t.sum(), (drawn.t != data.t).any()) == (40, True)


def test_a_dummy_outcome_keeps_what_the_features_do() -> None:
    data = table(0, rows=20_000)
    drawn = dummy_outcome(data, False, generator())
    weights = np.linalg.lstsq(np.column_stack([np.ones(20_000), data.x, data.t]), drawn.y[:, 0])[0]
    np.testing.assert_allclose(weights[-1], 0, atol=0.06)  # of the treatment: nothing
    np.testing.assert_allclose(weights[2:4], [1, 1], atol=0.05)
    assert no_adjustment(drawn)[0] > 0.5  # confounded as before
    binary = replace(data, y=(data.y > 0).astype(float))
    drawn = dummy_outcome(binary, True, generator())
    assert set(np.unique(drawn.y)) == {0, 1}
    assert no_adjustment(drawn)[0] > 0.1


def test_a_dummy_outcome_of_many_features_is_no_copy() -> None:
    """With more features than rows, residuals are left to shuffle."""
    data = TreatmentData(generator().normal(size=(50, 80)), np.arange(50) % 2, generator().normal(size=(50, 1)))
    assert np.abs(dummy_outcome(data, False, generator()).y - data.y).mean() > 0.01


def test_a_common_cause_is_one_more_column() -> None:
    data = replace(table(0), feature_names=("a", "b", "c", "d", "noise1"))
    drawn = random_common_cause(data, generator())
    assert drawn.feature_names == (*data.feature_names, "noise2")
    np.testing.assert_array_equal(drawn.x[:, :5], data.x)
    assert random_common_cause(table(0), generator()).feature_names == ()
    columns = tuple(Column(name) for name in data.feature_names)
    assert random_common_cause(replace(data, columns=columns), generator()).columns == (*columns, Column("noise2"))


def test_a_subset_has_its_share_of_both_arms() -> None:
    data = table(0)
    some, left_out = subset(data, 0.8, generator())
    assert left_out == pytest.approx(0.2, abs=0.005)
    assert some.t.sum() == round(0.8 * data.t.sum())
    groups = np.repeat(np.arange(20), 20)
    some, left_out = subset(replace(data, groups=groups), 0.8, generator())
    assert left_out == pytest.approx(0.2)
    assert some.groups is not None
    assert set(np.unique(some.groups, return_counts=True)[1]) == {20}  # whole clusters


def test_trees_take_gaps_and_categories() -> None:
    data = table(0)
    x = data.x.copy()
    x[::7, 0], x[:, 1] = np.nan, (x[:, 1] > 0).astype(float)
    columns = (Column("a", gaps=True), Column("b", levels=("no", "yes")), *(Column(name) for name in "cde"))
    found = cross_fit_trees(replace(data, x=x, columns=columns))
    assert np.isfinite([found.mu0, found.mu1, found.score]).all()
    assert np.corrcoef(np.where(data.t == 1, found.mu1, found.mu0), data.y[:, 0])[0, 1] > 0.6


def test_an_honest_analysis_passes() -> None:
    found = refute(table(0), LINEAR, progress=False)
    assert found.accused == ()
    assert [one.kind for one in found.found] == ["placebo", "dummy_outcome", "common_cause", "subset"]
    assert found.value == LINEAR(table(0))[0]
    assert [one.expected for one in found.found[:3]] == [0, 0, found.value]
    assert found.found[3].expected == pytest.approx(found.value, abs=4 * found.noise)  # the mean of several orders
    assert 0 < found.noise < found.standard_error / 2
    assert refute(table(0), LINEAR, kinds=["subset"], progress=False).found[0].values.tolist() == (
        found.found[3].values.tolist()  # whatever else is asked for
    )
    text = str(found).splitlines()
    assert [line.split("  ")[0] for line in text[2:6]] == [
        "placebo treatment", "dummy outcome", "random common cause", "subset of the rows",
    ]  # fmt: skip
    assert text[-1] == "none of them sees a hidden confounder, nor a feature that the treatment changed"


@pytest.mark.parametrize(
    ("analysis", "draw", "seen"),
    [
        (no_adjustment, table, {"dummy_outcome"}),
        (saw_the_rows, table, {"dummy_outcome", "subset"}),
        (a_tenth_of_the_rows, table, {"placebo", "dummy_outcome", "subset"}),
        (last_column_only, confounded_by_the_last, {"common_cause"}),
    ],
)
def test_planted_faults_are_accused(analysis: Estimate, draw: Any, seen: set[str]) -> None:
    found = refute(draw(0), analysis, progress=False)
    assert set(found.accused) >= seen
    assert "REFUTED" in str(found)


def test_a_placebo_within_strata_is_confounded_by_them() -> None:
    """Who does not adjust finds effects of it, unlike of one that is permuted wholly."""
    for strata, accused in ((1, ()), (5, ("placebo",))):
        found = refute(table(0), no_adjustment, kinds=["placebo"], strata=strata, progress=False)
        assert found.accused == accused
        assert np.isnan(found.noise)
        assert "another order" not in str(found)


def test_what_no_refutation_sees() -> None:
    """A feature that the treatment changed hides half of the effect, and nothing accuses."""
    found = refute(with_a_result(0), LINEAR, progress=False)
    assert found.accused == ()
    assert found.value < 2  # the effect is 3


@pytest.mark.slow
def test_honest_analyses_are_accused_in_few_tables() -> None:
    """Of 200 tables; `scripts/refutation_level.py` takes more."""
    found = level(LINEAR, table, 200, 5)
    assert all(found[kind] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200) for kind in ("placebo", "dummy_outcome", "subset"))
    assert found["common_cause"] == 0


def test_nets_are_an_analysis() -> None:
    small = EffectSettings(representation_features=[4], head_features=[4], members=5, steps=30)
    value, error = average_by(lambda data: cross_fit_nets(data, small))(table(0))
    assert abs(value - 1) < 6 * error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ["placebo", "bootstrap"]}, "kinds: expected one of 'placebo', .*, got 'bootstrap'"),
        ({"kinds": []}, "kinds: expected at least one refutation, got none"),
        ({"draws": 0}, "draws: expected .*, got 0"),
        ({"share": 1.0}, "share: expected a finite number above 0 and below 1, got 1.0"),
        ({"alpha": 0}, "alpha: expected a finite number above 0 and below 1, got 0"),
        ({"estimate": lambda data: (np.nan, 1.0)}, r"estimate: expected a finite average effect .*, got \(nan, 1.0\)"),
        ({"data": replace(table(0), t=np.zeros(400, int))}, "t: expected at least 20 rows of each arm, got 0"),
        ({"data": replace(table(0), t=np.arange(400) % 3)}, "t: expected 0 or 1 in every row, got 2 in row 2 .*"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"data": table(0), "estimate": LINEAR} | change
    with pytest.raises(ValueError, match=f"^{message}$"):
        refute(arguments.pop("data"), progress=False, **arguments)
