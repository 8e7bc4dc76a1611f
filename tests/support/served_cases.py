"""Models to be exported, and rows to ask them about."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from flax_impl.data import TreatmentData, synthetic
from flax_impl.effects import EffectModel, EffectSettings, fit_effects
from flax_impl.effects.learners.blend import Blend
from flax_impl.effects.learners.trees import Trees
from torch_ref.common.data.columns import Column

SMALL = EffectSettings(representation_features=[8, 8], head_features=[6], members=3, epochs=3, validation_share=0)
NAMES = ("income", "owner", "rooms", "const", "Ø height", "constant_3")
COLUMNS = (
    Column("age", None, True),
    Column("income"),
    Column("city", ("Bonn", "Oslo", "Rome"), True),
    Column("plan", (1.5, 7.0, 3.0)),
    Column("shop", tuple(f"shop {number}" for number in range(40))),
    Column("street", tuple(f"street {number}" for number in range(25)), True),
    Column("paid", None, True),
)
NEAR = 8000  # as many rows are like those of the training


class Case(NamedTuple):
    """A model, and rows to ask it about."""

    model: EffectModel
    x: np.ndarray
    alpha: float = 0.05


def table(binary: bool = False, rows: int = 150, arms: int = 2) -> TreatmentData:
    """Returns a table with columns of several kinds: far from 0, of two values, of a few, constant."""
    data = synthetic(rows=rows, features=6, seed=1)
    x = data.x.copy()
    x[:, 0] = 1e6 + 3 * x[:, 0]
    x[:, 1] = x[:, 1] > 0
    x[:, 2] = np.round(x[:, 2])
    x[:, 3] = 5.0
    y = (data.y > np.median(data.y)).astype(float) if binary else 40 + 7 * data.y
    t = data.t if arms == 2 else np.arange(rows, dtype=np.int32) % arms
    labels = (0, 1) if arms == 2 else ("none", *(f"dose {arm}" for arm in range(1, arms)))
    return replace(data, x=x, t=t, y=y, feature_names=NAMES, arms=labels)


def mixed_table(arms: int = 2, rows: int = 300) -> TreatmentData:
    """Returns a table with categories of few and of many levels, and with gaps."""
    generator, data = np.random.default_rng(5), table(rows=rows, arms=arms)
    x = np.stack([_drawn(column, rows, generator) for column in COLUMNS], axis=1)
    # Levels that the table has no row of.
    x[:, 4] = np.where(x[:, 4] == 3, 4, x[:, 4])
    x[:, 2] = np.where(x[:, 2] == 1, 2, x[:, 2])
    return replace(data, x=x, feature_names=tuple(column.name for column in COLUMNS), columns=COLUMNS)


def _drawn(column: Column, rows: int, generator: np.random.Generator) -> np.ndarray:
    if column.levels is not None:
        values = generator.integers(0, len(column.levels), rows).astype(float)
    else:
        values = np.round(generator.normal(50, 20, rows), 1)
    return np.where(generator.random(rows) < 0.2, np.nan, values) if column.gaps else values


def asked(data: TreatmentData, rows: int = 10_000) -> np.ndarray:
    """Returns rows of a table, with values seen in training and near them, and unseen levels; after `NEAR`, far off."""
    generator = np.random.default_rng(0)
    x = data.x[generator.integers(0, len(data), rows)]
    spread = np.nanstd(data.x, axis=0) * generator.normal(size=x.shape)
    moved = x + spread * generator.choice([0, 1e-9, 1], size=x.shape)
    moved[NEAR:] += 30 * spread[NEAR:]
    x = np.where(generator.random(x.shape) < 0.5, x, moved)
    for place, column in enumerate(data.columns or ()):
        if column.levels is not None:
            x[:, place] = _drawn(column, rows, generator)
            x[generator.random(rows) < 0.1, place] = -1
    return x


def with_trees(model: EffectModel, data: TreatmentData) -> EffectModel:
    """Returns a model with a few trees beside its nets, each weighed by what comes to mind."""
    catboost = pytest.importorskip("catboost")
    scales, finite, others = model.ensemble.finite_scales, model.ensemble.finite(data.x), len(model.arms) - 1
    x, generator = scales.features(finite), np.random.default_rng(0)
    y = data.y[:, 0] if scales.binary else (data.y[:, 0] - scales.y_mean[0]) / scales.y_std[0]

    def boosted(loss: str) -> object:
        of_folds = []
        for seed in range(2):
            made = catboost.CatBoost(
                {"iterations": 20, "depth": 4 - seed, "border_count": 64, "loss_function": loss, "thread_count": 1,
                 "verbose": False, "allow_writing_files": False, "random_seed": seed}
            )  # fmt: skip
            of_folds.append(made.fit(x, np.where(generator.random(len(x)) < 0.3, 1 - y, y)))
        return catboost.sum_models(of_folds, weights=[0.5, 0.5])

    outcomes = tuple(boosted("CrossEntropy" if scales.binary else "RMSE") for _ in model.arms)
    effects = tuple((boosted("RMSE"), boosted("RMSE")) for _ in range(others))
    weights = generator.dirichlet(np.ones(3), size=others), generator.dirichlet(np.ones(2), size=others + 1)
    slopes = generator.normal(size=(1 if others == 1 else others + 1, x.shape[1])) / scales.x_std
    blend = Blend(Trees(outcomes, effects, scales), *weights, -slopes @ scales.x_mean, slopes)
    return EffectModel(model.ensemble._replace(blend=blend), model.outputs)


def calibrated(model: EffectModel) -> EffectModel:
    """Returns a model with calibrated intervals of some width for each pair of arms."""
    pairs = len(model.arms) * (len(model.arms) - 1) // 2
    found = np.stack([np.append(0.3 + pair, np.linspace(0, 3 + pair, 1001)) for pair in range(pairs)])
    return EffectModel(model.ensemble._replace(calibration=found), model.outputs)


def make_case(kind: str) -> Case:
    """Returns a model of a kind: words that say what is in it."""
    arms = 3 if "three arms" in kind else 2
    data = mixed_table(arms) if "mixed" in kind else table("binary" in kind, arms=arms)
    if "targeted" in kind:
        settings = replace(SMALL, targeted=True)
    elif "plain" in kind:
        settings = replace(SMALL, bins=0, gates=False, members=1, representation_features=[], activation="elu")
    else:
        settings = replace(SMALL, bootstrap=True, binary="binary" in kind)
    model = fit_effects(data, settings, progress=False)
    model = with_trees(model, data) if "trees" in kind else model
    return Case(
        calibrated(model) if "calibrated" in kind else model, asked(data), 0.2 if "calibrated" in kind else 0.05
    )
