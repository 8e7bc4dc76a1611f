"""The comparison of trainings on files and in memory, on a tiny table."""

from pathlib import Path

import pytest

import large_tables


@pytest.mark.slow
def test_the_table_that_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(large_tables, "OUT", tmp_path / "table.txt")
    monkeypatch.setattr(large_tables, "GROUP", 500)
    chosen = ["--gigabytes", "0.001", "--part", "3000", "--rounds", "1", "--memory", "6", "--folder", str(tmp_path)]
    assert large_tables.main(chosen) == 0
    text = (tmp_path / "table.txt").read_text()
    assert text == capsys.readouterr().out
    assert "rows of 27 columns in groups of 500" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["torch", "flax"]
    assert [path.name for path in tmp_path.iterdir()] == ["table.txt"]  # the folder is gone
