"""Finds the best small tree of yes-or-no questions: exactly, among all trees of a depth over the questions given.

All sums that a tree of depth 2 needs are entries of one product: `asked.T @ (gain * asked)` holds, for each pair of
questions, the gain of the rows that say yes to both. The other three corners are differences from the margins.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np
from jaxtyping import Bool, Float

_PART = 8192  # rows that are multiplied at a time
_MOST = 2**22  # pairs of questions that are looked at together
Sums = np.ndarray  # [1 + treatments, ...]: how many rows, and what each treatment would bring them


class Plan(NamedTuple):
    """A question and what follows from its answers; None stands for a leaf.

    Attributes:
        question: its place among the questions.
        yes: what follows for rows that say yes.
        no: for those that say no.
    """

    question: int
    yes: Optional["Plan"] = None
    no: Optional["Plan"] = None


class _Limits(NamedTuple):
    least: int  # rows in a leaf
    tie: float  # two values as near as this are alike: rounding alone makes such differences


def best_plan(
    asked: Bool[np.ndarray, "rows questions"],
    gains: Float[np.ndarray, "treatments rows"],
    starts: Bool[np.ndarray, " questions"],
    *,
    depth: int,
    least: int,
) -> Plan | None:
    """Returns the tree whose leaves gain most when each gets its best arm; of equally good ones the smallest.

    Args:
        asked: whether each row says yes to each question [rows, questions].
        gains: what each arm brings each row beyond the control [treatments, rows], whose gain is 0.
        starts: whether a question is the first of a chain [questions]; in a chain, who says yes to one says yes to the
            next, too.
        depth: of the tree, from 1 to 3.
        least: the fewest rows in a leaf.
    """
    rows, questions = asked.shape
    if not questions:
        return None
    limits = _Limits(least, 1e-10 * float(np.abs(gains).sum()))
    values = np.concatenate([np.ones((1, rows)), gains])
    total = values.sum(axis=1)
    yes = _among(values, asked)
    if depth == 1:
        _, question = _split(yes[:, None], total[:, None], limits)
        return _leafy(int(question[0]))
    if depth == 2:
        return _pair(lambda block: _both(values, asked[:, block], asked), yes, total, limits)[1]
    whole = _both(values, asked, asked)
    found = []
    inside = np.zeros_like(whole)
    for question in range(questions):
        new = asked[:, question] if starts[question] else asked[:, question] & ~asked[:, question - 1]
        # The rows that say yes grow along a chain, so that each row is multiplied once for it.
        joined = _both(values[:, new], asked[new], asked[new])
        inside = joined if starts[question] else inside + joined
        found.append(_triple(inside, whole, yes, total, question, limits))
    scores = np.array([score for score, _ in found])
    best = _simplest(scores, np.array([_size(plan) for _, plan in found]), limits)
    return found[best][1] if scores[best] > _best_arm(total) + limits.tie else None


def _triple(
    inside: Sums, whole: Sums, yes: Sums, total: Sums, question: int, limits: _Limits
) -> tuple[float, Plan | None]:
    """Returns the best value below one root question, and its plan."""
    here = yes[:, question]
    if here[0] < limits.least or total[0] - here[0] < limits.least:
        return -np.inf, None
    of_yes = np.einsum("cii->ci", inside)
    yes_value, yes_plan = _pair(lambda block: inside[:, block], of_yes, here, limits)
    no_value, no_plan = _pair(lambda block: whole[:, block] - inside[:, block], yes - of_yes, total - here, limits)
    return yes_value + no_value, Plan(question, yes_plan, no_plan)


def _pair(both: Callable[[slice], Sums], yes: Sums, total: Sums, limits: _Limits) -> tuple[float, Plan | None]:
    """Returns the best value of a tree of depth 2, and its plan.

    `both` returns the sums of the rows that say yes to a question of a block and to another [sums, block, questions].
    """
    questions = yes.shape[1]
    step = max(1, _MOST // questions)
    values, below = [], []
    for start in range(0, questions, step):
        block = slice(start, start + step)
        inside = both(block)
        left, left_question = _split(inside, yes[:, block], limits)
        right, right_question = _split(yes[:, None] - inside, total[:, None] - yes[:, block], limits)
        values.append(left + right)
        below.append(np.stack([left_question, right_question]))
    value = np.where(_large_enough(yes[0], total[0], limits), np.concatenate(values), -np.inf)
    unsplit, of_answers = _best_arm(total), np.concatenate(below, axis=1)
    best = _simplest(value, (of_answers >= 0).sum(axis=0), limits)
    if not value[best] > unsplit + limits.tie:
        return float(unsplit), None
    left_question, right_question = of_answers[:, best].tolist()
    return float(value[best]), Plan(best, _leafy(left_question), _leafy(right_question))


def _simplest(value: np.ndarray, size: np.ndarray, limits: _Limits) -> int:
    """Returns the place of the best value; of those that are alike the one with the fewest questions, the first."""
    near = value >= value.max() - limits.tie
    return int(np.argmin(np.where(near, size, np.inf)))


def _size(plan: Plan | None) -> int:
    """Returns how many questions a plan has."""
    return 0 if plan is None else 1 + _size(plan.yes) + _size(plan.no)


def _split(inside: Sums, total: Sums, limits: _Limits) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best value of each node when it is asked one question at most, and which; -1 for none.

    Args:
        inside: the sums of the node's rows that say yes [sums, nodes, questions].
        total: the sums of all rows of the node [sums, nodes].
        limits: how small leaves may be, and what is alike.
    """
    value = _best_arm(inside)
    value += _best_arm(total[..., None] - inside)
    value[~_large_enough(inside[0], total[0, :, None], limits)] = -np.inf
    unsplit = _best_arm(total)
    question = np.argmax(value >= value.max(axis=1, keepdims=True) - limits.tie, axis=1)
    best = value[np.arange(len(value)), question]
    better = best > unsplit + limits.tie
    return np.where(better, best, unsplit), np.where(better, question, -1)


def _large_enough(yes: np.ndarray, total: np.ndarray, limits: _Limits) -> np.ndarray:
    return (yes >= limits.least) & (total - yes >= limits.least)


def _best_arm(sums: Sums) -> np.ndarray:
    """Returns what the best arm brings all rows of a sum, the control's 0 among them."""
    return np.maximum(sums[1:].max(axis=0), 0)


def _leafy(question: int) -> Plan | None:
    return None if question < 0 else Plan(question)


def _among(values: np.ndarray, asked: np.ndarray) -> Sums:
    """Returns the sums of the rows that say yes to each question [sums, questions]."""
    found = np.zeros((len(values), asked.shape[1]))
    for start in range(0, len(asked), _PART):
        part = slice(start, start + _PART)
        found += values[:, part] @ asked[part].astype(np.float64)
    return found


def _both(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> Sums:
    """Returns the sums of the rows that say yes to a question of each [sums, first, second]."""
    found = np.zeros((len(values), first.shape[1], second.shape[1]))
    for start in range(0, len(first), _PART):
        part = slice(start, start + _PART)
        left, right = first[part].astype(np.float64), second[part].astype(np.float64)
        for sums, value in zip(found, values[:, part], strict=True):
            sums += (left * value[:, None]).T @ right
    return found
