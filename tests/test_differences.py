"""The table of differences: measured again it is as committed, what mends a row mends it, and a change is named."""

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

import differences
from differences import FACTS, RESULTS, SECTIONS, main, measure, page, table, with_table
from facts import Measured

COMMITTED = json.loads(RESULTS.read_text())
ROWS = [Measured(**row) for row in COMMITTED["rows"]]
BY_KEY = {row.key: row for row in ROWS}


@pytest.mark.parametrize("key", FACTS)
def test_row(key: str) -> None:
    """As committed; and where there is something to write in JAX instead, the difference is there and then is not."""
    row = measure(FACTS[key])
    assert asdict(row) == asdict(BY_KEY[key])
    assert row.then in ("", "same")
    if row.apart and row.then and key != "mean_of_no_rows":  # there both sides are mended
        assert (row.apart != "same") == bool(row.use)


def test_the_committed_pages_are_those_of_the_results() -> None:
    assert set(BY_KEY) == set(FACTS)
    assert {row.section for row in ROWS} == set(SECTIONS)
    assert differences.TABLE.read_text() == page(ROWS, COMMITTED["versions"])
    guide = differences.GUIDE.read_text()
    for section in SECTIONS:
        assert with_table(guide, section, table([row for row in ROWS if row.section == section])) == guide


def test_a_patched_epsilon_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As the next release of torch might bring it."""
    before = torch.nn.LayerNorm.__init__

    def patched(self: Any, shape: Any, eps: float = 1e-3, **settings: Any) -> None:
        before(self, shape, eps=eps, **settings)

    assert main(["--section", "layers"]) == 0
    assert "rows are as committed" in capsys.readouterr().out
    monkeypatch.setattr(torch.nn.LayerNorm, "__init__", patched)
    assert main(["--section", "layers"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "layer_norm_epsilon: torch: expected '1e-05', got '0.001'" in lines
    assert {line.partition(":")[0] for line in lines} == {"layer_norm_epsilon", "layer_norm_variance"}


def test_a_row_that_is_gone_or_new_is_named() -> None:
    committed = {row.key: asdict(row) for row in ROWS}
    assert differences.changes(ROWS, committed) == []
    assert differences.changes(ROWS[1:], committed) == [
        f"{ROWS[0].key}: expected no such row, found one in the committed table"
    ]
    del committed[ROWS[0].key]
    assert differences.changes(ROWS, committed) == [f"{ROWS[0].key}: expected in the committed table, found none"]


def test_other_versions_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(differences, "versions", lambda: COMMITTED["versions"] | {"flax": "99.0"})
    assert main(["--section", "modules"]) == 0
    assert "measured with" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"porting.md: expected the mark <!-- differences: layers -->"):
        with_table("", "layers", "")
