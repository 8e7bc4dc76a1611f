"""Boosted trees as T- and X-learners: what beats nets where outcomes have steps, and loses to them where not."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_SETTINGS = {"iterations": 500, "learning_rate": 0.06, "depth": 4, "border_count": 64}


class Trees(NamedTuple):
    """Boosted trees, each the mean over all folds, and the propensity that weighs the X-learner's two effects.

    Attributes:
        outcome0: of the outcome without treatment.
        outcome1: of the outcome with treatment.
        effect0: of the effect, learnt from the untreated rows.
        effect1: of the effect, learnt from the treated rows.
        binary: the outcomes are probabilities.
    """

    outcome0: Any
    outcome1: Any
    effect0: Any
    effect1: Any
    binary: bool

    def outcomes(self, x: Float[np.ndarray, "rows features"]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the expected outcomes without and with treatment [rows]."""
        return _predicted(self.outcome0, x, self.binary), _predicted(self.outcome1, x, self.binary)

    def effects(
        self, x: Float[np.ndarray, "rows features"], score: Float[np.ndarray, " rows"]
    ) -> Float[np.ndarray, " rows"]:
        """Returns the X-learner's effects.

        Args:
            x: the features, in their own unit.
            score: each row's probability of treatment.
        """
        return score * _predicted(self.effect0, x) + (1 - score) * _predicted(self.effect1, x)


class UnseenByTrees(NamedTuple):
    """What trees expect of the rows that they did not see.

    Attributes:
        mu0: the outcome without treatment.
        mu1: the outcome with treatment.
        effect: the X-learner's effect.
    """

    mu0: Float[np.ndarray, " rows"]
    mu1: Float[np.ndarray, " rows"]
    effect: Float[np.ndarray, " rows"]


def fit_trees(
    x: Float[np.ndarray, "rows features"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    folds: Sequence[Bool[np.ndarray, " rows"]],
    *,
    w: Float[np.ndarray, " rows"] | None,
    binary: bool,
    seed: int,
    threads: int,
) -> tuple[Trees, UnseenByTrees]:
    """Trains T- and X-learners fold by fold; returns them, and what each expects of the fold that it did not see.

    Args:
        x: the features, in their own unit.
        t: the treatment, 0 or 1.
        y: the outcome, in its own unit.
        score: each row's probability of treatment, by a model that did not see it.
        folds: for each, the rows that are left out; every row is in at least one.
        w: weights of the rows, or None.
        binary: the outcome is 0 or 1.
        seed: of the trees.
        threads: how many cores to use.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.

    Source: Kunzel, Sekhon, Bickel, Yu, "Metalearners for estimating heterogeneous treatment effects", PNAS 2019;
    Prokhorenkova et al., "CatBoost: unbiased boosting with categorical features", NeurIPS 2018.
    """
    catboost = _catboost()
    sums, counts = np.zeros((3, len(y))), np.zeros(len(y))
    models: dict[str, list[Any]] = {"outcome0": [], "outcome1": [], "effect0": [], "effect1": []}

    def boosted(name: str, rows: np.ndarray, target: np.ndarray, loss: str) -> Any:
        model = catboost.CatBoost(
            {**_SETTINGS, "loss_function": loss, "random_seed": seed, "thread_count": threads, "verbose": False,
             "allow_writing_files": False, "allow_const_label": True}
        )  # fmt: skip
        model.fit(x[rows], target, sample_weight=None if w is None else w[rows])
        models[name].append(model)
        return model

    for unseen in folds:
        arms = [np.flatnonzero(~unseen & (t == arm)) for arm in (0, 1)]
        of_outcome = "Logloss" if binary else "RMSE"
        outcome0, outcome1 = (boosted(f"outcome{arm}", arms[arm], y[arms[arm]], of_outcome) for arm in (0, 1))
        # What each row would have gained: seen in one arm, expected in the other.
        gained0 = _predicted(outcome1, x[arms[0]], binary) - y[arms[0]]
        gained1 = y[arms[1]] - _predicted(outcome0, x[arms[1]], binary)
        trees = Trees(
            outcome0, outcome1, boosted("effect0", arms[0], gained0, "RMSE"),
            boosted("effect1", arms[1], gained1, "RMSE"), binary,
        )  # fmt: skip
        sums[:, unseen] += [*trees.outcomes(x[unseen]), trees.effects(x[unseen], score[unseen])]
        counts[unseen] += 1
    shares = [1 / len(folds)] * len(folds)
    whole = {name: catboost.sum_models(of_folds, weights=shares) for name, of_folds in models.items()}
    return Trees(**whole, binary=binary), UnseenByTrees(*(sums / counts))


def trees_to_arrays(trees: Trees) -> dict[str, np.ndarray]:
    """Returns trees as bytes, by name."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "trees.cbm")
        arrays = {}
        for name in ("outcome0", "outcome1", "effect0", "effect1"):
            getattr(trees, name).save_model(str(path))
            arrays[name] = np.frombuffer(path.read_bytes(), np.uint8)
    return arrays


def trees_from_arrays(arrays: dict[str, np.ndarray], binary: bool) -> Trees:
    """Returns the trees that `trees_to_arrays` turned into bytes.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.
        ValueError: the bytes hold something else.
    """
    catboost = _catboost()
    models = {}
    for name in ("outcome0", "outcome1", "effect0", "effect1"):
        try:
            models[name] = catboost.CatBoost().load_model(blob=arrays[name].tobytes())
        except (KeyError, catboost.CatBoostError) as error:
            raise ValueError(f"trees.{name}: expected boosted trees, got {error!r}") from error
    return Trees(**models, binary=binary)


def _predicted(model: Any, x: np.ndarray, binary: bool = False) -> np.ndarray:
    raw = np.asarray(model.predict(x, prediction_type="RawFormulaVal"), np.float64)
    return np.exp(-np.logaddexp(0, -raw)) if binary else raw


def _catboost() -> Any:
    try:
        import catboost
    except ImportError as error:
        raise ImportError("learners with trees need CatBoost: pip install 'twohead[trees]'") from error
    return catboost
