"""What other people's packages take to train the same net, for the speed table: CATENets and causalml, both in JAX.

Neither is a dependency: `installed` says which of them are there. The net is the usual one, a representation of three
layers of 200 units and two heads of two layers of 100 units and an output, ELU between them; Adam trains it in float32.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

RATE = 1e-3
Fit = Callable[[int, Callable[[], None]], None]  # takes the epochs, and what to call when the first (or more) is done


@dataclass(frozen=True)
class PeerTiming:
    """What a package takes, in seconds.

    Args:
        per_step: one optimiser step in the steady state, with its share of what an epoch does besides.
        refit: what a further fit of the same shapes takes over and above its steps: each compiles again.
    """

    per_step: float
    refit: float


def catenets_jax(x: np.ndarray, t: np.ndarray, y: np.ndarray, steps: int, batch_size: int) -> PeerTiming:
    """Times CATENets' TARNet.

    An epoch (`n_iter` counts them) is `round(rows / batch_size)` steps, or one where the rows fit a batch. It never
    takes the last row of its order, so that a last batch that would be full is one row short, and compiled by itself.
    There is no validation split, and no early stopping; every 50th epoch still evaluates the loss, on all rows.

    Args:
        x: covariates [rows, features].
        t: treatment, 0 or 1 [rows].
        y: outcome [rows].
        steps: how many to take, rounded up to whole epochs.
        batch_size: rows of a step.
    """
    with quiet():
        package = importlib.import_module("catenets.models.jax")
        log = importlib.import_module("catenets.logger")
        jax = importlib.import_module("jax")
    x, t, y = _arrays(x, t, y)

    def fit(epochs: int, epoch_done: Callable[[], None]) -> None:
        model = package.TARNet(
            n_layers_r=3,
            n_units_r=200,
            n_layers_out=2,
            n_units_out=100,
            nonlin="elu",
            penalty_l2=0.0,
            step_size=RATE,
            n_iter=epochs,
            batch_size=batch_size,
            val_split_prop=0,
            early_stopping=False,
        )

        # It logs the loss of the first epoch and of every 50th after it; the text has the number, so has waited for it.
        def logged(text: str) -> None:
            epoch_done()

        with mock.patch.object(log, "info", logged):
            model.fit(x, y, t)
        jax.block_until_ready(model._params)  # fit returns while the last steps are still being computed

    return _timing(fit, steps, round(len(x) / batch_size) if batch_size < len(x) else 1)


def causalml_jax(x: np.ndarray, t: np.ndarray, y: np.ndarray, steps: int, batch_size: int) -> PeerTiming:
    """Times causalml's DragonNet, with the loss of its two outcome heads alone; the propensity is still computed.

    One row at least has to be split off to validate on. An epoch is as many full batches as the other rows give; what
    is left over is dropped. After each epoch the validation loss is evaluated, and waited for. The fit is the package's
    Adam phase, without the SGD phase that follows by default.

    Args:
        x: covariates [rows, features].
        t: treatment, 0 or 1 [rows].
        y: outcome [rows].
        steps: how many to take, rounded up to whole epochs.
        batch_size: rows of a step.
    """
    with quiet():
        package = importlib.import_module("causalml.inference.jax.dragonnet")
        losses = importlib.import_module("causalml.inference.jax.utils")
    x, t, y = _arrays(x, t, y)
    loop = package._run_training_loop

    def fit(epochs: int, epoch_done: Callable[[], None]) -> None:
        def whole_loop(val_step_fn: Callable[..., Any], **settings: Any) -> None:
            def validate(*args: Any) -> float:
                loss = float(val_step_fn(*args))  # as the loop does: it waits for the epoch's steps
                epoch_done()
                return loss

            loop(val_step_fn=validate, **settings | {"early_stop_patience": math.inf})

        model = package.DragonNet(
            neurons_per_layer=200,  # and half of them in the heads
            targeted_reg=False,
            loss_func=losses.regression_loss,
            reg_l2=0.0,
            val_split=1,  # an integer counts rows
            batch_size=batch_size,
            use_adam=True,
            adam_epochs=epochs,
            adam_learning_rate=RATE,
            epochs=0,
            verbose=False,
        )
        # The Adam phase gives up after two epochs without progress, and no argument says otherwise. The SGD phase comes
        # through here as well, with no epochs.
        with mock.patch.object(package, "_run_training_loop", whole_loop):
            model.fit(X=x, treatment=t, y=y)

    rows = len(x) - 1
    return _timing(fit, steps, rows // min(batch_size, rows))


PEERS: dict[str, Callable[..., PeerTiming]] = {"catenets_jax": catenets_jax, "causalml_jax": causalml_jax}
PACKAGES = {"catenets_jax": "catenets", "causalml_jax": "causalml"}


def installed() -> dict[str, Callable[..., PeerTiming]]:
    """Returns the peers whose package is there; imports none of them."""
    return {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(PACKAGES[name]) is not None}


def versions() -> dict[str, str]:
    """Returns the version of each package that is there."""
    return {PACKAGES[name]: importlib.metadata.version(PACKAGES[name]) for name in installed()}


def _arrays(x: np.ndarray, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns them in float32, treatment and outcome as plain vectors, whether or not they come as a column."""
    return np.asarray(x, np.float32), np.ravel(t).astype(np.float32), np.ravel(y).astype(np.float32)


def _timing(fit: Fit, steps: int, steps_per_epoch: int) -> PeerTiming:
    """Times a fit from the end of its first epoch: by then every shape has been seen, and all is compiled.

    The difference of a long and a short fit would do as well, but on a machine that others use it drowns in what the
    two compilations, which take as long as thousands of steps, differ by. A fit of one epoch goes first, since
    in a fresh process it also compiles what later fits find compiled.

    Args:
        fit: trains, and returns when all is computed.
        steps: how many to take; at least two epochs are.
        steps_per_epoch: how many the package takes.
    """
    import jax

    epochs = max(math.ceil(steps / steps_per_epoch), 2)
    stamps: list[float] = []

    def stamp() -> None:
        stamps.append(time.perf_counter())

    with quiet(), jax.enable_x64(False):  # in float32, whatever the process computes in
        fit(1, lambda: None)
        stamp()
        fit(epochs, stamp)
        stamp()
    start, first, *_, end = stamps
    per_step = (end - first) / ((epochs - 1) * steps_per_epoch)
    return PeerTiming(per_step, refit=first - start - steps_per_epoch * per_step)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the packages print, log and warn of out of the table; what they raise still arrives."""
    disabled, sink = logging.root.manager.disable, io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
