"""The tree of a policy: by hand, against all trees of tiny tables, by property, and its honest value."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import PolicyTree, judged_tree, policy_tree, policy_value
from flax_impl.effects.decisions.policy_tree import Leaf, Split
from flax_impl.effects.decisions.questions import questions_about
from torch_ref.common.data.columns import Column

COLOUR = Column("colour", levels=("blue", "red", "green"))


def gain(tree: PolicyTree, x: np.ndarray, outcomes: np.ndarray, w: np.ndarray | None = None) -> float:
    """What the tree brings all rows, beyond the control."""
    rows = np.arange(len(x))
    return float(np.sum((outcomes[tree.predict(x), rows] - outcomes[0]) * (1 if w is None else w)))


def best_of_all(asked: list[np.ndarray], gains: np.ndarray, here: np.ndarray, depth: int, least: int) -> float:
    """The most that any tree brings the rows that are here, by trying them all."""
    best = max(0.0, float(gains[:, here].sum(axis=1).max()))
    for says in asked if depth else []:
        yes, no = here & says, here & ~says
        if min(yes.sum(), no.sum()) >= least:
            both = [best_of_all(asked, gains, rows, depth - 1, least) for rows in (yes, no)]
            best = max(best, sum(both))
    return best


def leaves(node: Split | Leaf) -> list[Leaf]:
    return [node] if isinstance(node, Leaf) else leaves(node.yes) + leaves(node.no)


def test_a_tree_by_hand() -> None:
    """Who is young and rich gains from the first treatment, who is old from the second, and the rest loses."""
    x = np.array(list(itertools.product([30.0, 40.0, 60.0, 70.0], [1.0, 2.0, 3.0])))
    young, rich = x[:, 0] < 50, x[:, 1] > 2.5
    outcomes = np.stack([np.zeros(12), np.where(young & rich, 2, -1), np.where(young, -1, 1)]).astype(float)
    tree = policy_tree(x, outcomes, columns=["age", "income"], min_leaf=1, arms=("none", "low", "high"))
    assert str(tree).splitlines() == [
        "if age <= 50:",
        "    if income <= 2.5: give none (4 rows)",
        "    else: give low (2 rows)",
        "else: give high (6 rows)",
    ]
    np.testing.assert_array_equal(tree.predict(x), np.where(young, np.where(rich, 1, 0), 2))
    # A cost that is more than the gain of the second treatment leaves the first alone.
    dear = policy_tree(x, outcomes, np.array([0.0, 0.5, 1.5]), columns=["age", "income"], min_leaf=1)
    np.testing.assert_array_equal(dear.predict(x), np.where(young & rich, 1, 0))


def test_categories_and_gaps_by_hand() -> None:
    x = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, np.nan], [1.0, np.nan], [0.0, 7.0], [2.0, 8.0]])
    red = np.where(x[:, 0] == 1, 3.0, -1.0)
    tree = policy_tree(x, np.stack([np.zeros(6), red]), columns=[COLOUR, Column("age")], min_leaf=1)
    assert str(tree) == "if colour is red: treat (2 rows)\nelse: do not treat (4 rows)"
    assert tree.predict(np.array([[-1.0, 5.0], [np.nan, 5.0], [1.0, np.nan]])).tolist() == [0, 0, 1]
    gone = np.where(np.isnan(x[:, 1]), 3.0, -1.0)
    tree = policy_tree(x, np.stack([np.zeros(6), gone]), columns=[COLOUR, Column("age")], min_leaf=1, depth=1)
    assert str(tree) == "if age is missing: treat (2 rows)\nelse: do not treat (4 rows)"
    assert tree.predict(np.array([[0.0, 5.0], [0.0, np.nan]])).tolist() == [0, 1]


def test_no_question_where_none_helps() -> None:
    x, rows = np.arange(8.0)[:, None], np.zeros(8)
    assert str(policy_tree(x, np.stack([rows, rows + 1]), min_leaf=1)) == "treat (8 rows)"
    assert str(policy_tree(x, np.stack([rows, rows]), min_leaf=1)) == "do not treat (8 rows)"
    assert str(policy_tree(np.ones((8, 2)), np.stack([rows, np.arange(8.0) - 1]), min_leaf=1)) == "treat (8 rows)"
    sharp = np.stack([rows, np.where(x[:, 0] < 1, 9.0, -1.0)])
    assert len(leaves(policy_tree(x, sharp, min_leaf=1).root)) == 2
    assert min(leaf.rows for leaf in leaves(policy_tree(x, sharp, min_leaf=3).root)) >= 3


@examples(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 14), arms=st.integers(2, 3), depth=st.integers(1, 3),
    least=st.integers(1, 3), ties=st.booleans(),
)  # fmt: skip
def test_no_tree_of_tiny_tables_is_better(seed: int, rows: int, arms: int, depth: int, least: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    x = np.stack([generator.integers(0, 4, rows), generator.integers(-1, 3, rows)], axis=1).astype(float)
    x[generator.random(rows) < 0.2, 0] = np.nan
    outcomes = generator.integers(-3, 4, (arms, rows)) / 4 if ties else generator.normal(size=(arms, rows))
    w = generator.uniform(0.5, 2, rows)
    columns = [Column("age"), COLOUR]
    tree = policy_tree(x, outcomes, depth=depth, min_leaf=least, w=w, columns=columns)
    asked = [question.ask(x) for question in questions_about(x, columns, 20)[0]]
    best = best_of_all(asked, (outcomes[1:] - outcomes[0]) * w, np.full(rows, True), depth, least)
    assert gain(tree, x, outcomes, w) == pytest.approx(best, abs=1e-9)
    found = leaves(tree.root)
    assert sum(leaf.rows for leaf in found) == rows
    assert len(found) == 1 or min(leaf.rows for leaf in found) >= least
    assert len(found) <= 2**depth


@examples(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.floats(0.1, 10), st.integers(1, 2))
def test_properties(seed: int, arms: int, scale: float, depth: int) -> None:
    """A unit, an offset, the order of rows and a rising function of a feature change no choice."""
    generator = np.random.default_rng(seed)
    x, outcomes, order = generator.normal(size=(60, 3)), generator.normal(size=(arms, 60)), generator.permutation(60)
    settings: dict[str, Any] = {"depth": depth, "min_leaf": 5, "cuts": 7}
    chosen = policy_tree(x, outcomes, **settings).predict(x)
    offset = generator.normal(size=60)  # of a row, the same under all arms
    for again in (
        policy_tree(x, scale * outcomes + offset, **settings).predict(x),
        policy_tree(x[order], outcomes[:, order], **settings).predict(x),
        policy_tree(np.exp(x), outcomes, **settings).predict(np.exp(x)),
        policy_tree(np.repeat(x, 2, axis=0), np.repeat(outcomes, 2, axis=1), depth=depth, min_leaf=10, cuts=7).predict(
            x
        ),
        policy_tree(x, outcomes, 1.0 + np.zeros(arms), **settings).predict(x),
    ):
        np.testing.assert_array_equal(again, chosen)
    of_names = generator.permutation(arms)
    renamed = policy_tree(x, outcomes[of_names], **settings).predict(x)
    np.testing.assert_array_equal(of_names[renamed], chosen)
    more = gain(policy_tree(x, outcomes, depth=depth + 1, min_leaf=5, cuts=7), x, outcomes)
    assert more >= gain(policy_tree(x, outcomes, **settings), x, outcomes) - 1e-9


def test_rows_without_weight_are_as_if_they_were_not_there() -> None:
    generator = np.random.default_rng(0)
    x, outcomes, w = generator.normal(size=(80, 2)), generator.normal(size=(2, 80)), np.repeat([1.0, 0.0], 40)
    assert policy_tree(x, outcomes, w=w) == policy_tree(x[:40], outcomes[:, :40])


def test_many_questions_are_looked_at_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from flax_impl.effects.decisions import tree_search

    generator = np.random.default_rng(0)
    x, outcomes = generator.normal(size=(300, 4)), generator.normal(size=(3, 300))
    whole = policy_tree(x, outcomes)
    monkeypatch.setattr(tree_search, "_MOST", 200)
    monkeypatch.setattr(tree_search, "_PART", 70)
    assert policy_tree(x, outcomes) == whole


def test_cuts_are_quantiles() -> None:
    x = np.append(np.arange(99.0), 10_000)[:, None]
    asked, starts = questions_about(x, [Column("age")], 4)
    assert [question.value for question in asked] == [19.5, 39.5, 59.5, 79.5]
    assert starts.tolist() == [True, False, False, False]
    near = np.array([[1.0], [np.nextafter(1.0, 2)]])
    (only,) = questions_about(near, [Column("age")], 4)[0]
    assert only.ask(near).tolist() == [True, False]


def test_the_honest_value_of_a_tree_is_less_than_that_on_its_own_rows() -> None:
    generator = np.random.default_rng(0)
    x, outcomes = generator.normal(size=(400, 5)), generator.normal(size=(2, 400))  # nothing to find
    tree = policy_tree(x, outcomes)
    own = policy_value(outcomes, tree.predict(x)).gains[0]
    honest = judged_tree(x, outcomes).gains[0]
    assert own.low > 0
    assert honest.low < 0
    outcomes[1] += 2 * np.where(x[:, 0] > 0, 1, -1)
    found = judged_tree(x, outcomes, 0.1, arms=("none", "pill"), seed=3)
    assert found.gains["none"].low > 0.5
    assert found.gains["pill"].low > 0.5
    assert np.mean(found.choice == (x[:, 0] > 0)) > 0.9


@pytest.mark.slow
def test_a_large_tree_takes_seconds(measured: list[str]) -> None:
    import time

    generator = np.random.default_rng(0)
    x, outcomes = generator.normal(size=(5000, 58)), generator.normal(size=(2, 5000))
    start = time.perf_counter()
    policy_tree(x, outcomes)
    seconds = time.perf_counter() - start
    measured.append(f"policy tree of depth 2, 5000 rows, 58 features, 20 cuts: {seconds:.1f} s, less than 20")
    assert seconds < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 4}, "depth: expected 1, 2 or 3, got 4"),
        ({"cuts": 0}, "cuts: expected a whole number of at least 1, got 0"),
        ({"min_leaf": 0}, "min_leaf: expected a whole number of at least 1, got 0"),
        ({"x": np.zeros((3, 1))}, r"x: expected shape \[4, features\], got \[3, features\]"),
        ({"x": np.array([["a"], ["b"], ["c"], ["d"]])}, "x: expected numbers, got dtype <U1"),
        ({"x": np.full((4, 1), np.inf)}, "x: expected finite numbers or NaN, got inf in row 0, column 0"),
        ({"columns": ["a", "b"]}, "columns: expected 1, as many as x has, got 2"),
        ({"arms": ["a"]}, r"arms: expected 2 different labels, got \['a'\]"),
        ({"w": np.array([1, 1, -1, 1])}, "w: expected weights of at least 0, got -1.0 in row 2"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        policy_tree(**{"x": np.zeros((4, 1)), "outcomes": np.zeros((2, 4)), **change})


def test_a_tree_takes_the_features_that_it_was_learned_from() -> None:
    tree = policy_tree(np.zeros((4, 2)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"^x: expected shape \[rows, 2\], got \[rows, 3\]$"):
        tree.predict(np.zeros((1, 3)))
