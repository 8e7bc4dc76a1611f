"""What a page looks at: clusters, weights and several arms, and that it accuses no more than it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flax_impl.data import TreatmentData
from flax_impl.effects import AverageEffect, EffectReport, EffectSettings, PolicyValue, fit_effects
from flax_impl.effects.decisions.policy_tree import Leaf, PolicyTree, Split
from flax_impl.effects.decisions.questions import Condition
from flax_impl.effects.page import findings as rooms
from flax_impl.effects.page.findings import Findings, look
from flax_impl.effects.page.sections import Words, _worth, doubts, gains, warnings_of
from torch_ref.common.data.columns import Column

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

SMALL = EffectSettings(representation_features=(8,), head_features=(8,), members=5, epochs=2, bins=0)


def table(arms: int = 2, rows: int = 150, **columns: Any) -> TreatmentData:
    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(rows, 2)), np.arange(rows) % arms
    y = x[:, :1] + t[:, None] + generator.normal(size=(rows, 1))
    return TreatmentData(x, t.astype(np.int32), y, **({"arms": tuple("abc")} if arms > 2 else {}), **columns)


def looked_at(data: TreatmentData, settings: EffectSettings = SMALL, refutations: bool = True) -> Findings:
    model = fit_effects(data, settings, progress=False)
    return look(model, data, EffectReport.of(model, data), refutations=refutations, progress=False)


@pytest.mark.slow
def test_all_refutations_of_a_page_share_its_level(monkeypatch: Any) -> None:
    asked = []
    monkeypatch.setattr(rooms, "refute", lambda *_, alpha, **__: asked.append(alpha))
    monkeypatch.setattr(rooms, "confounding_benchmarks", lambda *_, **__: ())
    looked_at(table(arms=3))
    assert asked == [pytest.approx(0.05 / 4 / 2)] * 2  # four kinds, two arms against the first


def test_few_clusters() -> None:
    data = table(groups=np.arange(150) // 50)
    found = looked_at(data)
    assert found.policy is not None  # judged on as many parts as there are clusters
    assert found.pairs[0].refutations is None
    assert "only 3 clusters: intervals from so few tend to be too narrow" in warnings_of(found, data)


def test_rows_without_weight_make_no_groups(monkeypatch: Any) -> None:
    monkeypatch.setattr(rooms, "confounding_benchmarks", lambda *_, **__: ())
    data = table(w=(np.arange(150) < 140).astype(float))
    model = fit_effects(data, SMALL, progress=False)
    unseen = model.cross_fit(data)
    alike = {"nets": np.where(unseen.w == 0, 1.0, 2.0)[None]}
    monkeypatch.setattr(type(model), "cross_fit", lambda *_: replace(unseen, effects=alike))
    found = look(model, data, EffectReport.of(model, data), refutations=False, progress=False)
    assert found.pairs[0].groups is None


def test_nothing_held_out_is_a_warning() -> None:
    data = table()
    found = looked_at(data, replace(SMALL, validation_share=0), refutations=False)
    assert any("how sure the effect is cannot be told" in sentence for sentence in warnings_of(found, data))
    for part in (gains, doubts):
        assert "too few rows were held out" in part(found, Words("days", "drug")).lower()


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, "are worth more than the same for all: they gain between 0.1 and 0.3 per row over drug = 1"),
        (-0.1, 0.3, "are worth more than the same for all is not shown"),
    ],
)
def test_whether_a_tree_is_worth_its_questions(low: float, high: float, words: str) -> None:
    gained = {
        0: AverageEffect(value=1.0, standard_error=0.1, low=0.8, high=1.2, rows=4),
        1: AverageEffect(value=(low + high) / 2, standard_error=0.1, low=low, high=high, rows=4),
    }
    policy = PolicyValue(gained[0], gained, None, {0: 0.5, 1: 0.5}, np.array([0, 0, 1, 1]))
    asked = Split(Condition(0, "at most", 0.5), Leaf(0, 2), Leaf(1, 2))
    tree = PolicyTree(asked, (Column("age"),), (0, 1))
    report: Any = type("Report", (), {"arms": (0, 1)})
    found = Findings(report, (), tree, policy)
    assert words in _worth(tree, policy, found, Words("days", "drug"))
    assert "the same for all is best" in _worth(replace(tree, root=Leaf(1, 4)), policy, found, Words("days", "drug"))


def test_a_ranking_is_judged_by_clusters() -> None:
    data = table()
    report = EffectReport.of(fit_effects(data, SMALL, progress=False), data)
    few = replace(data, groups=np.arange(150) // 50)
    assert report.pair().ranking is not None
    assert (
        EffectReport.of(fit_effects(few, SMALL, progress=False), few).pair().ranking is None
    )  # of three, none can tell
