"""The coverage of the intervals: that the command measures it and writes it."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run


@pytest.mark.slow
def test_coverage(tmp_path: Path) -> None:
    done = run(
        "interval_coverage.py", "--cases", "plain:300", "heavy-tails:300", "--tables", "1", "--members", "3",
        "--json", "c.json", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["by_method"].keys() == {"bootstrap", "calibrated", "any", "independent"}
    assert all(0.5 < share <= 1 for share in found["by_method"].values())
    assert [of["kind"] for of in found["settings"]] == ["plain", "heavy-tails"]
