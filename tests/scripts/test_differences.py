"""The table of differences: measured again it is as committed, what mends a row mends it, and a change is named."""

import json
from dataclasses import asdict
from typing import Any

import jax
import optax
import pytest
import torch

import differences
import torch_ref
from differences import FACTS, RESULTS, SECTIONS, main, measure, page, table, with_table
from facts import Measured

COMMITTED = json.loads(RESULTS.read_text())
ROWS = [Measured(**row) for row in COMMITTED["rows"]]
BY_KEY = {row.key: row for row in ROWS}


# The last places hang on how XLA compiles, which the quick suite changes; of the others it takes every third.
KEYS = [
    pytest.param(key, marks=pytest.mark.slow) if key == "last_places" or i % 3 else key for i, key in enumerate(FACTS)
]


@pytest.mark.parametrize("key", KEYS)
def test_row(key: str) -> None:
    """As committed; and where there is something to write in JAX instead, the difference is there and then is not."""
    row = measure(FACTS[key])
    assert asdict(row) == asdict(BY_KEY[key])
    assert row.then in ("", "same")
    if not row.use:
        assert row.apart in ("", "same")
    elif row.then:
        assert row.apart not in ("", "same")


@pytest.mark.parametrize("key", list(FACTS)[::14])
def test_a_row_is_measured_alone_as_among_others(key: str) -> None:
    assert measure(FACTS[key]) == measure(FACTS[key])


# What a row is about: where it fails, so does the row, or it would not measure it.
ABOUT = [
    ("batch_norm_momentum", torch.nn.functional, "batch_norm"),
    ("linear_weight_spread", torch.nn.init, "kaiming_uniform_"),
    ("mean_over_devices", jax, "device_put"),
    ("resumed_training", torch.optim.Optimizer, "load_state_dict"),
    ("one_cycle_schedule", optax, "join_schedules"),
    ("vectorized_trainings", torch_ref, "fit"),
    ("where_arrays_lie", jax, "device_put"),
]


@pytest.mark.parametrize(("key", "owner", "name"), ABOUT, ids=[key for key, _, _ in ABOUT])
def test_a_row_measures_what_it_is_about(key: str, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match=name):
        measure(FACTS[key])


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
