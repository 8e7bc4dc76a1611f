"""Effects by the packages that people use today; each is asked only where it is installed.

Nets and forests have the defaults of their packages, boosted trees and BART what their documentation recommends. Where
a propensity is needed, it is a logistic regression's.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np

from flax_impl.commands.ihdp import Peer

from .peers import quiet

Estimate = Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[np.ndarray]], list[np.ndarray]]
Make = Callable[[], Any]  # a regression with `fit` and `predict`


def catenets_tarnet(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the effects of the rows asked for by CATENets' TARNet in JAX.

    Args:
        x: features to train on [rows, features].
        t: treatment, 0 or 1 [rows].
        y: outcome [rows].
        asked: features of the rows asked for.
    """
    package = importlib.import_module("catenets.models.jax")
    with mock.patch.object(importlib.import_module("catenets.logger"), "info", return_value=None):
        model = package.TARNet()
        model.fit(x, y, t)
    return [np.ravel(model.predict(rows)) for rows in asked]


def causalml_dragonnet(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the effects of the rows asked for by causalml's DragonNet in JAX; arguments as above."""
    matplotlib = importlib.import_module("matplotlib")
    with matplotlib.rc_context():  # causalml sets a style where it is imported
        package = importlib.import_module("causalml.inference.jax.dragonnet")
    model = package.DragonNet(verbose=False)
    model.fit(X=x, treatment=t, y=y)
    return [np.ravel(model.predict_tau(rows)) for rows in asked]


def econml_forest(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the effects of the rows asked for by EconML's causal forest; arguments as above."""
    package = importlib.import_module("econml.dml")
    model = package.CausalForestDML(discrete_treatment=True, random_state=0)
    model.fit(y, t.astype(int), X=x)
    return [np.ravel(model.effect(rows)) for rows in asked]


def econml_dr(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the effects of the rows asked for by EconML's DR-learner, of boosted trees; arguments as above."""
    package = importlib.import_module("econml.dr")
    trees = importlib.import_module("sklearn.ensemble")
    model = package.DRLearner(
        model_propensity=trees.GradientBoostingClassifier(random_state=0),
        model_regression=trees.GradientBoostingRegressor(random_state=0),
        model_final=trees.GradientBoostingRegressor(random_state=0),
        min_propensity=0.05,  # without it a few rows decide: its error on IHDP is three times as large
        cv=5,
        random_state=0,
    )
    model.fit(y, t.astype(int), X=x)
    return [np.ravel(model.effect(rows)) for rows in asked]


def stochtree_bcf(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the effects of the rows asked for by stochtree's Bayesian causal forest; arguments as above."""
    package = importlib.import_module("stochtree")
    model, score = package.BCFModel(), _propensity(x, t)
    model.sample(
        X_train=x,
        Z_train=t,
        y_train=y,
        propensity_train=score(x),
        num_gfr=10,
        num_burnin=100,
        num_mcmc=200,
        general_params={"random_seed": 0},
    )
    return [
        np.ravel(model.predict(X=rows, Z=np.ones(len(rows)), propensity=score(rows), type="mean", terms="cate"))
        for rows in asked
    ]


class _Bart:
    """A BART of stochtree, with the face of scikit-learn."""

    def __init__(self) -> None:
        self.model = importlib.import_module("stochtree").BARTModel()

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.model.sample(
            X_train=x, y_train=y, num_gfr=10, num_burnin=100, num_mcmc=200, general_params={"random_seed": 0}
        )

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.ravel(self.model.predict(X=x, type="mean", terms="y_hat"))


def _catboost() -> Any:
    package = importlib.import_module("catboost")
    return package.CatBoostRegressor(
        iterations=800, learning_rate=0.05, depth=6, random_seed=0, verbose=False, allow_writing_files=False
    )


def _lightgbm() -> Any:
    return importlib.import_module("lightgbm").LGBMRegressor(
        n_estimators=500, learning_rate=0.05, random_state=0, verbose=-1
    )


def _s_learner(make: Make) -> Estimate:
    """Returns an estimate by one regression, to which the treatment is a feature."""

    def estimate(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
        model = make()
        model.fit(np.column_stack([x, t]), y)
        both = [
            [model.predict(np.column_stack([rows, np.full(len(rows), arm)])) for arm in (0.0, 1.0)] for rows in asked
        ]
        return [treated - untreated for untreated, treated in both]

    return estimate


def _t_learner(make: Make) -> Estimate:
    """Returns an estimate by two regressions, one for each arm."""

    def estimate(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
        untreated, treated = _of_each_arm(make, x, t, y)
        return [treated.predict(rows) - untreated.predict(rows) for rows in asked]

    return estimate


def _x_learner(make: Make) -> Estimate:
    """Returns an estimate by regressions of what each row gained, where the T-learner says what it did not see.

    Source: Kunzel, Sekhon, Bickel, Yu, "Metalearners for estimating heterogeneous treatment effects", PNAS 2019.
    """

    def estimate(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
        untreated, treated = _of_each_arm(make, x, t, y)
        gained = np.where(t == 1, y - untreated.predict(x), treated.predict(x) - y)
        by_untreated, by_treated = _of_each_arm(make, x, t, gained)
        score = _propensity(x, t)
        return [
            score(rows) * by_untreated.predict(rows) + (1 - score(rows)) * by_treated.predict(rows) for rows in asked
        ]

    return estimate


def _of_each_arm(make: Make, x: np.ndarray, t: np.ndarray, y: np.ndarray) -> list[Any]:
    """Returns a regression for the untreated rows and one for the treated."""
    models = [make(), make()]
    for arm, model in enumerate(models):
        model.fit(x[t == arm], y[t == arm])
    return models


def _propensity(x: np.ndarray, t: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what gives rows their probability of treatment, by a logistic regression."""
    scaler = importlib.import_module("sklearn.preprocessing").StandardScaler().fit(x)
    model = importlib.import_module("sklearn.linear_model").LogisticRegression(max_iter=1000)
    model.fit(scaler.transform(x), t)
    return lambda rows: model.predict_proba(scaler.transform(rows))[:, 1]


def _estimate(words: str, of_one: Estimate) -> Estimate:
    """Returns an estimate that prints nothing, and gives NaN where the package fails."""

    def estimate(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
        with quiet():
            try:
                return of_one(x, t.astype(float), y, asked)
            except Exception as error:  # whatever it raises: it has no effects to show
                failed = f"{words} failed: {error!r}"
        print(failed, file=sys.stderr, flush=True)
        return [np.full(len(rows), np.nan) for rows in asked]

    return estimate


PEERS = {
    name: Peer(package, words, _estimate(words, of_one))
    for name, package, words, of_one in (
        ("catboost_x", "catboost", "CatBoost, X-learner", _x_learner(_catboost)),
        ("catboost_t", "catboost", "CatBoost, T-learner", _t_learner(_catboost)),
        ("catboost_s", "catboost", "CatBoost, S-learner", _s_learner(_catboost)),
        ("lightgbm_x", "lightgbm", "LightGBM, X-learner", _x_learner(_lightgbm)),
        ("stochtree_bcf", "stochtree", "stochtree, BCF", stochtree_bcf),
        ("stochtree_t", "stochtree", "stochtree, BART T-learner", _t_learner(_Bart)),
        ("econml_dr", "econml", "EconML, DR-learner", econml_dr),
        ("econml_forest", "econml", "EconML, causal forest", econml_forest),
        ("catenets_tarnet", "catenets", "CATENets, JAX TARNet", catenets_tarnet),
        ("causalml_dragonnet", "causalml", "causalml, JAX DragonNet", causalml_dragonnet),
    )
}


def installed() -> dict[str, Peer]:
    """Returns the peers whose package is there; imports none of them."""
    return {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(peer.package) is not None}
