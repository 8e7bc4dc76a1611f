"""What an exported model computes, written once: each format gives its own meaning to the operations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .operations import FormatOperations, Value
from .plan import Encoder, Joined, Layer, Margin, Nets, Opener, Plan

_FLOAT64 = np.dtype(np.float64)


class Opened(NamedTuple):
    """Features as numbers.

    Attributes:
        finite: for trees and propensities [rows, columns].
        numbers: for nets, before they are encoded [rows, net].
        told: 1 where these say something, 0 where they stand for what training had not [rows, net]; or None.
        codes: of the categories that nets embed, from 0 on for an unseen level [rows] each.
        allowed: whether categories have codes that training knew [rows]; or None.
    """

    finite: Value
    numbers: Value
    told: Value | None = None
    codes: Sequence[Value] = ()
    allowed: Value | None = None


def run(ops: FormatOperations, plan: Plan, x: Value) -> dict[str, Value]:
    """Returns outcomes, effects and the ends of intervals by name, each [rows], in the unit of the table.

    A row with a number that the nets cannot take, or whose outcome is not finite, gets NaN everywhere.

    Args:
        ops: of a format.
        plan: of a model.
        x: features in the unit of the table [rows, features], in float64; a category is its code.
    """
    opened = Opened(x, x) if plan.opener is None else open_features(ops, plan.opener, x)
    columns = encode(ops, plan.encoder, opened)
    by_member, finite = _net_outcomes(ops, plan, columns, opened.codes)
    finite = finite if opened.allowed is None else finite & opened.allowed
    outcomes = [ops.mean(outcome, 0) for outcome in by_member]
    if plan.joined is not None:
        outcomes = _join(ops, plan, plan.joined, opened.finite, outcomes)
    effects = [outcome - outcomes[0] for outcome in outcomes[1:]]
    found = dict(zip((*plan.names.outcomes, *plan.names.effects), (*outcomes, *effects), strict=True))
    for number, margin in enumerate(plan.margins or ()):
        half = _margin(ops, margin, by_member[number + 1] - by_member[0], plan.nets.members)
        low, high = plan.names.ends[number]
        found |= {low: effects[number] - half, high: effects[number] + half}
    return {name: ops.where(finite, value, np.nan) for name, value in found.items()}


def open_features(ops: FormatOperations, opener: Opener, x: Value) -> Opened:
    """Returns features with gaps and categories as numbers, as `Design` does."""
    given = ops.take(x, opener.source)
    is_gap = ops.is_nan(given)
    gap = ops.astype(is_gap, _FLOAT64)
    mark = ops.astype(ops.equal(given, opener.level), _FLOAT64)
    if opener.siblings is not None:
        mark = mark + (1.0 - gap - ops.matmul(mark, opener.siblings)) * opener.is_other
    mark = mark + gap * opener.is_gap
    there = (1.0 - gap) * opener.is_value.astype(float)
    known = ops.matmul(mark * opener.seen + there, opener.feature_of)
    told = ops.where(opener.is_value, there, ops.take(known, opener.source))
    # A gap where training had none stays NaN, and with it the row.
    value = ops.where(opener.is_value, ops.where(is_gap & opener.may_lack, 0.0, given), mark)
    entries = value * told + (1.0 - told) * opener.mean
    codes = []
    for feature, gap_code in zip(opener.embedded, opener.gap_codes, strict=True):
        code = ops.squeeze(ops.take(x, np.array([feature])), 1)
        codes.append(ops.astype(ops.where(ops.is_nan(code), gap_code, code) + 1.0, np.dtype(np.int64)))
    finite, numbers, told = (
        ops.take(value, places)
        for value, places in ((entries, opener.columns), (entries, opener.for_nets), (told, opener.for_nets))
    )
    return Opened(finite, numbers, told, codes, _allowed(ops, opener, x))


def _allowed(ops: FormatOperations, opener: Opener, x: Value) -> Value | None:
    if not len(opener.categories):
        return None
    code = ops.take(x, opener.categories)
    nearest = ops.minimum(ops.maximum(ops.floor(code), np.full_like(opener.highest, -1)), opener.highest)
    return ops.all(ops.equal(code, nearest) | ops.is_nan(code), 1)


def encode(ops: FormatOperations, encoder: Encoder, opened: Opened) -> Value:
    """Returns the nets' columns [rows, columns], in float64, those of codes left out; see `Encoding`."""
    parts = [(opened.numbers - encoder.mean) / encoder.std]
    if len(encoder.ranked):
        ranked = ops.take(parts[0], encoder.ranked)
        line = ops.locate(ranked, encoder.values, encoder.starts)
        away = ranked - ops.lookup(encoder.line_x, line)
        parts.append(ops.lookup(encoder.line_y, line) + ops.lookup(encoder.slope, line) * away)
    if len(encoder.piece_of):
        risen = (ops.take(ops.concatenate(parts), encoder.piece_of) - encoder.low) / encoder.width
        parts.append(ops.clip(risen, 0.0, 1.0))
    columns = ops.take(ops.concatenate(parts), encoder.order) if len(parts) > 1 else parts[0]
    return columns if opened.told is None else columns * ops.take(opened.told, encoder.column_of)


