"""`scripts/parity.py --kill-matrix`, which hands over to `scripts/kill_matrix.py`."""

from pathlib import Path

import pytest

import kill_matrix
import parity
from tests.support import faults
from tests.support.commands import call, fails


@pytest.mark.slow
def test_the_flag_plants_the_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = faults.load_faults()[0]
    monkeypatch.setattr(faults, "load_faults", lambda: [first])
    arguments = ("--kill-matrix", "--json", "k.json", "--html", "k.html")
    assert call(parity.main, *arguments, folder=tmp_path) == 0
    assert "1 faults: 1 caught, 1 localised, 1 named by the first diagnosis" in capsys.readouterr().out
    assert first.title in (tmp_path / "k.json").read_text()
    assert (tmp_path / "k.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("given", [["--record", "a"], ["--steps", "3"]])
def test_other_options_do_not_go_with_it(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fails(parity.main, ["--kill-matrix", *given], tmp_path, f"error: unrecognized arguments: {given[0]}", capsys)


def test_it_exits_with_1_where_a_fault_goes_unnoticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unnoticed: dict[str, object] = {
        "fault": "none",
        "caught": False,
        "localised": False,
        "named": False,
        "misnamed": False,
    }

    class Kill:
        report = None

        def to_json(self) -> dict[str, object]:
            return unnoticed | {"first_divergence": ""}

    monkeypatch.setattr(faults, "kill", lambda fault: Kill())
    monkeypatch.setattr(faults, "load_faults", lambda: [None])
    assert call(kill_matrix.main, folder=tmp_path) == 1
    assert "1 faults: 0 caught" in capsys.readouterr().out
