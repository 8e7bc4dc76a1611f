"""The tables that categories are measured on, and the columns that somebody made by hand."""

from argparse import Namespace

import numpy as np
import pytest

import categories
from categories import as_they_are, by_hand, left_out, made_up, of_width
from flax_impl.effects import EffectSettings, prepare
from torch_ref.common.data.design import finite_tables


@pytest.mark.parametrize("kind", ["a part of its own", "bends what features do"])
def test_made_up_tables(kind: str) -> None:
    train, test = made_up(levels=12, rows=40, seed=0, kind=kind)
    assert (len(train), len(test)) == (480, 120)
    assert train.mu0 is not None
    assert train.mu1 is not None
    assert set(train.x[:, -1]) == set(range(12))
    moved = [(train.mu1 - train.mu0)[train.x[:, -1] == level].mean() for level in range(12)]
    assert np.std(moved) > 0.3  # levels move the effect
    naive = train.y[train.t == 1].mean() - train.y[train.t == 0].mean()
    assert naive > (train.mu1 - train.mu0).mean() + 0.1  # and the treatment


def test_columns_by_hand_are_the_designs_where_levels_are_few() -> None:
    tables = made_up(levels=12, rows=10, seed=0, kind="a part of its own")
    for found, expected in zip(by_hand(*tables), finite_tables(*tables), strict=True):
        np.testing.assert_array_equal(found.x, expected.x)
        assert found.feature_names == expected.feature_names
        assert found.columns is None
    assert left_out(*tables)[0].feature_names == ("x1", "x2", "x3", "x4", "x5")
    assert as_they_are(*tables) == tables


def test_widths_are_ours_again_afterwards() -> None:
    train, _ = made_up(levels=25, rows=4, seed=0, kind="a part of its own")
    settings = EffectSettings(members=1)
    prepared = prepare.prepare_alike([train], settings)[0]
    with of_width(3):
        assert prepare.net_config(prepared, settings)["embeddings"] == [(25, 3)]
    assert prepare.net_config(prepared, settings)["embeddings"] == [(25, 19)]
    assert [prepare.embedding_width(levels) for levels in (21, 200, 10_000)] == [18, 62, 64]


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(categories, "error", lambda tables, members: float(tables[0].x.shape[1]))
    lines: list[str] = []
    categories.measure(Namespace(levels=22, rows=2, seeds=1, members=2, widths=[4], replications=[]), lines.append)
    assert [line.split() for line in lines[2:6]] == [
        ["left", "out", "5.000", "5.000", "0.0"],
        ["columns", "of", "0", "and", "1,", "by", "hand", "26.000", "26.000", "0.0"],
        ["embedded,", "4", "wide", "6.000", "6.000", "0.0"],
        ["embedded,", "18", "wide", "(ours)", "6.000", "6.000", "0.0"],
    ]
