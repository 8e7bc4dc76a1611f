"""The made-up data of three arms, and the difference of means that a trial is held against."""

from pathlib import Path

import numpy as np
import pytest

import several_arms
from flax_impl.data import TreatmentData
from flax_impl.effects import EffectSettings
from several_arms import difference, known, made_up, main

TINY = EffectSettings(representation_features=(4,), head_features=(4,), members=5, epochs=2, bins=0)


def test_known_effects() -> None:
    data, mu = made_up(20_000, seed=0)
    assert data.arms == ("none", "low", "high")
    np.testing.assert_allclose(mu[1] - mu[0], 1)
    assert (mu[2] - mu[0]).mean() == pytest.approx(2, abs=0.03)
    assert np.bincount(data.t).min() > 3000
    own = mu[data.t, np.arange(20_000)]
    assert (data.y[:, 0] - own).std() == pytest.approx(1, abs=0.02)
    naive = data.y[data.t == 1].mean() - data.y[data.t == 0].mean()
    assert naive > 1.2  # who gets "low" would have had more without it


def test_difference_of_means_by_hand() -> None:
    y, t = np.array([1.0, 3, 5, 9, 100]), np.array([0, 0, 1, 1, 2])
    data = TreatmentData(np.zeros((5, 1)), t, y[:, None], arms=("a", "b", "c"))
    found = difference(data, 1).ate
    assert found.value == pytest.approx(5)
    assert found.rows == 4
    # Each arm's residuals over its share of the rows, and n / (n - 1): 2 (-1), 2 (1), 2 (-2), 2 (2) over 4 rows.
    assert found.standard_error == pytest.approx(np.sqrt((4 + 4 + 16 + 16) / 16 * 4 / 3))


@pytest.mark.slow
def test_a_line_for_each_method_and_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(several_arms, "METHODS", {"ours, nets": TINY})
    monkeypatch.setattr(several_arms, "_NETS", TINY)
    lines: list[str] = []
    known(lines.append, draws=1, rows=90)
    assert [line[:26].strip() for line in lines[2:]] == ["ours, nets"] * 3 + ["nets, two arms at a time"] * 3
    assert all(np.isfinite(float(line.split()[-3])) for line in lines[2:])
    arguments = ["--draws", "1", "--rows", "90", "--no-trials", "--out", str(tmp_path / "x.txt")]
    monkeypatch.setattr("sys.argv", ["several_arms.py", *arguments])
    assert main() == 0
    assert (tmp_path / "x.txt").read_text().startswith("three arms, 1 tables of 90 rows")
