"""Nets and trees together: each weighed by how well it does on rows that it did not see."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_finite
from torch_ref.common.data.design import finite_features
from torch_ref.common.data.treatment_data import Scales, TreatmentData

from ..propensities import logistic_scores, logistic_weights
from ..rows import draw_folds
from .cross_fit import CrossFit, unseen_logistic
from .stacking import stack_effects, stack_outcomes
from .trees import Trees, fit_trees, trees_from_arrays, trees_to_arrays

LEARNERS = ("nets", "trees, T", "trees, X")


class Blend(NamedTuple):
    """What joins the nets: trees, and the weights of all.

    Attributes:
        trees: T- and X-learners.
        effects: weights of the effects by nets, by the T-learner and by the X-learner, for each arm against the first.
        outcomes: weights of the outcomes by nets and by trees, for each arm.
        intercepts: of the arm's logits, see `logistic_weights`.
        slopes: of the arm's logits, for features in their own unit.
    """

    trees: Trees
    effects: Float[np.ndarray, "others learners"]
    outcomes: Float[np.ndarray, "arms 2"]
    intercepts: Float[np.ndarray, " logits"]
    slopes: Float[np.ndarray, "logits features"]

    def join(
        self, x: Float[np.ndarray, "rows features"], outcomes: Float[np.ndarray, "arms rows"]
    ) -> Float[np.ndarray, "arms rows"]:
        """Returns the expected outcomes by all learners; their differences are the weighted effects.

        Args:
            x: the finite features, in their own unit.
            outcomes: those by the nets.
        """
        score = logistic_scores(self.intercepts, self.slopes, x)
        of_trees = self.trees.outcomes(x)
        each = np.stack([outcomes[1:] - outcomes[0], of_trees[1:] - of_trees[0], self.trees.effects(x, score)])
        gained = np.vstack([np.zeros((1, len(x))), np.einsum("ol,lor->or", self.effects, each)])
        mu = np.einsum("ak,kar->ar", self.outcomes, np.stack([outcomes, of_trees]))
        # Effects are estimated for themselves, so the outcomes move apart around what is expected of the row.
        joined = gained + np.average(mu - gained, axis=0, weights=score)
        return np.clip(joined, 0, 1) if self.trees.scales.binary else joined


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
    x, rows, arms = finite_features(data), of_nets.rows, range(len(data.arms))
    folds = draw_folds(data.t, seed=seed, groups=data.groups)
    logits = logistic_weights(x, data.t)
    # The X-learner of new rows weighs by logistic regression, so it is weighed with one, too.
    score = logistic_scores(*logits, x)
    score[:, rows] = unseen_logistic(data)[:, rows]
    trees, unseen = fit_trees(
        x, data.t, data.y[:, 0], score, folds, w=data.w, scales=scales, seed=seed, threads=threads
    )
    t, y, w, of_trees = of_nets.t, of_nets.y, of_nets.w, unseen.mu[:, rows]
    outcomes, expected = [], []
    for arm in arms:
        both, own = np.stack([of_nets.mu[arm], of_trees[arm]], axis=1), t == arm
        outcomes.append(stack_outcomes(both[own], y[own], None if w is None else w[own]))
        expected.append(both @ outcomes[-1])
    each = [of_nets.mu[1:] - of_nets.mu[0], of_trees[1:] - of_trees[0], unseen.effects[:, rows]]
    alike = dict.fromkeys(LEARNERS, np.full(len(arms) - 1, 1 / len(LEARNERS)))  # until they are weighed
    found = replace(of_nets, mu=np.stack(expected), effects=dict(zip(LEARNERS, each, strict=True)), weights=alike)
    weights = []
    for arm in arms[1:]:
        pair = replace(found, score=score[:, rows]).contrast(data.arms[0], data.arms[arm])
        columns = np.stack(list(pair.effects.values()), axis=1)
        third = pair.score0 if len(arms) > 2 else None
        weights.append(stack_effects(columns, pair.t, y, pair.mu0, pair.mu1, pair.score, w, third))
    of_effects = np.stack(weights)
    found = replace(found, weights=dict(zip(LEARNERS, of_effects.T, strict=True)))
    return Blend(trees, of_effects, np.stack(outcomes), *logits), found


def blend_to_arrays(blend: Blend) -> dict[str, np.ndarray]:
    """Returns a blend as arrays by name, for a file."""
    arrays = {f"trees.{name}": array for name, array in trees_to_arrays(blend.trees).items()}
    return arrays | {
        "effects": blend.effects, "outcomes": blend.outcomes, "slopes": blend.slopes, "intercept": blend.intercepts,
    }  # fmt: skip


def blend_from_arrays(arrays: dict[str, Any], scales: Scales, arms: int = 2) -> Blend:
    """Returns the blend that `blend_to_arrays` turned into arrays, for features and outcome of these scales.

    Args:
        arrays: by name.
        scales: of features and outcome.
        arms: how many there are.

    Raises:
        ImportError: CatBoost is not installed; the message names the extra.
        ValueError: the arrays hold something else.
        KeyError: an array is missing.
    """
    trees = {name.removeprefix("trees."): array for name, array in arrays.items() if name.startswith("trees.")}
    logits, features = 1 if arms == 2 else arms, len(scales.x_mean)
    shapes = {"effects": (arms - 1, 3), "outcomes": (arms, 2), "intercept": (logits,), "slopes": (logits, features)}
    own = []
    for name, shape in shapes.items():
        flat = arms == 2 and arrays[name].ndim < len(shape)  # as older files have it
        own.append(arrays[name][None] if flat else arrays[name])
        check_shape(f"blend.{name}", own[-1], shape)
        check_finite(f"blend.{name}", own[-1])
    return Blend(trees_from_arrays(trees, scales, arms), *own)
