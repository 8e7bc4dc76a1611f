"""Faults are planted in copies of the port: the harness finds each, says where it is, and names it."""

import json
from pathlib import Path

import pytest

from tests.support.faults import ROOT, Fault, kill, load_faults, matrix_table, plant

FAULTS = load_faults()
RESULTS = ROOT / "docs" / "parity"


# Two in the quick suite; the slow tests, and the kill matrix's command, plant the others too.
QUICK = ("ELU with alpha 0.5", "dampening ignored")
PLANTED = [
    pytest.param(fault, marks=[] if fault.title in QUICK else [pytest.mark.slow], id=fault.title) for fault in FAULTS
]


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    found = kill(fault)
    assert found.caught
    assert found.localised, str(found.report.first_divergence)
    assert found.named, [str(finding) for finding in found.report.diagnosis]
    assert found.report.diagnosis[0].certain


def test_there_are_enough_and_each_is_another() -> None:
    assert len(FAULTS) >= 40
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)
    assert {fault.group for fault in FAULTS} == {"data", "weights", "forward", "loss", "backward", "optimiser"}


def test_every_fault_finds_the_text_that_it_changes() -> None:
    """Also those that the quick suite does not plant."""
    assert [fault.title for fault in FAULTS if fault.old not in (ROOT / fault.file).read_text()] == []


def test_the_committed_table_is_of_these_faults() -> None:
    """`parity.py --kill-matrix --json docs/parity/kill_matrix.json > docs/parity/kill_matrix.txt` writes both again."""
    rows = json.loads((RESULTS / "kill_matrix.json").read_text())
    assert [row["fault"] for row in rows] == [fault.title for fault in FAULTS]
    assert (RESULTS / "kill_matrix.txt").read_text() == matrix_table(rows) + "\n"
    assert all(row["caught"] and row["localised"] and not row["misnamed"] for row in rows)


def test_a_fault_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    fault = Fault("moved on", "flax_impl/models/layers.py", "no such text", "", "forward", "", ())
    with pytest.raises(ValueError, match=r"moved on: expected 'no such text' in .*layers\.py, found none"):
        plant(fault, tmp_path)
