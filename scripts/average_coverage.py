"""How often 95% intervals hold the true average effect, on tables that others made up.

A and B are surfaces of IHDP (Hill, 2011): the rows stay, outcomes are drawn anew each time. A' to D' are the setups of
Nie and Wager (2021), 2000 rows that are drawn anew: A' has a propensity that no line follows, B' is a trial.
"""

import argparse
import functools
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flax_impl.commands.backends import run_command
from flax_impl.data import TreatmentData
from flax_impl.effects import EffectSettings, average_effects, fit_effects
from flax_impl.effects.rows import draw_folds
from torch_ref.common.files.array_file import replacing

TREES, LEAF = 100, 3
# From features [rows, features], treatment [rows] and outcome [rows] to both expected outcomes and the propensity.
Estimate = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
# From a seed to features, treatment, outcome and true effects.
Surface = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--estimators", nargs="+", choices=sorted(ESTIMATORS), default=list(ESTIMATORS), help="which (default: all)")
    add("--surfaces", nargs="+", choices=list(SURFACES), default=list(SURFACES), help="which (default: all)")
    add("--draws", type=int, default=100, help="tables of each surface (default: 100)")
    add("--json", type=Path, metavar="FILE", help="where to write the results")
    return parser.parse_args()


def forests(x: np.ndarray, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns outcomes by a random forest for each arm and a logistic propensity, all out of fold."""
    from sklearn.ensemble import RandomForestRegressor

    mu0, mu1 = np.zeros(len(y)), np.zeros(len(y))
    for unseen in draw_folds(t, seed=0):
        for arm, mu in ((0, mu0), (1, mu1)):
            rows = ~unseen & (t == arm)
            forest = RandomForestRegressor(n_estimators=TREES, min_samples_leaf=LEAF, random_state=0)
            mu[unseen] = forest.fit(x[rows], y[rows]).predict(x[unseen])
    return mu0, mu1, logistic(x, t)


def logistic(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Returns propensities by logistic regression, out of fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    score = np.zeros(len(t))
    for unseen in draw_folds(t, seed=0):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        score[unseen] = model.fit(x[~unseen], t[~unseen]).predict_proba(x[unseen])[:, 1]
    return score


def nets(x: np.ndarray, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns outcomes by the ensemble of nets at its defaults, and its propensity, all out of fold."""
    return ours(x, t, y, EffectSettings())


def nets_and_trees(x: np.ndarray, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns outcomes by nets and trees, and their propensity, all out of fold."""
    return ours(x, t, y, EffectSettings(learners=("nets", "trees")))


def ours(
    x: np.ndarray, t: np.ndarray, y: np.ndarray, settings: EffectSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns both expected outcomes and the propensity by a model of ours, all out of fold."""
    data = TreatmentData(x, t.astype(np.int32), y[:, None])
    found = fit_effects(data, settings, progress=False).cross_fit(data)
    assert len(found.rows) == len(data)  # five members hold out every row
    return *found.mu, found.score[1]


# By name: what estimates the outcomes and the propensity that no model has seen.
ESTIMATORS: dict[str, Estimate] = {
    "AIPW with forests": forests,
    "ours, nets": nets,
    "ours, nets and trees": nets_and_trees,
}


def ihdp_surface(letter: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns features without the column of ones, treatment, outcome and true effects: 747 rows, always the same."""
    try:
        from econml.data import dgps  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the surfaces of IHDP need econml: pip install 'twohead[peers]'") from error
    y, t, x, effect = getattr(dgps, f"ihdp_surface_{letter}")(random_state=seed)
    x, t = np.asarray(x, np.float64), np.asarray(t).astype(int)
    return x[:, x.min(axis=0) < x.max(axis=0)], t, np.asarray(y, np.float64), np.asarray(effect, np.float64)


def nie_wager(mode: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns features, treatment, outcome and true effects of a setup: 2000 rows of 6 features, noise 1."""
    try:
        from causalml.dataset import synthetic_data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the setups of Nie and Wager need causalml: pip install 'twohead[peers]'") from error
    np.random.seed(seed)  # noqa: NPY002 - the generator that causalml draws from
    y, x, t, effect, _, _ = synthetic_data(mode=mode, n=2000, p=6, sigma=1.0)
    return x, t.astype(int), y, effect


SURFACES: dict[str, Surface] = {letter: functools.partial(ihdp_surface, letter) for letter in "AB"}
SURFACES |= {f"{letter}'": functools.partial(nie_wager, mode) for mode, letter in enumerate("ABCD", start=1)}


def measure(estimate: Estimate, draws: int, surface: Surface) -> dict[str, Any]:
    """Returns how often the intervals of both targets hold the true average over the rows, and their errors.

    Args:
        estimate: what gives both expected outcomes and the propensity, out of fold.
        draws: how many tables.
        surface: what draws a table by its seed.
    """
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))

    for seed in range(draws):
        x, t, y, effect = surface(seed)
        nuisances = estimate(x, t, y)
        truths = {"ate": effect.mean(), "att": effect[t == 1].mean(), "atc": effect[t == 0].mean()}
        for target in ("population", "sample"):
            averages = average_effects(t, y, *nuisances, target=target)
            for name, true in truths.items():
                one = getattr(averages, name)
                note(**{f"{name}_held_{target}": one.low <= true <= one.high})
                note(**{f"{name}_error_{target}": one.standard_error})
                if target == "sample":
                    note(
                        **{f"{name}_true": true, f"{name}_bias": one.value - true, f"{name}_abs": abs(one.value - true)}
                    )
        note(**{"naive_abs": abs(y[t == 1].mean() - y[t == 0].mean() - truths["ate"])})
    results = {name: float(np.mean(values)) for name, values in found.items()}
    for name in ("ate", "att", "atc"):
        results[f"{name}_spread"] = float(np.std(found[f"{name}_bias"]))
    return {"draws": draws, **results}


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the results; returns 0."""
    warnings.simplefilter("ignore", UserWarning)
    wide = max(map(len, args.estimators)) + 4
    print(f"{'':{wide}}{'surface':>8}{'average':>9}{'true':>8}{'bias':>8}{'spread':>8}"
          f"{'error, population':>19}{'holds':>7}{'error, sample':>15}{'holds':>7}")  # fmt: skip
    settings = []
    for estimator in args.estimators:
        for letter in args.surfaces:
            found = measure(ESTIMATORS[estimator], args.draws, SURFACES[letter])
            settings.append({"estimator": estimator, "surface": letter, **found})
            for name in ("ate", "att", "atc"):
                print(f"{estimator:{wide}}{letter:>8}{name.upper():>9}{found[f'{name}_true']:>8.3f}"
                      f"{found[f'{name}_bias']:>8.3f}{found[f'{name}_spread']:>8.3f}"
                      f"{found[f'{name}_error_population']:>19.3f}{found[f'{name}_held_population']:>7.0%}"
                      f"{found[f'{name}_error_sample']:>15.3f}{found[f'{name}_held_sample']:>7.0%}",
                      flush=True)  # fmt: skip
    if args.json:
        with replacing(args.json) as beside:
            beside.write_text(json.dumps({"settings": settings}, indent=1) + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
