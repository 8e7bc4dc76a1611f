"""Effects by the packages that people use today, at their defaults; each is asked only where it is installed."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np

from flax_impl.commands.ihdp import Peer

from .peers import quiet

Estimate = Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[np.ndarray]], list[np.ndarray]]


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
        ("catenets_tarnet", "catenets", "CATENets, JAX TARNet", catenets_tarnet),
        ("causalml_dragonnet", "causalml", "causalml, JAX DragonNet", causalml_dragonnet),
        ("econml_forest", "econml", "EconML, causal forest", econml_forest),
    )
}


def installed() -> dict[str, Peer]:
    """Returns the peers whose package is there; imports none of them."""
    return {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(peer.package) is not None}
