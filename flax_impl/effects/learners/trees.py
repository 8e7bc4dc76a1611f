"""Boosted trees as T- and X-learners: what beats nets where outcomes have steps, and loses to them where not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.data.treatment_data import Scales, sigmoid

_SETTINGS = {"iterations": 500, "learning_rate": 0.06, "depth": 4, "border_count": 64}


class Trees(NamedTuple):
    """Boosted trees of each arm, each the mean over all folds.

    Attributes:
        of_outcomes: of the outcome in each arm [arms].
        of_effects: of the effect of each arm against the first: learnt from the first's rows, and from its own
            [arms - 1].
        scales: of features and outcome. Trees learn on standardised numbers, since CatBoost keeps float32 of each.
    """

    of_outcomes: tuple[Any, ...]
    of_effects: tuple[tuple[Any, Any], ...]
    scales: Scales

    def outcomes(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "arms rows"]:
        """Returns the expected outcome in each arm, in the unit of the data."""
        x = self.scales.features(x)
        return np.stack([self.scales.outcome(_predicted(of_arm, x)[:, None])[:, 0] for of_arm in self.of_outcomes])

    def effects(
        self, x: Float[np.ndarray, "rows features"], score: Float[np.ndarray, "arms rows"]
    ) -> Float[np.ndarray, "others rows"]:
        """Returns the X-learner's effects of each arm against the first, in the unit of the outcome.

        Args:
            x: the features, in their own unit.
            score: each row's probability of each arm, which weighs the two effects.
        """
        x, found = self.scales.features(x), []
        for (by_first, by_own), of_arm in zip(self.of_effects, score[1:], strict=True):
            share = of_arm / (score[0] + of_arm)
            found.append((share * _predicted(by_first, x) + (1 - share) * _predicted(by_own, x)) * self.scales.y_std[0])
        return np.stack(found)


class UnseenByTrees(NamedTuple):
    """What trees expect of the rows that they did not see.

    Attributes:
        mu: the outcome in each arm.
        effects: the X-learner's effects of each arm against the first.
    """

    mu: Float[np.ndarray, "arms rows"]
    effects: Float[np.ndarray, "others rows"]


def fit_trees(
    x: Float[np.ndarray, "rows features"],
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, "arms rows"],
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
        t: the arm of each row, from 0 on.
        y: the outcome, in its own unit.
        score: each row's probability of each arm, by a model that did not see it.
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
    arms = len(score)
    mu, effects = np.zeros((arms, len(y))), np.zeros((arms - 1, len(y)))
    models: dict[str, list[Any]] = {name: [] for name in _names(arms)}

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
        of_arms = [np.flatnonzero(known & (t == arm)) for arm in range(arms)]
        if not all(map(len, of_arms)):
            every = "both arms" if arms == 2 else "all arms"
            raise ValueError(f"w: expected rows of {every} with a weight above 0 outside each fold, got none of one")
        # CatBoost takes a cross entropy's target as it is; Logloss would take labels that are all 1 for zeros.
        loss = "CrossEntropy" if scales.binary else "RMSE"
        targets = [(y[rows] - scales.y_mean[0]) / scales.y_std[0] for rows in of_arms]
        made = {f"outcome{arm}": boosted(f"outcome{arm}", of_arms[arm], targets[arm], loss) for arm in range(arms)}
        for arm in range(1, arms):
            # What each row would have gained: seen in one arm, expected in the other.
            by_first, by_own = _effect_names(arm)
            gained0 = _outcome(made[f"outcome{arm}"], features[of_arms[0]], scales.binary) - targets[0]
            gained1 = targets[arm] - _outcome(made["outcome0"], features[of_arms[arm]], scales.binary)
            made[by_first], made[by_own] = (
                boosted(by_first, of_arms[0], gained0),
                boosted(by_own, of_arms[arm], gained1),
            )
        trees = _trees(made, arms, scales)
        mu[:, unseen], effects[:, unseen] = trees.outcomes(x[unseen]), trees.effects(x[unseen], score[:, unseen])
    shares = [1 / len(folds)] * len(folds)
    whole = {name: catboost.sum_models(of_folds, weights=shares) for name, of_folds in models.items()}
    return _trees(whole, arms, scales), UnseenByTrees(mu, effects)


def trees_to_arrays(trees: Trees) -> dict[str, np.ndarray]:
    """Returns trees as bytes, by name."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "trees.cbm")
        arrays = {}
        effects = [model for pair in trees.of_effects for model in pair]
        names = _names(len(trees.of_outcomes))
        for name, model in zip(names, (*trees.of_outcomes, *effects), strict=True):
            model.save_model(str(path))
            arrays[name] = np.frombuffer(path.read_bytes(), np.uint8)
    return arrays


def trees_from_arrays(arrays: dict[str, np.ndarray], scales: Scales, arms: int = 2) -> Trees:
    """Returns the trees that `trees_to_arrays` turned into bytes, for features and outcome of these scales.

    Args:
        arrays: the bytes, by name.
        scales: of features and outcome.
        arms: how many there are.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.
        ValueError: the bytes hold something else, or trees for other features.
    """
    catboost = _catboost()
    models = {}
    for name in _names(arms):
        try:
            models[name] = catboost.CatBoost().load_model(blob=arrays[name].tobytes())
        except (KeyError, catboost.CatBoostError) as error:
            raise ValueError(f"trees.{name}: expected boosted trees, got {error!r}") from error
        features, expected = len(models[name].feature_names_), len(scales.x_mean)
        if features != expected:
            raise ValueError(f"trees.{name}: expected trees for {expected} features, got {features}")
    return _trees(models, arms, scales)


def _names(arms: int) -> list[str]:
    """Returns the names of all trees in a file: first those of the outcomes."""
    return [f"outcome{arm}" for arm in range(arms)] + [name for arm in range(1, arms) for name in _effect_names(arm)]


def _effect_names(arm: int) -> tuple[str, str]:
    """Returns the names of an arm's effects: learnt from the first arm's rows, and from its own."""
    return ("effect0", "effect1") if arm == 1 else (f"effect0 of {arm}", f"effect1 of {arm}")


def _trees(models: Mapping[str, Any], arms: int, scales: Scales) -> Trees:
    """Returns the trees by their names."""
    pairs = (_effect_names(arm) for arm in range(1, arms))
    outcomes = tuple(models[f"outcome{arm}"] for arm in range(arms))
    return Trees(outcomes, tuple((models[one], models[two]) for one, two in pairs), scales)


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
