"""The level of refutations: the strength of the planted confounder, and that the bounds at that strength hold."""

import json
from pathlib import Path

import numpy as np
import pytest

from refutation_level import confounded, hold, linear, true_strength
from tests.support.commands import run


def test_the_planted_confounder_is_as_strong_as_it_says() -> None:
    """Told from a large table with the confounder drawn again beside it, not by the integrals."""
    generator, rows = np.random.default_rng(0), 400_000
    x, hidden = generator.normal(size=rows), generator.choice([-1.0, 1.0], rows)
    score = 1 / (1 + np.exp(-0.5 * x))
    knowing = score * (1 + 0.5 * hidden * (1 - score))
    t = generator.random(rows) < knowing
    left = hidden - np.where(t, 0.5 * (1 - score), -0.5 * score)  # of it, once feature and treatment are known
    eta_y, eta_d = true_strength()
    assert eta_y == pytest.approx(np.mean(left**2) / (1 + np.mean(left**2)), abs=0.003)
    assert eta_d == pytest.approx(
        1 - np.mean(1 / (score * (1 - score))) / np.mean(1 / (knowing * (1 - knowing))), abs=0.003
    )
    odds = knowing / (1 - knowing) / (score / (1 - score))
    assert 1 / 2 <= odds.min() < odds.max() <= 2


def test_the_planted_confounder_biases_the_estimate() -> None:
    columns = linear(confounded(0, rows=40_000))
    effect = columns.mu1 - columns.mu0
    assert effect.mean() == pytest.approx(1.5, abs=0.05)


def test_bounds_at_the_true_strength_hold_and_at_half_do_not() -> None:
    found = hold(100)["held"]
    assert found["explains the true one"][1] >= 0.95
    assert found["explains half of both"][1] < 0.3
    assert found["explains none"][1] == 0
    assert found["odds, the true one"][1] >= 0.95


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    done = run(
        "refutation_level.py", "--tables", "3", "--tree-tables", "1", "--fault-tables", "1", "--json", "r.json",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["level"].keys() >= {"honest: linear", "no adjustment"}
    assert found["confounder"]["tables"] == 3
