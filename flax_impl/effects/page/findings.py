"""Looks at a trained model from all sides that a page shows: who gains, overlap, balance, what could be hidden."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import finite_tables
from torch_ref.common.data.treatment_data import TreatmentData

from ..decisions.group_effects import GroupEffects, group_effects
from ..decisions.group_features import GroupFeatures, group_features
from ..decisions.importance import Importance, effect_importance
from ..decisions.policy import PolicyValue
from ..decisions.policy_tree import PolicyTree, judged_tree, policy_tree
from ..effect_model import EffectModel
from ..judging.balance import Balance, covariate_balance
from ..judging.columns import code_labels
from ..judging.scores import arm_outcomes
from ..learners.contrast import take_pair
from ..learners.cross_fit import CrossFit
from ..overlap import FEW_ROWS, feature_names
from ..report import EffectReport, PairEffects
from ..sensitivity.benchmarks import confounding_benchmarks
from ..sensitivity.hidden import HiddenConfounding, hidden_confounding
from ..sensitivity.marginal import tipping_odds_ratio
from ..sensitivity.refute import KINDS, Refutations, refute

_BENCHMARKS = 5  # features, those that move the effect most and those that lie farthest apart
_LOOKED_AT = 500  # rows, to tell which features move the effect
_FEWEST_CLUSTERS = 10  # with rows of an arm, below which a part of them may lack the arm
_FOLDS = 5  # of the rows that trees are judged on
_ALPHA = 0.05  # the share of honest analyses that a page may accuse


@dataclass(frozen=True)
class PairFindings:
    """What a page shows of one arm against another.

    Args:
        pair: the effects.
        groups: the effects in groups of rising estimate; None where all estimates are alike, or rows are too few.
        features: in what the first and the last group differ; None without groups.
        importance: which features move the estimate.
        balance: how far the arms' mean features lie apart; None without propensities.
        hidden: how strong a hidden confounder would have to be; None where there are no averages.
        odds_ratio: by what factor it would have to move the odds of treatment; None likewise.
        refutations: what boosted trees find where the answer is known; None where it was not asked for, or where rows
            or clusters are too few. All of a page together accuse an honest analysis in at most 5% of tables.
    """

    pair: PairEffects
    groups: GroupEffects | None
    features: GroupFeatures | None
    importance: Importance
    balance: Balance | None
    hidden: HiddenConfounding | None
    odds_ratio: float | None
    refutations: Refutations | None


@dataclass(frozen=True)
class Findings:
    """What a page shows of a model.

    Args:
        report: of the model on its table.
        pairs: what was found of each arm against the first.
        tree: who should get which arm, in a few questions; None where rows are too few.
        policy: what such trees are worth, each row judged by one that did not see it; None likewise.
    """

    report: EffectReport
    pairs: tuple[PairFindings, ...]
    tree: PolicyTree | None
    policy: PolicyValue | None


def look(
    model: EffectModel,
    data: TreatmentData,
    report: EffectReport,
    *,
    less_is_better: bool = False,
    refutations: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Findings:
    """Returns what a page shows of a model on the table that it was trained on.

    Args:
        model: the model.
        data: the table.
        report: of the model on the table.
        less_is_better: whether a smaller outcome is the better one, for the tree.
        refutations: whether to put the analysis to tables whose answer is known: the longest part.
        seed: of all that is drawn.
        progress: shows a bar, or plain lines, once it takes long.
    """
    columns: Sequence[str | Column] = data.columns or feature_names(data)
    found = report.cross_fit
    enough = found is not None and np.bincount(found.t, minlength=len(data.arms)).min() >= FEW_ROWS
    tree = policy = None
    if found is not None and enough:
        x, outcomes = data.x[found.rows], arm_outcomes(found.t, found.y, found.mu, found.score)
        outcomes = -outcomes if less_is_better else outcomes
        settings = {"columns": columns, "arms": data.arms, "w": found.w, "min_leaf": max(20, len(x) // 50)}
        tree = policy_tree(x, outcomes, **settings)
        folds = _FOLDS if found.groups is None else min(_FOLDS, count_clusters(found.groups))
        policy = judged_tree(x, outcomes, groups=found.groups, folds=folds, seed=seed, **settings)
    pairs = tuple(
        _look_at(model, data, report, pair, found if enough else None, columns, refutations, seed, progress)
        for pair in report.against_first()
    )
    return Findings(report, pairs, tree, policy)


def _look_at(
    model: EffectModel,
    data: TreatmentData,
    report: EffectReport,
    pair: PairEffects,
    found: CrossFit | None,
    columns: Sequence[str | Column],
    refutations: bool,
    seed: int,
    progress: bool,
) -> PairFindings:
    labels = {"control": data.arms[pair.control], "treatment": data.arms[pair.treatment]}
    importance = effect_importance(
        lambda x: model.effect(x, **labels),
        data.x,
        columns=columns,
        rows=_LOOKED_AT,
        repeats=3,
        seed=seed,
        w=data.w,
    )
    balance = None
    if report.score is not None:
        [finite] = finite_tables(data)
        places = (pair.control, pair.treatment)
        balance = covariate_balance(finite.x, data.t, report.score, feature_names(finite), places, data.w)
    if found is None:
        return PairFindings(pair, None, None, importance, balance, None, None, None)
    contrast = found.contrast(**labels)
    groups = features = None
    if np.ptp(contrast.effect if contrast.w is None else contrast.effect[contrast.w > 0]) > 0:
        groups = group_effects(contrast.effect, contrast.pseudo_outcomes(), w=contrast.w, groups=contrast.groups)
        if len(groups.effects) > 1:
            shared = {"w": contrast.w, "groups": contrast.groups, "columns": columns}
            features = group_features(data.x[found.rows], groups.quantile, **shared)
    two = take_pair(data, **labels)
    strongest = dict.fromkeys(_strongest(importance, balance, feature_names(data)))
    many = two.groups is None or all(
        count_clusters(np.asarray(two.groups)[two.t == arm]) >= _FEWEST_CLUSTERS for arm in (0, 1)
    )
    benchmarks = ()
    if many and len(columns) > 1:
        benchmarks = confounding_benchmarks(two, leave_out={name: [name] for name in strongest})
    names = ("t", "y", "mu0", "mu1", "score", "score0", "w", "groups")
    held_out: dict[str, Any] = {name: getattr(contrast, name) for name in names}
    hidden = hidden_confounding(**held_out, benchmarks=benchmarks)
    odds_ratio = tipping_odds_ratio(**held_out)
    refuted = None
    if refutations and many:
        alpha = _ALPHA / len(KINDS) / len(report.against_first())
        refuted = refute(two, binary=report.binary, alpha=alpha, seed=seed, progress=progress)
    return PairFindings(pair, groups, features, importance, balance, hidden, odds_ratio, refuted)


def count_clusters(groups: Shaped[np.ndarray, " rows"]) -> int:
    """Returns how many clusters there are."""
    return len(code_labels("groups", groups, len(groups))[0])


def _strongest(importance: Importance, balance: Balance | None, names: Sequence[str]) -> list[str]:
    """Returns the features that move the effect most, and those in which the arms differ most."""
    found = [importance.names[i] for i in importance.order[:_BENCHMARKS]]
    if balance is not None:
        unlike = [balance.names[i] for i in np.argsort(-np.abs(balance.before))[:_BENCHMARKS]]
        found += [name for name in unlike if name in names]
    return found
