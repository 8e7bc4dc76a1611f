"""What an exported model computes, written once: each format gives its own meaning to the operations."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .forest import Forest
from .plan import Encoder, Joined, Layer, Margin, Nets, Plan

Value = Any  # an array while JAX traces, or the name of a value in a graph; both know + - * / and &


class Operations(Protocol):
    """What a format has to offer besides the signs of arithmetic; the names are numpy's where numpy has them."""

    def astype(self, value: Value, dtype: np.dtype) -> Value:
        """Converts to another dtype."""
        ...

    def expand_dims(self, value: Value, axis: int) -> Value:
        """Adds an axis of length 1."""
        ...

    def squeeze(self, value: Value, axis: int) -> Value:
        """Takes away an axis of length 1."""
        ...

    def concatenate(self, values: Sequence[Value]) -> Value:
        """Joins matrices side by side."""
        ...

    def take(self, value: Value, columns: np.ndarray) -> Value:
        """Picks columns of a matrix, at places that are known."""
        ...

    def lookup(self, table: np.ndarray, places: Value) -> Value:
        """Picks entries of a table that is known, at places that are computed."""
        ...

    def locate(self, value: Value, ends: Sequence[np.ndarray], starts: np.ndarray) -> Value:
        """Counts for each column how many of its ends are not above the value, and adds the column's start."""
        ...

    def forest(self, value: Value, forest: Forest) -> Value:
        """Runs trees over the rows of a matrix [rows, features], and returns [rows]."""
        ...

    def matmul(self, value: Value, other: np.ndarray) -> Value:
        """Multiplies matrices."""
        ...

    def activation(self, name: str, value: Value) -> Value:
        """Applies an activation of `ACTIVATIONS`."""
        ...

    def exp(self, value: Value) -> Value:
        """Raises e to a power."""
        ...

    def sqrt(self, value: Value) -> Value:
        """Takes the square root."""
        ...

    def clip(self, value: Value, low: float, high: float) -> Value:
        """Moves what lies outside to the nearest bound."""
        ...

    def mean(self, value: Value, axis: int) -> Value:
        """Averages along an axis."""
        ...

    def all_finite(self, value: Value, axis: int) -> Value:
        """Says whether all numbers along an axis are finite."""
        ...

    def where(self, condition: Value, value: Value, other: float) -> Value:
        """Returns the value where the condition holds, and a number elsewhere."""
        ...


def run(ops: Operations, plan: Plan, x: Value) -> dict[str, Value]:
    """Returns outcomes, effects and the ends of intervals by name, each [rows], in the unit of the table.

    A row with a number that the nets cannot take, or whose outcome is not finite, gets NaN everywhere.

    Args:
        ops: of a format.
        plan: of a model.
        x: features in the unit of the table [rows, features], in float64.
    """
    columns = encode(ops, plan.encoder, x)
    by_member, finite = _net_outcomes(ops, plan, columns)
    outcomes = [ops.mean(outcome, 0) for outcome in by_member]
    if plan.joined is not None:
        outcomes = _join(ops, plan, plan.joined, x, outcomes)
    effect = outcomes[1] - outcomes[0]
    found = {**{f"y{arm}": outcome for arm, outcome in enumerate(outcomes)}, "effect": effect}
    if plan.margin is not None:
        margin = _margin(ops, plan.margin, by_member[1] - by_member[0], len(plan.nets.heads[0][0][0]))
        found |= {"low": effect - margin, "high": effect + margin}
    return {name: ops.where(finite, value, np.nan) for name, value in found.items()}


def encode(ops: Operations, encoder: Encoder, x: Value) -> Value:
    """Returns the nets' columns [rows, columns], in float64."""
    parts = [(x - encoder.mean) / encoder.std]
    if len(encoder.ranked):
        ranked = ops.take(parts[0], encoder.ranked)
        line = ops.locate(ranked, encoder.values, encoder.starts)
        away = ranked - ops.lookup(encoder.line_x, line)
        parts.append(ops.lookup(encoder.line_y, line) + ops.lookup(encoder.slope, line) * away)
    if len(encoder.piece_of):
        risen = (ops.take(ops.concatenate(parts), encoder.piece_of) - encoder.low) / encoder.width
        parts.append(ops.clip(risen, 0.0, 1.0))
    return ops.take(ops.concatenate(parts), encoder.order) if len(parts) > 1 else parts[0]


def _net_outcomes(ops: Operations, plan: Plan, columns: Value) -> tuple[list[Value], Value]:
    """Returns each arm's outcome by each net [members, rows] in the unit of the table, and which rows are finite."""
    nets = plan.nets
    narrowed = ops.astype(columns, nets.heads[0][0][0].dtype)
    finite = ops.all_finite(narrowed, 1)
    code = _layers(ops, nets, ops.expand_dims(narrowed, 0), nets.representation, nets.activation)
    outcomes = []
    for head in nets.heads:
        out = ops.squeeze(_layers(ops, nets, code, head, nets.final_activation), 2)
        finite = finite & ops.all_finite(out, 0)
        outcomes.append(_in_unit(ops, plan, ops.astype(out, np.dtype(np.float64))))
    return outcomes, finite


def _layers(ops: Operations, nets: Nets, value: Value, layers: Sequence[Layer], last: str) -> Value:
    for number, (kernel, bias) in enumerate(layers, start=1):
        value = ops.activation(last if number == len(layers) else nets.activation, ops.matmul(value, kernel) + bias)
    return value


def _in_unit(ops: Operations, plan: Plan, value: Value) -> Value:
    return _sigmoid(ops, value) if plan.binary else value * plan.std + plan.mean


def _sigmoid(ops: Operations, logit: Value) -> Value:
    return 1.0 / (ops.exp(-logit) + 1.0)


def _join(ops: Operations, plan: Plan, joined: Joined, x: Value, of_nets: list[Value]) -> list[Value]:
    """Returns both outcomes by nets and trees, as `Blend.join` does."""
    log_odds = ops.squeeze(ops.matmul(x, joined.slopes), 1) + joined.intercept
    score = ops.clip(_sigmoid(ops, log_odds), joined.nearest, 1 - joined.nearest)
    of_trees = [_in_unit(ops, plan, ops.forest(x, forest)) for forest in joined.outcomes]
    effect0, effect1 = (ops.forest(x, forest) for forest in joined.effects)
    crossed = (score * effect0 + (1.0 - score) * effect1) * plan.std
    each = of_nets[1] - of_nets[0], of_trees[1] - of_trees[0], crossed
    effect = _weighed(each, joined.of_effects)
    mu0, mu1 = (
        _weighed(both, weights) for *both, weights in zip(of_nets, of_trees, joined.of_outcomes, strict=True)
    )
    mean = (1.0 - score) * mu0 + score * mu1
    outcomes = [mean - score * effect, mean + (1.0 - score) * effect]
    return [ops.clip(outcome, 0.0, 1.0) for outcome in outcomes] if plan.binary else outcomes


def _weighed(values: Sequence[Value], weights: np.ndarray) -> Value:
    first, *rest = (value * float(weight) for value, weight in zip(values, weights, strict=True))
    return sum(rest, start=first)


def _margin(ops: Operations, margin: Margin, effects: Value, members: int) -> Value:
    apart = effects - ops.expand_dims(ops.mean(effects, 0), 0)
    variance = ops.mean(apart * apart, 0) * (members / (members - 1))
    return ops.sqrt(variance * margin.share + margin.more) * margin.factor
