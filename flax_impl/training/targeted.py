"""Targeted regularisation: the factual loss, one of the propensity head, and one of the targeted outcomes.

Nothing is split: a mask says which rows count, and what the others hold is cleaned before it enters a loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_number

from ..models.layers import keep_rows
from .losses import FactualLoss, sigmoid_binary_cross_entropy, squared_error
from .traced_settings import traced


@traced("head_weights", "propensity_weight", "targeted_weight")  # not clip, which is subtracted from 1
@dataclass(frozen=True)
class TargetedLoss(FactualLoss):
    """The factual loss, the cross entropy of the treatment, and the squared error of the targeted outcomes.

    The targeted outcome of a row is its factual one and `epsilon * (t / g - (1 - t) / (1 - g))`, where g is the
    propensity: the sigmoid of the logit, kept from `clip` to `1 - clip`. Under `"sigmoid_binary_cross_entropy"` the
    factual one is the probability. Both further parts divide by the number of rows in the batch.

    Twin: `torch_ref.TargetedLoss`, which leaves rows out where this one masks them.

    Args:
        criterion: as for `FactualLoss`.
        reduction: as for `FactualLoss`; of its two parts only.
        head_weights: factors of the two heads' parts; None is 1 for each.
        propensity_weight: factor of the cross entropy.
        targeted_weight: factor of the targeted part.
        clip: how near to 0 and 1 a propensity may come in the targeted part; below 0.5.
        arms: 2, as there is one propensity.

    Raises:
        ValueError: as for `FactualLoss`; a factor below 0, a `clip` that is not between 0 and 0.5, or more arms.

    Example:
        >>> def model(x, t, return_propensity):  # every propensity is a half
        ...     return jnp.zeros((len(x), 1)), (jnp.zeros(len(x)), jnp.ones(1))
        >>> x, t, y = jnp.zeros((4, 3)), jnp.array([0, 1, 1, 0]), jnp.array([[1.0], [2.0], [2.0], [3.0]])
        >>> [round(float(loss), 2) for loss in TargetedLoss()(model, x, t, y)]
        [5.0, 4.0, 0.69, 8.5]

    Source: DragonNet; Shi, Blei, Veitch, "Adapting neural networks for the estimation of treatment effects", NeurIPS
        2019.
    """

    propensity_weight: float = 1.0
    targeted_weight: float = 1.0
    clip: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arms > 2:
            raise ValueError(f"arms: expected 2, as targeted regularisation is for two arms, got {self.arms}")
        for name in ("propensity_weight", "targeted_weight"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), at_least=0))
        object.__setattr__(self, "clip", check_number("clip", self.clip, above=0, below=0.5))

    def __call__(
        self,
        model: Callable[..., Any],
        x: Float[Array, "batch in"],
        t: Int[Array, " batch"],
        y: Float[Array, "batch out"],
        w: Float[Array, " batch"] | None = None,
        mask: Bool[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, ""], ...]:
        """Returns `(loss0, loss1, propensity, targeted)`.

        Args:
            model: gives the factual outcome for `x` and `t`, and with `return_propensity` the logit and `epsilon`
                beside it.
            x: the features.
            t: the treatment, 0 or 1.
            y: the outcome under that treatment.
            w: weights of the rows; None is 1 for each. A mean divides by the number of rows, not by their weight.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, shapes that do not fit, or a model without a propensity head.
        """
        seen: list[tuple[Any, Any]] = []

        def keep(x: Array, t: Array) -> Any:
            outcome, propensity = model(x, t, return_propensity=True)
            seen.append((outcome, propensity))
            return outcome

        losses = super().__call__(keep, x, t, y, w, mask)
        [(outcome, (logit, epsilon))] = seen
        w = jnp.ones(len(x), y.dtype) if w is None else w
        mask = jnp.ones(len(x), bool) if mask is None else mask.astype(bool)
        rows = ((t == 0) | (t == 1)) & mask
        count = jnp.maximum(rows.sum(), 1).astype(y.dtype)
        w, y, outcome = jnp.where(rows, w, 0), keep_rows(y, rows), keep_rows(outcome, rows)
        logit = jnp.where(rows, logit, 0)
        treated = jnp.where(rows, t == 1, False).astype(logit.dtype)
        propensity = (sigmoid_binary_cross_entropy(logit, treated) * w).sum() / count
        if self.criterion == "sigmoid_binary_cross_entropy":
            outcome = jax.nn.sigmoid(outcome)
        g = _clamp(jax.nn.sigmoid(logit), self.clip, 1 - self.clip)
        outcome = outcome + (epsilon * (treated / g - (1 - treated) / (1 - g)))[:, None]
        targeted = (squared_error(outcome, y).mean(axis=1) * w).sum() / count
        parts = self.propensity_weight * propensity, self.targeted_weight * targeted
        return *losses, *(part.astype(losses[0].dtype) for part in parts)


def _clamp(g: Float[Array, " batch"], least: float, most: float) -> Float[Array, " batch"]:
    # With torch's slopes at both bounds, which are 1; those of jnp.clip are a half.
    return jnp.where(g < least, least, jnp.where(g > most, most, g))
