"""The page that a manager can read: what stands on it, and that nothing on it runs."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
from flax_impl.commands.train import main
from flax_impl.data import TreatmentData, synthetic
from flax_impl.effects import EffectModel, EffectPage, EffectSettings, effect_page, fit_effects
from flax_impl.effects.learners.training_record import TrainingRecord
from flax_impl.effects.page.markup import picture, table, text
from flax_impl.effects.plots import figure
from flax_impl.effects.report import EffectReport, PairEffects

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

SMALL = EffectSettings(representation_features=(8,), head_features=(8,), members=5, epochs=10, bins=0, bootstrap=True)
NAMES = ("age", "<script>alert(1)</script>", "b&b", '"quoted"')


@pytest.fixture(scope="module")
def data() -> TreatmentData:
    return replace(synthetic(rows=300, features=4), feature_names=NAMES)


@pytest.fixture(scope="module")
def model(data: TreatmentData) -> EffectModel:
    return fit_effects(data, SMALL, progress=False)


@pytest.fixture(scope="module")
def page(model: EffectModel, data: TreatmentData) -> EffectPage:
    return effect_page(model, data, outcome="days <b>", treatment="drug", refutations=False, progress=False)


def titles(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_the_average_effect_comes_first(page: EffectPage) -> None:
    first, *others = titles(page.html)
    assert first == "The average effect"
    assert others == [
        "Warnings",
        "Who gains",
        "Can the arms be compared?",
        "Could it be something else?",
        "How it was made",
    ]
    averages = page.findings.report.pair().averages
    assert averages is not None
    for number in (averages.ate.value, averages.ate.low, averages.ate.high):
        assert f"{abs(number):.4g}" in page.html.split("<h2>Warnings")[0]


def test_nothing_on_it_runs_or_is_fetched(page: EffectPage) -> None:
    assert "<script" not in page.html
    assert "days &lt;b&gt;" in page.html
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page.html)
    assert "default-src 'none'" in page.html


def test_pictures_have_words(page: EffectPage) -> None:
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,', page.html)) >= 6


def test_what_stands_on_it_is_what_was_found(page: EffectPage) -> None:
    [one] = page.findings.pairs
    assert page.findings.tree is not None
    assert text(str(page.findings.tree)) in page.html
    assert one.hidden is not None
    assert text(str(one.hidden)) in page.html
    assert one.groups is not None
    assert sum(found.rows for found in one.groups.effects) == 300
    assert one.balance is not None
    assert one.balance.names == NAMES


def test_a_notebook_shows_it_in_a_frame(page: EffectPage) -> None:
    shown = page._repr_html_()
    assert shown.startswith('<iframe srcdoc="')
    assert '"' not in shown.removeprefix('<iframe srcdoc="').split('" style=')[0]


def test_it_is_written(page: EffectPage, tmp_path: Path) -> None:
    page.save(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == page.html


def test_less_may_be_better(model: EffectModel, data: TreatmentData, page: EffectPage) -> None:
    other = effect_page(model, data, less_is_better=True, refutations=False, progress=False)
    assert "Smaller values of the outcome count as better" in other.html
    first, second = page.findings.policy, other.findings.policy
    assert first is not None
    assert second is not None
    assert first.shares[1] > second.shares[1]  # most effects are above 0


def test_doubts_are_warnings(model: EffectModel, data: TreatmentData) -> None:
    few = data.take(np.flatnonzero((data.t == 0) | (np.cumsum(data.t) <= 10)))
    found = effect_page(fit_effects_quietly(few), few, refutations=False, progress=False)
    assert any("only 10 of" in sentence for sentence in found.warnings)
    assert text(found.warnings[0]) in found.html
    assert found.findings.tree is None


def fit_effects_quietly(data: TreatmentData) -> EffectModel:
    with pytest.warns(UserWarning, match="only 10 of"):
        return fit_effects(data, replace(SMALL, epochs=2), progress=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:score. weights too uneven")
def test_refutations_stand_on_it() -> None:
    data = synthetic(rows=200, features=4)
    made = fit_effects(data, replace(SMALL, epochs=2), progress=False)
    found = effect_page(made, data, progress=False)
    assert "placebo treatment" in found.html
    assert found.findings.pairs[0].refutations is not None


@pytest.mark.slow
def test_several_arms() -> None:
    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(600, 3)), np.arange(600) % 3
    y = x[:, :1] + np.array([0, 1, 3])[t][:, None] + 0.3 * generator.normal(size=(600, 1))
    data = TreatmentData(x, t.astype(np.int32), y, arms=("none", "low", "high"))
    found = effect_page(fit_effects(data, SMALL, progress=False), data, progress=False)
    assert "low against none raises the outcome" in found.html
    assert "high against none raises the outcome" in found.html
    assert len(found.findings.pairs) == 2


@pytest.mark.slow
def test_the_command_writes_it(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--data", "synthetic", "--out", str(tmp_path / "out"), "--members", "2", "--epochs", "2"]
    arguments += ["--representation-features", "4", "--head-features", "4", "--report", str(tmp_path / "page.html")]
    assert main(arguments) == 0
    assert "page.html" in capsys.readouterr().out
    assert titles((tmp_path / "page.html").read_text())[0] == "The average effect"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--less-is-better"], "--less-is-better: expected with --report, got it alone"),
        (["--backend", "torch", "--report", "x.html"], "--report: expected with --backend flax, got torch"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], error: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert error in capsys.readouterr().err


def test_a_report_that_cannot_be_drawn_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["--data", "synthetic", "--out", str(tmp_path / "out"), "--report", str(tmp_path / "page.html")]) == 2
    assert "plots need matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no page today")

    monkeypatch.setattr(flax_impl.effects, "effect_page", fail)
    arguments = ["--data", "synthetic", "--out", str(tmp_path), "--members", "1", "--epochs", "1", "--no-intervals"]
    arguments += ["--representation-features", "4", "--head-features", "4", "--report", str(tmp_path / "page.html")]
    assert main(arguments) == 2
    assert "no page today" in capsys.readouterr().err
    assert {"effects.csv", "model.safetensors", "summary.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_pieces_escape_what_they_hold() -> None:
    assert table(["<a>"], [["<b>", "<c>"]]).count("&lt;") == 3
    assert picture(figure(1, 1), 'a "picture"').startswith('<figure><img alt="a &quot;picture&quot;"')


def test_an_arm_with_one_outcome_has_no_share_to_explain() -> None:
    t, y, rows = np.array([0, 1, 0, 1]), np.ones(4), np.arange(4)
    pair = PairEffects(0, 1, np.zeros(4), None, None, 0.0, None, np.zeros(4))
    record = TrainingRecord(losses=np.ones((1, 3, 1)), held_out=None)
    report = EffectReport((0, 1), t, y, np.ones((2, 4)), rows, y, None, record, False, (pair,))
    assert "nan" not in str(report)
    assert "-           -" in str(report)
