"""Targeted regularisation: the factual loss, one of the propensity head, and one of the targeted outcomes.

As the factual loss splits the batch, so each arm's rows have been through the model already: no row goes through twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.checks.arguments import check_number
from .losses import FactualLoss, sigmoid_binary_cross_entropy, squared_error


@dataclass(frozen=True)
class TargetedLoss(FactualLoss):
    """The factual loss, the cross entropy of the treatment, and the squared error of the targeted outcomes.

    The targeted outcome of a row is its factual one and `epsilon * (t / g - (1 - t) / (1 - g))`, where g is the
    propensity: the sigmoid of the logit, kept from `clip` to `1 - clip`. Under `"sigmoid_binary_cross_entropy"` the
    factual one is the probability. Both further parts divide by the number of rows in the batch.

    Twin: `flax_impl.TargetedLoss`, which masks rows where this one leaves them out.

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
        >>> def model(x, return_propensity):  # every propensity is a half
        ...     return (torch.zeros(len(x), 1), torch.zeros(len(x), 1)), (torch.zeros(len(x)), torch.ones(1))
        >>> x, t, y = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0]), torch.tensor([[1.0], [2.0], [2.0], [3.0]])
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
        x: Float[Tensor, "batch in"],
        t: Int[Tensor, " batch"],
        y: Float[Tensor, "batch out"],
        w: Float[Tensor, " batch"] | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, ""], ...]:
        """Returns `(loss0, loss1, propensity, targeted)`.

        Args:
            model: gives `(y0, y1)` for `x`, and with `return_propensity` the logit and `epsilon` beside them.
            x: the features.
            t: the treatment, 0 or 1.
            y: the outcome under that treatment.
            w: weights of the rows; None is 1 for each. A mean divides by the number of rows, not by their weight.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, shapes that do not fit, or a model without a propensity head.
        """
        seen: list[tuple[Any, Any]] = []

        def keep(x: Tensor) -> Any:
            outcomes, propensity = model(x, return_propensity=True)
            seen.append((outcomes, propensity))
            return outcomes

        losses = super().__call__(keep, x, t, y, w, mask)
        ((y0, _), (logit0, epsilon)), ((_, y1), (logit1, _)) = seen
        w = x.new_ones(len(x)) if w is None else w
        mask = x.new_ones(len(x), dtype=torch.bool) if mask is None else mask.to(torch.bool)
        rows0, rows1 = (t == 0) & mask, (t == 1) & mask
        *_, count, _ = self.counts(t, mask)
        w, y = torch.cat((w[rows0], w[rows1])), torch.cat((y[rows0], y[rows1]))
        logit, outcome = (torch.cat(arms).to(y.dtype) for arms in ((logit0, logit1), (y0, y1)))  # a model may round
        treated = torch.cat((torch.zeros_like(logit0), torch.ones_like(logit1))).to(y.dtype)
        propensity = (sigmoid_binary_cross_entropy(logit, treated) * w).sum() / max(count, 1)
        if self.criterion == "sigmoid_binary_cross_entropy":
            outcome = torch.sigmoid(outcome)
        g = torch.sigmoid(logit).clamp(self.clip, 1 - self.clip)
        outcome = outcome + (epsilon * (treated / g - (1 - treated) / (1 - g)))[:, None]
        targeted = (squared_error(outcome, y).mean(dim=1) * w).sum() / max(count, 1)
        return *losses, self.propensity_weight * propensity, self.targeted_weight * targeted

    def counts(self, t: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"], **batch: Tensor) -> tuple[int, ...]:
        """Returns how many rows each part's mean divides by: those of the factual loss, and twice the whole batch.

        Args:
            t: the treatment, 0 or 1 [batch].
            mask: False for rows that are padding [batch].
            batch: the other arrays, which do not matter here.
        """
        rows = int(mask.sum())
        return *super().counts(t, mask), rows, rows
