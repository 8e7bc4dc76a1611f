"""How often 95% intervals hold what a policy is worth, on made-up data with known outcomes, two arms and three."""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from flax_impl.commands.backends import run_command
from flax_impl.effects import PolicyValue, arm_outcomes, choose_arms, judged_policy, policy_tree, policy_value

ROWS, FEATURES, FOLDS = 1000, 5, 5
MANY = 20_000  # rows that stand for the population
COST = 0.2  # of every treatment
CONTROL = 0.5  # the mean outcome of all rows without treatment: of half a normal's square
Policy = Callable[[np.ndarray], np.ndarray]  # from features to the arm of each row


class Table(NamedTuple):
    """A table that was drawn, and what is expected of it by models that did not see the row."""

    x: np.ndarray
    outcomes: np.ndarray  # doubly robust [arms, rows]
    folds: list[np.ndarray]  # the rows that each fold leaves out
    expected: list[Callable[[np.ndarray], np.ndarray]]  # by the models of each fold, from features to [arms, rows]


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500, help="tables of two and of three arms each (default: 500)")
    return parser.parse_args()


def true_outcomes(x: np.ndarray, arms: int) -> np.ndarray:
    """Returns the expected outcome under each arm [arms, rows]; each arm is the best for some rows."""
    control = x[:, 0] + 0.5 * x[:, 1] ** 2
    return np.stack([control, control + x[:, 0] + 0.5 * x[:, 2], control + 0.3 + x[:, 1] * x[:, 2]])[:arms]


def draw(generator: np.random.Generator, rows: int, arms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features, treatment and outcome of rows whose treatment depends on what the outcome depends on."""
    x = generator.normal(size=(rows, FEATURES))
    logit = np.stack([np.zeros(rows), 0.6 * x[:, 0] + 0.3 * x[:, 1], 0.5 * x[:, 1]])[:arms]
    chance = np.exp(logit) / np.exp(logit).sum(axis=0)
    t = (generator.random(rows) > np.cumsum(chance, axis=0)[:-1]).sum(axis=0)
    return x, t, true_outcomes(x, arms)[t, np.arange(rows)] + generator.normal(size=rows)


def squares(x: np.ndarray) -> np.ndarray:
    """Returns a constant, the features, and their products."""
    first, second = np.triu_indices(x.shape[1])
    return np.column_stack([np.ones(len(x)), x, x[:, first] * x[:, second]])


def estimated(generator: np.random.Generator, arms: int) -> Table:
    """Returns a table with outcomes by ridge regression and propensities by logistic regression, all out of fold."""
    from sklearn.linear_model import LogisticRegression

    x, t, y = draw(generator, ROWS, arms)
    folds = np.array_split(generator.permutation(ROWS), FOLDS)
    columns, mu, score, expected = squares(x), np.zeros((arms, ROWS)), np.zeros((arms, ROWS)), []
    for unseen in folds:
        seen = np.setdiff1d(np.arange(ROWS), unseen)
        weights = []
        for arm in range(arms):
            of_arm = columns[seen[t[seen] == arm]]
            penalised = of_arm.T @ of_arm + np.eye(of_arm.shape[1])
            weights.append(np.linalg.solve(penalised, of_arm.T @ y[seen[t[seen] == arm]]))
        expected.append(lambda many, weights=tuple(weights): np.stack([many @ of_arm for of_arm in weights]))
        mu[:, unseen] = expected[-1](columns[unseen])
        score[:, unseen] = LogisticRegression().fit(x[seen], t[seen]).predict_proba(x[unseen]).T
    return Table(x, arm_outcomes(t, y, mu, score), folds, expected)


def given_rule(table: Table) -> tuple[PolicyValue, list[Policy]]:
    """Judges a rule that saw no row at all."""
    rule: Policy = lambda x: (x[:, 0] > 0.2).astype(int)  # noqa: E731
    return policy_value(table.outcomes, rule(table.x), COST), [rule] * FOLDS


def by_effect(table: Table) -> tuple[PolicyValue, list[Policy]]:
    """Judges choices by effects that were cross-fitted."""
    policies: list[Policy] = [
        lambda x, expected=expected: choose_arms(expected(squares(x)), COST) for expected in table.expected
    ]
    choice = np.zeros(ROWS, int)
    for unseen, policy in zip(table.folds, policies, strict=True):
        choice[unseen] = policy(table.x[unseen])
    return policy_value(table.outcomes, choice, COST), policies


def tree(table: Table) -> tuple[PolicyValue, list[Policy]]:
    """Judges trees of depth 2, each on rows that it did not see."""
    policies: list[Policy] = []

    def learn(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        policies.append(policy_tree(table.x[seen], table.outcomes[:, seen], COST, cuts=10).predict)
        return policies[-1](table.x[unseen])

    return judged_policy(table.outcomes, learn, COST, folds=FOLDS), policies


def tree_on_its_own_rows(table: Table) -> tuple[PolicyValue, list[Policy]]:
    """Judges a tree of depth 2 on the rows that it was learned from, as one should not."""
    found = policy_tree(table.x, table.outcomes, COST, cuts=10)
    return policy_value(table.outcomes, found.predict(table.x), COST), [found.predict] * FOLDS


POLICIES: dict[str, Callable[[Table], tuple[PolicyValue, list[Policy]]]] = {
    "a given rule": given_rule,
    "by effect, cross-fitted": by_effect,
    "tree, cross-fitted": tree,
    "tree, on its own rows": tree_on_its_own_rows,
}


def measure(arms: int, draws: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields each policy, what is estimated, and of each draw: truth, estimate, standard error, whether it held."""
    half = np.random.default_rng(0).normal(size=(MANY // 2, FEATURES))
    many = np.concatenate([half, -half])  # so that all means are exactly 0
    of_all = true_outcomes(many, arms)
    gain = of_all - of_all[0] - COST * (np.arange(arms) > 0)[:, None]
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for seed in range(draws):
        table = estimated(np.random.default_rng(seed + 1), arms)
        for name, judge in POLICIES.items():
            judged, policies = judge(table)
            worth = {id(policy): float(gain[policy(many), np.arange(MANY)].mean()) for policy in policies}
            true = float(np.mean([worth[id(policy)] for policy in policies]))
            for what, one, of_truth in (
                ("value", judged.value, true + CONTROL),
                ("gain over all 0", judged.gains[0], true),
                ("gain over all 1", judged.gains[1], true - gain[1].mean()),
            ):
                held = float(one.low <= of_truth <= one.high)
                found.setdefault((name, what), []).append((of_truth, one.value, one.standard_error, held))
    for (name, what), rows in found.items():
        yield name, what, np.array(rows)


def run(args: argparse.Namespace) -> int:
    """Measures and prints the table; returns 0."""
    print(f"{'policy':25}{'arms':>5}  {'':16}{'true':>7}{'bias':>8}{'spread':>8}{'std. error':>12}{'holds':>8}")
    for arms in (2, 3):
        for name, what, rows in measure(arms, args.draws):
            true, value, error, held = rows.T
            print(f"{name:25}{arms:>5}  {what:16}{true.mean():>7.3f}{(value - true).mean():>8.3f}"
                  f"{(value - true).std():>8.3f}{error.mean():>12.3f}{held.mean():>8.1%}", flush=True)  # fmt: skip
    print(f"{args.draws} tables of {ROWS} rows each; in the unit of the outcome, whose noise has a deviation of 1")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