def _net_outcomes(
    ops: FormatOperations, plan: Plan, columns: Value, codes: Sequence[Value]
) -> tuple[list[Value], Value]:
    """Returns each arm's outcome by each net [members, rows] in the unit of the table, and which rows are finite."""
    nets = plan.nets
    narrowed = ops.astype(columns, nets.dtype)
    finite = ops.all(ops.is_finite(narrowed), 1)
    embedded = [ops.rows(table, code) for table, code in zip(nets.tables, codes, strict=True)]
    code = _layers(ops, nets, [ops.expand_dims(narrowed, 0), *embedded], nets.representation, nets.activation)
    outcomes = []
    for head in nets.heads:
        [out] = _layers(ops, nets, code, head, nets.final_activation)
        out = ops.squeeze(out, 2)
        finite = finite & ops.all(ops.is_finite(out), 0)
        outcomes.append(_in_unit(ops, plan, ops.astype(out, _FLOAT64)))
    return outcomes, finite


def _layers(ops: FormatOperations, nets: Nets, values: list[Value], layers: Sequence[Layer], last: str) -> list[Value]:
    """Returns what comes after some layers; the first of a net takes its input in parts."""
    for number, (kernels, bias) in enumerate(layers, start=1):
        products = [ops.matmul(value, kernel) for value, kernel in zip(values, kernels, strict=True)]
        values = [ops.activation(last if number == len(layers) else nets.activation, _sum(products) + bias)]
    return values


def _in_unit(ops: FormatOperations, plan: Plan, value: Value) -> Value:
    return _sigmoid(ops, value) if plan.binary else value * plan.std + plan.mean


def _sigmoid(ops: FormatOperations, logit: Value) -> Value:
    return 1.0 / (ops.exp(-logit) + 1.0)


def _join(ops: FormatOperations, plan: Plan, joined: Joined, x: Value, of_nets: list[Value]) -> list[Value]:
    """Returns the outcomes by nets and trees, as `Blend.join` does."""
    scores = _scores(ops, joined, x)
    of_trees = [_in_unit(ops, plan, ops.forest(x, forest)) for forest in joined.of_outcomes]
    gained: list[Value] = [0.0]
    for arm, (by_first, by_own) in enumerate(joined.of_effects, start=1):
        share = scores[arm] / (scores[0] + scores[arm])
        crossed = (share * ops.forest(x, by_first) + (1.0 - share) * ops.forest(x, by_own)) * plan.std
        each = [of_nets[arm] - of_nets[0], of_trees[arm] - of_trees[0], crossed]
        gained.append(_weighed(each, joined.effect_weights[arm - 1]))
    left = [
        _weighed(both, weights) - of_arm
        for *both, weights, of_arm in zip(of_nets, of_trees, joined.outcome_weights, gained, strict=True)
    ]
    mean = _sum([score * value for score, value in zip(scores, left, strict=True)]) / _sum(scores)
    outcomes = [mean + of_arm for of_arm in gained]
    return [ops.clip(outcome, 0.0, 1.0) for outcome in outcomes] if plan.binary else outcomes


def _scores(ops: FormatOperations, joined: Joined, x: Value) -> list[Value]:
    """Returns each arm's propensity [rows], as `logistic_scores` does."""
    odds = ops.matmul(x, joined.slopes) + joined.intercepts
    logits = [ops.squeeze(ops.take(odds, np.array([arm])), 1) for arm in range(joined.slopes.shape[1])]
    if len(logits) == 1:
        score = ops.clip(_sigmoid(ops, logits[0]), joined.nearest, 1 - joined.nearest)
        return [1.0 - score, score]
    highest = logits[0]
    for logit in logits[1:]:
        highest = ops.maximum(highest, logit)
    shares = [ops.exp(logit - highest) for logit in logits]
    total = _sum(shares)
    return [ops.clip(share / total, joined.nearest, 1 - joined.nearest) for share in shares]


def _weighed(values: Sequence[Value], weights: np.ndarray) -> Value:
    return _sum([value * float(weight) for value, weight in zip(values, weights, strict=True)])


def _sum(values: Sequence[Value]) -> Value:
    first, *rest = values
    return sum(rest, start=first)


def _margin(ops: FormatOperations, margin: Margin, effects: Value, members: int) -> Value:
    apart = effects - ops.expand_dims(ops.mean(effects, 0), 0)
    variance = ops.mean(apart * apart, 0) * (members / (members - 1))
    return ops.sqrt(variance * margin.share + margin.more) * margin.factor
