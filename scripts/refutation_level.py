"""How often refutations accuse, honest analyses and planted faults; and whether bounds hold a planted confounder."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tables: threads would only wait for one another

import numpy as np

from flax_impl.commands.backends import run_command
from flax_impl.data import TreatmentData, synthetic
from flax_impl.effects import (
    OutOfFold,
    average_by,
    average_effects,
    cross_fit_trees,
    hidden_confounding,
    marginal_bounds,
    refute,
)
from flax_impl.effects.sensitivity.nuisances import Estimate
from flax_impl.effects.sensitivity.refute import KINDS
from torch_ref.common.data.treatment_data import sigmoid
from torch_ref.common.files.array_file import replacing

_FOLDS = 5
# The planted confounder: what it adds to the outcome, and how it moves the treatment.
_GAMMA, _KAPPA = 1.0, 0.5


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--tables", type=int, default=300, help="for honest linear analyses and the confounder (default: 300)")
    add("--tree-tables", type=int, default=200, help="for boosted trees (default: 200)")
    add("--fault-tables", type=int, default=20, help="for each planted fault (default: 20)")
    add("--json", type=Path, metavar="FILE", help="where to write the results")
    return parser.parse_args()


def table(seed: int, rows: int = 400) -> TreatmentData:
    """Draws a confounded table, linear in its five features; the effect is 1 on average."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 5))
    t = (generator.random(rows) < sigmoid(0.7 * x[:, 0] + 0.4 * x[:, 1])).astype(int)
    y = 2 * x[:, 0] + x[:, 1] + x[:, 2] + t * (1 + 0.5 * x[:, 0]) + generator.normal(size=rows)
    return TreatmentData(x, t, y[:, None])


def linear(data: TreatmentData) -> OutOfFold:
    """Returns what linear regressions and a logistic one expect, cross-fitted."""
    t, y = data.t, data.y[:, 0]
    x = np.column_stack([np.ones(len(t)), data.x])
    place = np.zeros(len(t), int)
    for arm in (0, 1):
        rows = np.flatnonzero(t == arm)
        place[rows] = np.random.default_rng(0).permutation(len(rows)) % _FOLDS
    mu, score = np.zeros((2, len(t))), np.zeros(len(t))
    for fold in range(_FOLDS):
        unseen, seen = place == fold, place != fold
        for arm in (0, 1):
            rows = seen & (t == arm)
            mu[arm, unseen] = x[unseen] @ np.linalg.lstsq(x[rows], y[rows])[0]
        score[unseen] = np.clip(sigmoid(x[unseen] @ logistic(x[seen], t[seen])), 0.01, 0.99)
    return OutOfFold(t, y, mu[0], mu[1], score, data.w, data.groups)


def logistic(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Returns the weights of a logistic regression, with a ridge of one, by Newton's method."""
    weights, penalty = np.zeros(x.shape[1]), np.append(0.0, np.ones(x.shape[1] - 1))
    for _ in range(8):
        chance = sigmoid(x @ weights)
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty)
        weights = weights + np.linalg.solve(curvature, x.T @ (t - chance) - penalty * weights)
    return weights


def no_adjustment(data: TreatmentData) -> tuple[float, float]:
    """A fault: the difference of means, whoever was treated."""
    y, arms = data.y[:, 0], [data.t == arm for arm in (0, 1)]
    error = math.sqrt(sum(y[arm].var(ddof=1) / arm.sum() for arm in arms))
    return float(y[arms[1]].mean() - y[arms[0]].mean()), error


def saw_the_rows(data: TreatmentData) -> tuple[float, float]:
    """A fault: trees that saw the rows, and remember their outcomes."""
    from sklearn.tree import DecisionTreeRegressor

    t, y, honest = data.t, data.y[:, 0], linear(data)
    trees = [DecisionTreeRegressor(random_state=0).fit(data.x[t == arm], y[t == arm]) for arm in (0, 1)]
    found = average_effects(t, y, trees[0].predict(data.x), trees[1].predict(data.x), honest.score).ate
    return found.value, found.standard_error


