"""Progress: silent while short, a bar on a terminal, plain lines elsewhere."""

import io
import sys
from typing import Any

import numpy as np
import pytest

import flax_impl
import torch_ref
from torch_ref.common import progress


class Screen(io.StringIO):
    """Standard error that is a terminal, or is not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def run(monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: bool = True, hurry: bool = True) -> str:
    """Returns what 20 steps leave on the screen, as if each took long unless there is no hurry."""
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    if hurry:
        for name in ("_BAR_AFTER", "_BAR_EVERY", "_LINE_EVERY"):
            monkeypatch.setattr(progress, name, 0.0)
    with progress.Progress(20, shown) as report:
        for step in range(20):
            losses: Any = np.array([0.5, 0.25])  # a row of losses is neither true nor false
            report(step + 1, losses)
    return screen.getvalue()


def test_a_short_training_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, terminal=True, hurry=False).strip() == ""
    assert run(monkeypatch, terminal=False, hurry=False) == ""


def test_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(monkeypatch, terminal=False).splitlines()
    assert len(lines) == 20
    assert lines[-1].startswith("step 20 of 20, ")
    assert lines[-1].endswith("loss 0.5 + 0.25")


def test_a_bar_reaches_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = run(monkeypatch, terminal=True)
    assert "20/20" in screen
    assert "loss 0.5 + 0.25" in screen


def test_other_work_has_other_units_and_may_not_know_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    with progress.Progress(None, unit="value") as report:
        report(7)
    assert screen.getvalue().startswith("value 7, ")
    assert screen.getvalue().endswith(" values/s\n")


def test_silence_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        assert run(monkeypatch, terminal, shown=False) == ""


@pytest.mark.parametrize("package", [torch_ref, flax_impl])
def test_both_fits_report(monkeypatch: pytest.MonkeyPatch, package: object) -> None:
    """The reference after each step, the port after each slice of its compiled loop."""
    seen: list[tuple[int, int]] = []

    class Spy(progress.Progress):
        def __call__(self, step: int, losses: object = ()) -> None:
            seen.append((step, len(list(losses))))  # pyright: ignore[reportArgumentType]

    data = torch_ref.data.synthetic(rows=30).arrays()
    if package is torch_ref:
        monkeypatch.setattr("torch_ref.training.fit.Progress", Spy)
        torch_ref.fit(torch_ref.TwoHead(10, [4], [4]), data, steps=250, batch_size=10)
        assert seen == [(step, 2) for step in range(1, 251)]
    else:
        monkeypatch.setattr("flax_impl.training.fit.Progress", Spy)
        model = flax_impl.TwoHead(10, [4], [4])
        flax_impl.fit(model, model.init_params(), data, steps=250, batch_size=10)
        assert seen == sorted(seen)
        assert len(seen) > 3
        assert seen[-1] == (250, 2)
