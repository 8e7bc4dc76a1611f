"""A policy that a person can read: a small tree of questions, the best one over doubly robust outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_integer, check_shape
from torch_ref.common.data.columns import Column

from ..judging.columns import row_weights
from .choices import cost_table
from .policy import Labels, PolicyValue, check_outcomes, judged_policy, label_arms
from .questions import Condition, check_table, named_columns, questions_about
from .tree_search import Plan, best_plan


@dataclass(frozen=True)
class Leaf:
    """What a tree does with the rows that come to it.

    Args:
        arm: the place of the arm that they get.
        rows: how many of the rows that the tree was learned from came to it.
    """

    arm: int
    rows: int


@dataclass(frozen=True)
class Split:
    """A question of a tree, and what follows from its answers.

    Args:
        question: about one column.
        yes: what follows for rows that say yes.
        no: what follows for the others.
    """

    question: Condition
    yes: Union["Split", Leaf]
    no: Union["Split", Leaf]


@dataclass(frozen=True)
class PolicyTree:
    """A small tree that says which arm a row should get; `print` shows it. `policy_tree` makes it.

    Args:
        root: its first question, or a leaf where one arm is best for all.
        columns: what the columns of the features are.
        arms: the label of each arm.

    Raises:
        ValueError: from `predict`: another number of features, or values that are neither finite nor NaN.

    Example:
        >>> x = np.array([[30.0], [40.0], [50.0], [60.0]])
        >>> outcomes = np.array([[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, -1.0, -3.0]])
        >>> tree = policy_tree(x, outcomes, columns=["age"], depth=1, min_leaf=1)
        >>> print(tree)
        if age <= 45: treat (2 rows)
        else: do not treat (2 rows)
        >>> tree.predict(np.array([[20.0], [70.0]])).tolist()
        [1, 0]
    """

    root: Split | Leaf
    columns: tuple[Column, ...]
    arms: tuple[Any, ...]

    def predict(self, x: Float[np.ndarray, "rows features"]) -> Int[np.ndarray, " rows"]:
        """Returns the place of the arm that each row should get [rows].

        Args:
            x: the features [rows, features], as the tree was learned from; NaN where one is missing.
        """
        x = check_table(x, len(self.columns))

        def of(node: Split | Leaf) -> np.ndarray:
            if isinstance(node, Leaf):
                return np.full(len(x), node.arm, dtype=np.int64)
            return np.where(node.question.ask(x), of(node.yes), of(node.no))

        return of(self.root)

    def words(self, arm: int) -> str:
        """Returns what a leaf says: `treat` or `do not treat` of arms 0 and 1, else the arm's label.

        Args:
            arm: the place of the arm.
        """
        return ("do not treat", "treat")[arm] if self.arms == (0, 1) else f"give {self.arms[arm]}"

    def __str__(self) -> str:
        return "\n".join(self._lines(self.root))

    def _lines(self, node: Split | Leaf) -> list[str]:
        if isinstance(node, Leaf):
            return [f"{self.words(node.arm)} ({node.rows} rows)"]
        lines = []
        for head, below in ((f"if {node.question.text(self.columns)}:", node.yes), ("else:", node.no)):
            inner = self._lines(below)
            lines += [f"{head} {inner[0]}"] if len(inner) == 1 else [head, *(f"    {line}" for line in inner)]
        return lines


def policy_tree(
    x: Float[np.ndarray, "rows features"],
    outcomes: Float[np.ndarray, "arms rows"],
    costs: float | Float[np.ndarray, " of_arms"] | Float[np.ndarray, "arms rows"] = 0.0,
    *,
    depth: int = 2,
    cuts: int = 20,
    min_leaf: int = 20,
    w: Float[np.ndarray, " rows"] | None = None,
    columns: Sequence[str | Column] | None = None,
    arms: Sequence[Any] = (),
) -> PolicyTree:
    """Returns the small tree under which the rows' doubly robust outcomes, less costs, are largest.

    The search is exact over its questions: whether a number is at most a cut, whether a category is a level, whether a
    value is missing. A number with at most `cuts` + 1 different values is cut between all of them; another at so many
    quantiles. Of equally good trees it is one with the fewest questions, the first by the order of columns and cuts.

    A depth of 2 takes a few seconds for 5,000 rows, 58 features and 20 cuts. A depth of 3 is meant for few questions:
    it takes about as many times longer as there are features, and memory grows with the number of questions squared.

    Args:
        x: the features [rows, features]; a category as the place of its level, NaN where a value is missing.
        outcomes: each row's doubly robust outcome under each arm [arms, rows], from `arm_outcomes`.
        costs: of the arms, in the outcome's unit, as `choose_arms` takes them.
        depth: how many questions a row is asked at most: 1, 2 or 3.
        cuts: how many cuts of a number are tried at most.
        min_leaf: the fewest rows in a leaf.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same. A leaf counts its
            rows as they are.
        columns: a name for each column of numbers, or what the columns are, as `TreatmentData` has it; none for x1, x2.
        arms: the label of each arm; none for their places.

    Returns:
        The tree. What it is worth tells `judged_tree`, not its own rows, on which it looks too good.

    Raises:
        ValueError: other shapes, no rows, outcomes that are not finite, features that are neither finite nor NaN, costs
            below 0, weights that are negative or all zero, or a depth, a number of cuts or a leaf out of bounds.

    Example:
        >>> x = np.array([[30.0, 0], [40.0, 1], [50.0, 0], [60.0, 1]])
        >>> outcomes = np.array([[0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 3.0, -3.0]])
        >>> colour = Column("colour", levels=("blue", "red"))
        >>> print(policy_tree(x, outcomes, columns=[Column("age"), colour], min_leaf=1))
        if colour is blue: treat (2 rows)
        else: do not treat (2 rows)

    Source: Athey, Wager, "Policy learning with observational data", 2021; Zhou, Athey, Wager, "Offline multi-action
    policy learning: generalization and optimization", 2023.
    """
    outcomes = check_outcomes(outcomes)
    count, rows = outcomes.shape
    x = check_table(x)
    check_shape("x", x, (rows, "features"))
    depth, cuts = check_integer("depth", depth, at_least=1), check_integer("cuts", cuts, at_least=1)
    if depth > 3:
        raise ValueError(f"depth: expected 1, 2 or 3, got {depth}")
    min_leaf = check_integer("min_leaf", min_leaf, at_least=1)
    known, labels = named_columns(columns, x.shape[1]), label_arms(arms, count)
    net = outcomes - cost_table(costs, count, rows)
    w = row_weights(w, rows)
    counted = w > 0
    x, gains = x[counted], ((net[1:] - net[0]) * w)[:, counted]
    questions, starts = questions_about(x, known, cuts, w[counted])
    asked = np.stack([question.ask(x) for question in questions], axis=1) if questions else np.zeros((len(x), 0), bool)
    plan = best_plan(asked, gains, starts, depth=depth, least=min_leaf)
    return PolicyTree(_grown(plan, questions, asked, gains, np.full(len(x), True)), known, labels)


def judged_tree(
    x: Float[np.ndarray, "rows features"],
    outcomes: Float[np.ndarray, "arms rows"],
    costs: float | Float[np.ndarray, " of_arms"] | Float[np.ndarray, "arms rows"] = 0.0,
    *,
    depth: int = 2,
    cuts: int = 20,
    min_leaf: int = 20,
    folds: int = 5,
    seed: int = 0,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Labels | None = None,
    against: Int[np.ndarray, " rows"] | None = None,
    columns: Sequence[str | Column] | None = None,
    arms: Sequence[Any] = (),
    alpha: float = 0.05,
) -> PolicyValue:
    """Returns what a tree of `policy_tree` is worth, each row judged by a tree that did not see it.

    Args:
        x: the features [rows, features], as `policy_tree` takes them.
        outcomes: each row's doubly robust outcome under each arm [arms, rows], from `arm_outcomes`.
        costs: of the arms, in the outcome's unit, as `choose_arms` takes them.
        depth: of the trees, 1, 2 or 3.
        cuts: how many cuts of a number are tried at most.
        min_leaf: the fewest rows in a leaf.
        folds: into which the rows are cut, at least 2.
        seed: of the folds.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        against: the arms that another policy gives [rows], to compare with.
        columns: as `policy_tree` takes them.
        arms: the label of each arm; none for their places.
        alpha: the share of intervals that may miss.

    Returns:
        The value and the gains, as `judged_policy` gives them.

    Raises:
        ValueError: as `policy_tree` and `judged_policy`.

    Example:
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> outcomes = np.stack([np.zeros(200), x[:, 0]])  # who lies above 0 gains from treatment
        >>> found = judged_tree(x, outcomes, depth=1)
        >>> 0.24 < found.value.value < 0.26
        True
    """
    outcomes = check_outcomes(outcomes)
    count, rows = outcomes.shape
    x = check_table(x)
    check_shape("x", x, (rows, "features"))
    table, weights = cost_table(costs, count, rows), row_weights(w, rows)

    def learn(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        tree = policy_tree(
            x[seen], outcomes[:, seen], table[:, seen], depth=depth, cuts=cuts, min_leaf=min_leaf, w=weights[seen],
            columns=columns,
        )  # fmt: skip
        return tree.predict(x[unseen])

    return judged_policy(
        outcomes, learn, table, folds=folds, seed=seed, w=w, groups=groups, against=against, arms=arms, alpha=alpha
    )


def _grown(
    plan: Plan | None, questions: Sequence[Condition], asked: np.ndarray, gains: np.ndarray, here: np.ndarray
) -> Split | Leaf:
    """Returns the tree of a plan, each leaf with the best arm of the rows that come `here`."""
    if plan is None:
        return Leaf(int(np.argmax(np.append(0, gains[:, here].sum(axis=1)))), int(here.sum()))
    says = asked[:, plan.question]
    yes, no = (_grown(to, questions, asked, gains, here & of) for to, of in ((plan.yes, says), (plan.no, ~says)))
    if isinstance(yes, Leaf) and isinstance(no, Leaf) and yes.arm == no.arm:
        return Leaf(yes.arm, yes.rows + no.rows)
    return Split(questions[plan.question], yes, no)
