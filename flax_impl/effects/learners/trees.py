"""Boosted trees as T- and X-learners: what beats nets where outcomes have steps, and loses to them where not."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.data.treatment_data import Scales, sigmoid

_SETTINGS = {"iterations": 500, "learning_rate": 0.06, "depth": 4, "border_count": 64}


class Trees(NamedTuple):
    """Boosted trees, each the mean over all folds, and the propensity that weighs the X-learner's two effects.

    Attributes:
        outcome0: of the outcome without treatment.
        outcome1: of the outcome with treatment.
        effect0: of the effect, learnt from the untreated rows.
        effect1: of the effect, learnt from the treated rows.
        scales: of features and outcome. Trees learn on standardised numbers, since CatBoost keeps float32 of each.
    """

    outcome0: Any
    outcome1: Any
    effect0: Any
    effect1: Any
    scales: Scales

    def outcomes(self, x: Float[np.ndarray, "rows features"]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the expected outcomes without and with treatment [rows], in the unit of the data."""
        x = self.scales.features(x)
        y0, y1 = (self.scales.outcome(_predicted(of_arm, x)[:, None]) for of_arm in (self.outcome0, self.outcome1))
        return y0[:, 0], y1[:, 0]

    def effects(
        self, x: Float[np.ndarray, "rows features"], score: Float[np.ndarray, " rows"]
    ) -> Float[np.ndarray, " rows"]:
        """Returns the X-learner's effects, in the unit of the outcome.

        Args:
            x: the features, in their own unit.
            score: each row's probability of treatment.
        """
        x = self.scales.features(x)
        return (score * _predicted(self.effect0, x) + (1 - score) * _predicted(self.effect1, x)) * self.scales.y_std[0]


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
    scales: Scales,
    seed: int,
    threads: int,
) -> tuple[Trees, UnseenByTrees]:
    """Trains T- and X-learners fold by fold; returns them, and what each expects of the fold that it did not see.

    Args:
        x: the features, in their own unit.
        t: the treatment, 0 or 1.
        y: the outcome, in its own unit.
        score: each row's probability of treatment, by a model that did not see it.
        folds: for each, the rows that are left out; every row is in one.
        w: weights of the rows, or None; a row of weight 0 is not learnt from.
        scales: of features and outcome.
        seed: of the trees.
        threads: how many cores to use.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.
        ValueError: an arm whose rows outside a fold all have weight 0.

    Source: Kunzel, Sekhon, Bickel, Yu, "Metalearners for estimating heterogeneous treatment effects", PNAS 2019;
    Prokhorenkova et al., "CatBoost: unbiased boosting with categorical features", NeurIPS 2018.
    """
    catboost = _catboost()
    found = np.zeros((3, len(y)))
    models: dict[str, list[Any]] = {"outcome0": [], "outcome1": [], "effect0": [], "effect1": []}

    features = scales.features(x)

    def boosted(name: str, rows: np.ndarray, target: np.ndarray, loss: str = "RMSE") -> Any:
        columns, weights = features[rows], None if w is None else w[rows]
        if not np.ptp(columns.astype(np.float32), axis=0).any():
            # CatBoost refuses features without a difference: here it finds one in rows that do not count.
            columns = np.vstack([columns, columns[:1] - 1, columns[:1] + 1])
            weights = np.append(np.ones(len(rows)) if weights is None else weights, [0, 0])
            target = np.append(target, [target[0]] * 2)
        # CatBoost's way to sample rows fails where all errors are 0 from the start.
        sampling = {} if np.ptp(target.astype(np.float32)) else {"bootstrap_type": "No"}
        model = catboost.CatBoost(
            {**_SETTINGS, **sampling, "loss_function": loss, "random_seed": seed, "thread_count": threads,
             "verbose": False, "allow_writing_files": False, "allow_const_label": True}
        )  # fmt: skip
        model.fit(columns, target, sample_weight=weights)
        models[name].append(model)
        return model

    for unseen in folds:
        known = ~unseen if w is None else ~unseen & (w > 0)
        arms = [np.flatnonzero(known & (t == arm)) for arm in (0, 1)]
        if not all(map(len, arms)):
            raise ValueError("w: expected rows of both arms with a weight above 0 outside each fold, got none of one")
        # CatBoost takes a cross entropy's target as it is; Logloss would take labels that are all 1 for zeros.
        loss = "CrossEntropy" if scales.binary else "RMSE"
        targets = [(y[rows] - scales.y_mean[0]) / scales.y_std[0] for rows in arms]
        outcome0, outcome1 = (boosted(f"outcome{arm}", arms[arm], targets[arm], loss) for arm in (0, 1))
        # What each row would have gained: seen in one arm, expected in the other.
        gained0 = _outcome(outcome1, features[arms[0]], scales.binary) - targets[0]
        gained1 = targets[1] - _outcome(outcome0, features[arms[1]], scales.binary)
        effect0, effect1 = boosted("effect0", arms[0], gained0), boosted("effect1", arms[1], gained1)
        trees = Trees(outcome0, outcome1, effect0, effect1, scales)
        found[:, unseen] = [*trees.outcomes(x[unseen]), trees.effects(x[unseen], score[unseen])]
    shares = [1 / len(folds)] * len(folds)
    whole = {name: catboost.sum_models(of_folds, weights=shares) for name, of_folds in models.items()}
    return Trees(**whole, scales=scales), UnseenByTrees(*found)


def trees_to_arrays(trees: Trees) -> dict[str, np.ndarray]:
    """Returns trees as bytes, by name."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "trees.cbm")
        arrays = {}
        for name in ("outcome0", "outcome1", "effect0", "effect1"):
            getattr(trees, name).save_model(str(path))
            arrays[name] = np.frombuffer(path.read_bytes(), np.uint8)
    return arrays


def trees_from_arrays(arrays: dict[str, np.ndarray], scales: Scales) -> Trees:
    """Returns the trees that `trees_to_arrays` turned into bytes, for features and outcome of these scales.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.
        ValueError: the bytes hold something else, or trees for other features.
    """
    catboost = _catboost()
    models = {}
    for name in ("outcome0", "outcome1", "effect0", "effect1"):
        try:
            models[name] = catboost.CatBoost().load_model(blob=arrays[name].tobytes())
        except (KeyError, catboost.CatBoostError) as error:
            raise ValueError(f"trees.{name}: expected boosted trees, got {error!r}") from error
        features, expected = len(models[name].feature_names_), len(scales.x_mean)
        if features != expected:
            raise ValueError(f"trees.{name}: expected trees for {expected} features, got {features}")
    return Trees(**models, scales=scales)


def _predicted(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(x, prediction_type="RawFormulaVal"), np.float64)


def _outcome(model: Any, x: np.ndarray, binary: bool) -> np.ndarray:
    """Returns a standardised outcome, or a probability."""
    raw = _predicted(model, x)
    return sigmoid(raw) if binary else raw


def _catboost() -> Any:
    try:
        import catboost
    except ImportError as error:
        raise ImportError("learners with trees need CatBoost: pip install 'twohead[trees]'") from error
    return catboost
