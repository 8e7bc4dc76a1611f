"""Nets and trees together: each weighed by how well it does on rows that it did not see."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_finite
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import Scales, TreatmentData

from ..propensities import logistic_score, logistic_weights
from ..rows import draw_folds
from .cross_fit import CrossFit
from .stacking import stack_effects, stack_outcomes
from .trees import Trees, fit_trees, trees_from_arrays, trees_to_arrays

LEARNERS = ("nets", "trees, T", "trees, X")


class Blend(NamedTuple):
    """What joins the nets: trees, and the weights of all.

    Attributes:
        trees: T- and X-learners.
        effects: weights of the effects by nets, by the T-learner and by the X-learner [3].
        outcomes: weights of the outcomes by nets and by trees, for each arm [2, 2].
        intercept: of the propensity's log odds.
        slopes: of the propensity's log odds, for features in their own unit [features].
    """

    trees: Trees
    effects: Float[np.ndarray, " learners"]
    outcomes: Float[np.ndarray, "arms 2"]
    intercept: float
    slopes: Float[np.ndarray, " features"]

    def join(
        self, x: Float[np.ndarray, "rows features"], y0: Float[np.ndarray, " rows"], y1: Float[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Returns both expected outcomes by all learners; their difference is the weighted effect.

        Args:
            x: the finite features, in their own unit.
            y0: the outcome without treatment, by the nets.
            y1: the outcome with treatment, by the nets.
        """
        score = logistic_score(self.intercept, self.slopes, x)
        of_trees = self.trees.outcomes(x)
        each = np.stack([y1 - y0, of_trees[1] - of_trees[0], self.trees.effects(x, score)], axis=1)
        mu0, mu1 = (
            np.stack([nets, trees], axis=1) @ w
            for nets, trees, w in zip((y0, y1), of_trees, self.outcomes, strict=True)
        )
        effect = each @ self.effects
        # The effect is estimated for itself, so the outcomes move apart around what is expected of the row.
        mean = (1 - score) * mu0 + score * mu1
        y0, y1 = mean - score * effect, mean + (1 - score) * effect
        return (np.clip(y0, 0, 1), np.clip(y1, 0, 1)) if self.trees.scales.binary else (y0, y1)


def fit_blend(
    data: TreatmentData, of_nets: CrossFit, *, scales: Scales, seed: int, threads: int
) -> tuple[Blend, CrossFit]:
    """Trains trees, weighs them and the nets, and returns both, and what they expect of rows that they did not see.

    Args:
        data: the table.
        of_nets: what the nets expect of the rows that they did not see.
        scales: of the finite features, see `finite_features`, and of the outcome.
        seed: of folds and trees.
        threads: how many cores to use.

    Raises:
        ImportError: CatBoost or scikit-learn is not installed; the message names the extra.
        ValueError: an arm with a single row, or whose rows all have weight 0.
    """
    x, rows, score = finite_features(data), of_nets.rows, np.full(len(data), np.nan)
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    score[rows] = of_nets.score
    unknown = np.isnan(score)
    intercept, slopes = logistic_weights(x, data.t)
    score[unknown] = logistic_score(intercept, slopes, x[unknown])
    trees, unseen = fit_trees(
        x, data.t, data.y[:, 0], score, folds, w=data.w, scales=scales, seed=seed, threads=threads
    )
    t, y, w = of_nets.t, of_nets.y, of_nets.w
    outcomes, expected = [], []
    for arm, nets, mu in ((0, of_nets.mu0, unseen.mu0), (1, of_nets.mu1, unseen.mu1)):
        both, own = np.stack([nets, mu[rows]], axis=1), t == arm
        outcomes.append(stack_outcomes(both[own], y[own], None if w is None else w[own]))
        expected.append(both @ outcomes[-1])
    mu0, mu1 = expected
    each = [of_nets.mu1 - of_nets.mu0, (unseen.mu1 - unseen.mu0)[rows], unseen.effect[rows]]
    weights = stack_effects(np.stack(each, axis=1), t, y, mu0, mu1, of_nets.score, w)
    found = replace(
        of_nets, mu0=mu0, mu1=mu1, effects=dict(zip(LEARNERS, each, strict=True)),
        weights=dict(zip(LEARNERS, weights.tolist(), strict=True)),
    )  # fmt: skip
    return Blend(trees, weights, np.stack(outcomes), intercept, slopes), found


def blend_to_arrays(blend: Blend) -> dict[str, np.ndarray]:
    """Returns a blend as arrays by name, for a file."""
    arrays = {f"trees.{name}": array for name, array in trees_to_arrays(blend.trees).items()}
    return arrays | {
        "effects": blend.effects, "outcomes": blend.outcomes, "slopes": blend.slopes,
        "intercept": np.array([blend.intercept]),
    }  # fmt: skip


def blend_from_arrays(arrays: dict[str, Any], scales: Scales) -> Blend:
    """Returns the blend that `blend_to_arrays` turned into arrays, for features and outcome of these scales.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.
        ValueError: the arrays hold something else.
        KeyError: an array is missing.
    """
    trees = {name.removeprefix("trees."): array for name, array in arrays.items() if name.startswith("trees.")}
    shapes = {"effects": (3,), "outcomes": (2, 2), "intercept": (1,), "slopes": (len(scales.x_mean),)}
    for name, shape in shapes.items():
        check_shape(f"blend.{name}", arrays[name], shape)
        check_finite(f"blend.{name}", arrays[name])
    own = (arrays["effects"], arrays["outcomes"], float(arrays["intercept"][0]), arrays["slopes"])
    return Blend(trees_from_arrays(trees, scales), *own)
