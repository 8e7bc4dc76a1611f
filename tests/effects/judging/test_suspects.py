"""Marks for gaps and identifiers among numbers: found where planted, and not in columns of real tables."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.data import load_data
from flax_impl.effects import EffectSettings, fit_effects
from flax_impl.effects.judging.suspects import gap_marks, is_identifier
from flax_impl.effects.overlap import examine
from flax_impl.effects.page import sections
from tests.support.tables import table
from torch_ref.common.data.columns import Column

MARKS = "far from all other values, as marks for gaps are: {}; if they are, leave those cells empty"
IDENTIFIERS = "another whole number in every row, as identifiers have: {}; if they are, leave them out (ignore)"


def measured(name: str, generator: np.random.Generator, rows: int) -> np.ndarray:
    """Columns as tables have them."""
    return {
        "age": generator.integers(18, 100, rows),
        "income, with zeros": np.round(generator.lognormal(10, 1, rows)) * (generator.random(rows) > 0.3),
        "income, without": np.round(generator.lognormal(10, 1, rows)),
        "salary": np.round(generator.normal(30_000, 8_000, rows)),
        "year of birth": generator.integers(1930, 2005, rows),
        "a year in each row": 1850 + np.arange(rows) % 250,
        "count": generator.poisson(3, rows),
        "truth value": generator.integers(0, 2, rows),
        "percentage": generator.integers(0, 101, rows),
        "inhabitants": np.round(generator.lognormal(9, 2, rows)),
        "grams": np.round(generator.normal(3400, 500, rows)),
        "temperature": np.round(generator.normal(10, 12, rows), 1),
        "blood": generator.gamma(2, 3, rows),
        "change": generator.integers(-2000, 2000, rows),
        "price": 999 + 500 * generator.integers(0, 9, rows),
        "heavy tails": generator.standard_cauchy(rows),
    }[name].astype(float)


NAMES = (
    "age", "income, with zeros", "income, without", "salary", "year of birth", "a year in each row", "count",
    "truth value", "percentage", "inhabitants", "grams", "temperature", "blood", "change", "price", "heavy tails",
)  # fmt: skip


@examples(max_examples=150)
@given(st.integers(0, 2**31 - 1), st.sampled_from(NAMES), st.sampled_from([30, 150, 1000]))
def test_what_is_measured_is_no_suspect(seed: int, name: str, rows: int) -> None:
    column = measured(name, np.random.default_rng(seed), rows)
    assert gap_marks(column) == {}
    if name != "a year in each row" or rows <= 250:
        assert not is_identifier(column)


@examples(max_examples=60)
@given(st.integers(0, 2**31 - 1), st.sampled_from(["age", "count", "blood", "temperature"]), st.booleans())
def test_planted_marks_are_found(seed: int, name: str, gaps: bool) -> None:
    generator = np.random.default_rng(seed)
    column = measured(name, generator, 200)
    if gaps:
        column[150:] = np.nan
    for mark in (-999.0, -9999.0, 9999.0, 999999.0):
        marked = column.copy()
        marked[[3, 50, 120]] = mark
        assert gap_marks(marked) == {mark: 3}
        marked[[50, 120]] = column[[50, 120]]
        assert gap_marks(marked) == {}  # a single one may be a slip


def test_marks_by_hand() -> None:
    ages = [31.0, 52.0, 44.0, 31.0]
    assert gap_marks(np.array([*ages, 998, 998, 999, 999, 999])) == {998: 2, 999: 3}
    assert gap_marks(np.array([*ages, -9999, -9999, 999, 999])) == {-9999: 2, 999: 2}
    assert gap_marks(np.array([*ages, 99, 99])) == {99: 2}
    assert gap_marks(np.array([*ages, 90.0, 12.0, 99, 99])) == {}  # no farther than ages are from each other
    assert gap_marks(np.array([0, 200_000, -999.0, -999.0])) == {-999: 2}  # nothing else is below 0
    assert gap_marks(np.array([-5, 200_000, -999.0, -999.0])) == {}
    assert gap_marks(np.array([0.0, 0.0, 999.0, 999.0])) == {}  # a dose, perhaps
    assert gap_marks(np.full(5, np.nan)) == {}


def test_identifiers_by_hand() -> None:
    generator = np.random.default_rng(0)
    for found in (
        np.arange(20.0), np.arange(30.0)[::-1] + 1, np.arange(30.0) + 7, generator.permutation(500) + 1.0,
        generator.choice(2000, 1000, replace=False) + 5000.0,  # every other
        np.arange(200) // 20 * 1000.0 + np.arange(200) % 20,  # by site
        generator.choice(90_000_000, 400, replace=False) + 1e7,  # drawn
    ):  # fmt: skip
        assert is_identifier(found)
    for other in (
        np.arange(19.0), np.arange(20.0) / 2, np.append(np.arange(199.0), 5),
        np.append(np.arange(199.0), np.nan), np.arange(200.0) + 1800, np.arange(200.0) ** 2,
    ):  # fmt: skip
        assert not is_identifier(other)


def test_training_and_page_say_it_and_change_nothing() -> None:
    data = table(rows=120, treated=60, feature_names=("age", "patient", "income"))
    data.x[:, 1], data.x[:4, 0] = np.random.default_rng(0).permutation(120) + 1, -999
    data.y[5:8] = 99999
    before = data.x.copy()
    expected = [MARKS.format("-999 in age (4 rows), 99999 in the outcome (3 rows)"), IDENTIFIERS.format("patient")]
    assert examine(data) == expected
    with pytest.warns(UserWarning, match="far from all|another whole") as said:
        fit_effects(
            data, EffectSettings(representation_features=(4,), head_features=(4,), members=2, steps=2), progress=False
        )
    assert [str(warning.message) for warning in said] == expected
    np.testing.assert_array_equal(data.x, before)
    findings: Any = SimpleNamespace(report=SimpleNamespace(doubts=list), pairs=())
    assert sections.warnings_of(findings, data) == expected


def test_a_mark_among_the_arms() -> None:
    marked = replace(table(90), t=np.arange(90) % 3, arms=(-999, 0, 1))
    assert examine(marked) == [MARKS.format("-999 in the treatment (30 rows)")]
    assert examine(replace(marked, arms=(2, 0, 1))) == []
    assert not [said for said in examine(replace(marked, arms=("-999", "0", "1"))) if "marks" in said]


def test_codes_of_categories_are_none() -> None:
    levels = tuple(range(120))
    data = table(rows=120)
    data.x[:, 0] = np.random.default_rng(0).permutation(120)
    columns = (Column("code", levels), Column("b"), Column("c"))
    assert not [said for said in examine(replace(data, columns=columns)) if "identifiers" in said]
    assert examine(data) == [IDENTIFIERS.format("x1")]


def test_real_tables_have_none() -> None:
    """ACIC 2016, whose columns all instances share, and IHDP where it is there; outcomes too."""
    pytest.importorskip("causallib")
    tables = [load_data(f"acic2016:{number}") for number in (1, 7)]
    if os.environ.get("TWOHEAD_IHDP"):
        tables += [load_data(path) for path in sorted(Path(os.environ["TWOHEAD_IHDP"]).glob("*.csv"))]
    looked_at = 0
    for data in tables:
        columns = [*data.x.T, *data.y.T, *([] if data.mu0 is None else data.mu0.T)]
        looked_at += len(columns)
        assert not [column for column in columns if gap_marks(column) or is_identifier(column)]
        assert not [said for said in examine(data) if "marks for gaps" in said or "identifiers" in said]
    assert looked_at >= 100


def test_nhefs_has_an_identifier_and_no_marks() -> None:
    """Quit smoking: only the numbers of the people are no measure."""
    folder = Path(pytest.importorskip("causallib").__file__).parent / "datasets" / "data" / "nhefs"
    lines: Any = np.genfromtxt(folder / "NHEFS.csv", delimiter=",", names=True)
    assert len(lines.dtype.names) > 50
    for name in lines.dtype.names:
        assert gap_marks(lines[name]) == {}, name
        assert is_identifier(lines[name]) == (name == "seqn"), name