def a_tenth_of_the_rows(data: TreatmentData) -> tuple[float, float]:
    """A fault: an estimate that hangs on a tenth of the rows, with the error of all."""
    error = LINEAR(data)[1]
    order = np.argsort(data.x[:, -1] * 1e6 % 1)  # as good as by lot, and the same for the same rows
    arms = [order[data.t[order] == arm] for arm in (0, 1)]
    few = np.concatenate([arm[: max(8, len(arm) // 10)] for arm in arms])
    return LINEAR(data.take(np.sort(few)))[0], error


def last_column_only(data: TreatmentData) -> tuple[float, float]:
    """A fault: an adjustment for the wrong column, the last one; in the table itself it is the one that matters."""
    return LINEAR(replace(data, x=data.x[:, -1:]))


LINEAR: Estimate = average_by(linear)
TREES: Estimate = average_by(cross_fit_trees)


def confounded_by_the_last(seed: int) -> TreatmentData:
    """Draws `table` with its columns turned round, and only the last of them confounding."""
    data = table(seed)
    generator = np.random.default_rng([seed, 1])
    t = (generator.random(len(data)) < sigmoid(1.2 * data.x[:, 0])).astype(int)
    y = 2 * data.x[:, 0] + t + generator.normal(size=len(data))
    return TreatmentData(data.x[:, ::-1].copy(), t, y[:, None])


def with_a_result(seed: int) -> TreatmentData:
    """Draws `table` with a feature that the treatment changed, and that stands for half its effect."""
    data = table(seed)
    result = data.t + np.random.default_rng([seed, 1]).normal(size=len(data))
    return replace(data, x=np.column_stack([data.x, result]), y=data.y + 2 * result[:, None])


def level(estimate: Estimate, draw: Callable[[int], TreatmentData], tables: int, draws: int) -> dict[str, Any]:
    """Returns the share of tables in which each refutation accuses."""
    accused = dict.fromkeys(KINDS, 0)
    for seed in range(tables):
        for kind in refute(draw(seed), estimate, draws=draws, seed=seed, progress=False).accused:
            accused[kind] += 1
    return {"tables": tables, "draws": draws, **{kind: count / tables for kind, count in accused.items()}}


def confounded(seed: int, rows: int = 2000) -> TreatmentData:
    """Draws a table whose confounder, 1 or -1, is not in it; the effect is 1 on all rows.

    The odds of treatment change by a factor of at most 1 / (1 - kappa), and the propensity by the feature stays
    logistic.
    """
    generator = np.random.default_rng(seed)
    x, hidden = generator.normal(size=rows), generator.choice([-1.0, 1.0], rows)
    score = sigmoid(0.5 * x)
    t = (generator.random(rows) < score * (1 + hidden * _KAPPA * (1 - score))).astype(int)
    y = x + t + _GAMMA * hidden + generator.normal(size=rows)
    return TreatmentData(x[:, None], t, y[:, None])


def true_strength() -> tuple[float, float]:
    """Returns what the planted confounder explains of outcome and treatment, by integrals over the feature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    score = sigmoid(0.5 * nodes)

    def mean(values: np.ndarray) -> float:
        return float(weights @ values / weights.sum())

    # Given feature and treatment, its mean is kappa (1 - score) for treated rows and -kappa score for untreated ones.
    explained = _GAMMA**2 * (1 - _KAPPA**2 * mean(score * (1 - score)))
    knowing = [score * (1 + sign * _KAPPA * (1 - score)) for sign in (-1, 1)]
    with_it = sum(mean(1 / (p * (1 - p))) for p in knowing) / 2
    return explained / (1 + explained), 1 - mean(1 / (score * (1 - score))) / with_it


def hold(tables: int) -> dict[str, Any]:
    """Returns how often estimate, bounds and their intervals hold the true effect, by the strength that is assumed."""
    eta_y, eta_d = true_strength()
    factor = 1 / (1 - _KAPPA)
    held: dict[str, list[list[bool]]] = {}
    for seed in range(tables):
        columns = linear(confounded(seed)).arrays()
        found = hidden_confounding(**columns)
        for name, share in (("none", 0.0), ("half of both", 0.5), ("the true one", 1.0)):
            ends = found.bounds(share * eta_y, share * eta_d)
            held.setdefault(f"explains {name}", []).append(inside(ends))
        for name, ratio in (("its root", math.sqrt(factor)), ("the true one", factor)):
            held.setdefault(f"odds, {name}", []).append(inside(marginal_bounds(**columns, odds_ratio=ratio).ate))
    shares = {name: np.mean(of, axis=0).tolist() for name, of in held.items()}
    return {"tables": tables, "eta_y": eta_y, "eta_d": eta_d, "odds_ratio": factor, "held": shares}


def inside(ends: Any, true: float = 1.0) -> list[bool]:
    """Returns whether bounds, and their interval, hold the true effect."""
    return [ends.low <= true <= ends.high, ends.interval_low <= true <= ends.interval_high]


# By name: the analysis, the tables that it is put to, which count of tables, and how many draws.
CASES: dict[str, tuple[Estimate, Callable[[int], TreatmentData], str, int]] = {
    "honest: linear": (LINEAR, table, "tables", 10),
    "honest: boosted trees": (TREES, lambda seed: synthetic(300, 5, seed), "tree_tables", 1),
    "no adjustment": (no_adjustment, table, "fault_tables", 10),
    "models saw the rows": (saw_the_rows, table, "fault_tables", 10),
    "hangs on a tenth of the rows": (a_tenth_of_the_rows, table, "fault_tables", 10),
    "adjusts for the last column": (last_column_only, confounded_by_the_last, "fault_tables", 10),
    "a feature that treatment changed": (LINEAR, with_a_result, "fault_tables", 10),
}


def run(args: argparse.Namespace) -> int:
    """Measures, prints both tables and writes the results; returns 0."""
    print("share of tables in which a refutation accuses the analysis, at a level of 5%")
    print(f"{'':34}{'tables':>7}{'draws':>7}" + "".join(f"{name:>21}" for name, _ in KINDS.values()), flush=True)
    found: dict[str, Any] = {}
    for name, (estimate, draw, count, draws) in CASES.items():
        found[name] = level(estimate, draw, getattr(args, count), draws)
        shares = "".join(f"{found[name][kind]:>21.1%}" for kind in KINDS)
        print(f"{name:34}{found[name]['tables']:>7}{draws:>7}{shares}", flush=True)
    held = hold(args.tables)
    print(f"\na hidden confounder that explains {held['eta_y']:.1%} of the outcome and {held['eta_d']:.1%} of the "
          f"treatment,\nand moves the odds of treatment by up to {held['odds_ratio']:.3g}: of {held['tables']} tables, "
          "the true effect is held by")  # fmt: skip
    print(f"{'assumed':34}{'bounds':>14}{'their interval':>16}")
    for name, (bounds, interval) in held["held"].items():
        print(f"{name:34}{bounds:>14.1%}{interval:>16.1%}")
    if args.json:
        with replacing(args.json) as beside:
            beside.write_text(json.dumps({"level": found, "confounder": held}, indent=1) + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
