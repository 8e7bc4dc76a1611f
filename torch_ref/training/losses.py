"""What a training minimises: elementwise losses, and the losses of both models, a number for each output.

The factual loss is written as the article writes it: the batch is split on `t`, and each part goes through the model.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.checks.arguments import check_choice, check_each, check_integer, check_pair, check_shape
from ..common.checks.arrays import check_arms, check_rows


def squared_error(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns `(prediction - target) ** 2`, elementwise; without the half that `optax.l2_loss` puts before it.

    Twin: `flax_impl.training.squared_error`.

    Args:
        prediction: of any shape.
        target: of the same shape and dtype.

    Returns:
        The losses, in the shape of `prediction` and the square of its unit.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Example:
        >>> squared_error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).tolist()
        [0.0, 4.0]
    """
    check_shape("target", target, tuple(prediction.shape))
    return F.mse_loss(prediction, target, reduction="none")


def sigmoid_binary_cross_entropy(
    prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Returns the negative log likelihood of labels under `sigmoid(prediction)`, elementwise.

    Twin: `flax_impl.training.sigmoid_binary_cross_entropy`. Where `sigmoid` of a right prediction rounds to its label,
    the gradient is 0 here, and small there.

    Args:
        prediction: logits; a probability would lose its digits near 0 and 1.
        target: labels from 0 to 1, of the same shape and dtype.

    Returns:
        The losses in nats, in the shape of `prediction`.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Example:
        >>> losses = sigmoid_binary_cross_entropy(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))
        >>> [round(float(loss), 2) for loss in losses]
        [0.69, 0.13]
    """
    check_shape("target", target, tuple(prediction.shape))
    return F.binary_cross_entropy_with_logits(prediction, target, reduction="none")


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid_binary_cross_entropy": sigmoid_binary_cross_entropy,
    "squared_error": squared_error,
}


@dataclass(frozen=True)
class FactualLoss:
    """The loss of the two-head model on the outcomes that were observed: a part for each head, to be added.

    Rows of the other head, and rows that `mask` leaves out, count nowhere, whatever they hold. A head without rows has
    loss 0 and gradient zero.

    Twin: `flax_impl.FactualLoss`, which masks rows where this one leaves them out.

    Args:
        criterion: `"squared_error"` or `"sigmoid_binary_cross_entropy"`.
        reduction: `"per_head"` divides each head's weighted sum by its own number of rows, as the article does;
            `"batch"` divides all by the number of rows in the batch, as CFR does with `treatment_weights`.
        head_weights: factors of the parts; None is 1 for each.
        arms: how many treatments there are, and heads, and parts.

    Raises:
        ValueError: an unknown criterion or reduction, less than two arms, or weights that are not a number of at least
            0 for each.

    Example:
        >>> def model(x):
        ...     return torch.zeros(len(x), 1), torch.zeros(len(x), 1)
        >>> x, t, y = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0]), torch.tensor([[1.0], [2.0], [2.0], [3.0]])
        >>> [float(loss) for loss in FactualLoss()(model, x, t, y)]
        [5.0, 4.0]
        >>> [float(loss) for loss in FactualLoss(reduction="batch")(model, x, t, y)]
        [2.5, 2.0]
    """

    criterion: str = "squared_error"
    reduction: Literal["per_head", "batch"] = "per_head"
    head_weights: tuple[float, ...] | None = None
    arms: int = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("criterion", self.criterion, CRITERIA)
        check_choice("reduction", self.reduction, ("per_head", "batch"))
        object.__setattr__(self, "arms", check_integer("arms", self.arms, at_least=2))
        weights = (1.0,) * self.arms if self.head_weights is None else self.head_weights
        object.__setattr__(self, "head_weights", check_each("head_weights", weights, self.arms, at_least=0))

    def __call__(
        self,
        model: Callable[..., Any],
        x: Float[Tensor, "batch in"],
        t: Int[Tensor, " batch"],
        y: Float[Tensor, "batch out"],
        w: Float[Tensor, " batch"] | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, ""], ...]:
        """Returns `(loss0, loss1)`, or a part for each of more arms.

        Args:
            model: gives `(y0, y1)` for `x`, or an outcome for each of more arms.
            x: the features.
            t: the treatment, 0 to `arms - 1`.
            y: the outcome under that treatment.
            w: weights of the rows; None is 1 for each. A mean divides by the number of rows, not by their weight.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, shapes that do not fit, or a model of other arms.
        """
        w, mask = _rows(w, mask, x=x)
        check_shape("t", t, (len(x),))
        check_arms("t", torch.where(mask, t, 0).cpu().numpy(), self.arms)
        rows = [(t == arm) & mask for arm in range(self.arms)]
        outcomes = [self._of_arm(model(x[chosen]), arm) for arm, chosen in enumerate(rows)]
        check_shape("y", y, (len(x), outcomes[0].shape[1]))
        assert self.head_weights is not None  # __post_init__ has seen to it
        parts = zip(self.head_weights, outcomes, rows, self.counts(t, mask)[: self.arms], strict=True)
        return tuple(
            weight * _mean(CRITERIA[self.criterion](outcome, y[chosen]), w[chosen], count)
            for weight, outcome, chosen, count in parts
        )

    def _of_arm(self, outcomes: Any, arm: int) -> Float[Tensor, "rows out"]:
        if len(outcomes) != self.arms:
            raise ValueError(f"model: expected outcomes under {self.arms} arms, got {len(outcomes)}")
        return outcomes[arm]

    def counts(self, t: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"], **batch: Tensor) -> tuple[int, ...]:
        """Returns how many rows each part's mean divides by.

        Args:
            t: the treatment, 0 to `arms - 1` [batch].
            mask: False for rows that are padding [batch].
            batch: the other arrays, which do not matter here.
        """
        counts = tuple(int(((t == arm) & mask).sum()) for arm in range(self.arms))
        return counts if self.reduction == "per_head" else (sum(counts),) * self.arms


@dataclass(frozen=True)
class JointLoss:
    """The loss of the two-input/two-output model: a mean for each output, to be added.

    Twin: `flax_impl.JointLoss`, which masks rows where this one leaves them out.

    Args:
        criterion: `"squared_error"` or `"sigmoid_binary_cross_entropy"`.
        output_weights: factors of the two parts.

    Raises:
        ValueError: an unknown criterion, or weights that are not two numbers of at least 0.

    Example:
        >>> def model(x1, x2):
        ...     return x1, x2
        >>> x1, x2, y1, y2 = torch.zeros(4, 1), torch.zeros(4, 1), torch.ones(4, 1), 2 * torch.ones(4, 1)
        >>> [float(loss) for loss in JointLoss()(model, x1, x2, y1, y2)]
        [1.0, 4.0]
    """

    criterion: str = "squared_error"
    output_weights: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        check_choice("criterion", self.criterion, CRITERIA)
        object.__setattr__(self, "output_weights", check_pair("output_weights", self.output_weights, at_least=0))

    def __call__(
        self,
        model: Callable[..., Any],
        x1: Float[Tensor, "batch in"],
        x2: Float[Tensor, "batch in"],
        y1: Float[Tensor, "batch out"],
        y2: Float[Tensor, "batch out"],
        w: Float[Tensor, " batch"] | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Returns `(loss1, loss2)`.

        Args:
            model: gives both outputs for `x1` and `x2`.
            x1: the first input.
            x2: the second input.
            y1: what the first output should be.
            y2: what the second output should be.
            w: weights of the rows; None is 1 for each. A mean divides by the number of rows, not by their weight.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, or shapes that do not fit.
        """
        w, mask = _rows(w, mask, x1=x1, x2=x2)
        prediction1, prediction2 = model(x1[mask], x2[mask])
        check_shape("y1", y1, (len(x1), prediction1.shape[1]))
        check_shape("y2", y2, (len(x1), prediction2.shape[1]))
        count, _ = self.counts(mask)
        loss1 = self.output_weights[0] * _mean(CRITERIA[self.criterion](prediction1, y1[mask]), w[mask], count)
        loss2 = self.output_weights[1] * _mean(CRITERIA[self.criterion](prediction2, y2[mask]), w[mask], count)
        return loss1, loss2

    def counts(self, mask: Bool[Tensor, " batch"], **batch: Tensor) -> tuple[int, int]:
        """Returns how many rows each part's mean divides by.

        Args:
            mask: False for rows that are padding [batch].
            batch: the other arrays, which do not matter here.
        """
        return int(mask.sum()), int(mask.sum())


def _rows(w: Tensor | None, mask: Tensor | None, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the weight of each row and whether it counts."""
    for name, x in inputs.items():
        check_shape(name, x, ("batch", "features"))
        check_rows(name, x)
    x = next(iter(inputs.values()))
    w = x.new_ones(len(x)) if w is None else w
    mask = x.new_ones(len(x), dtype=torch.bool) if mask is None else mask.to(torch.bool)
    check_shape("w", w, (len(x),))
    check_shape("mask", mask, (len(x),))
    return w, mask


def _mean(loss: Float[Tensor, "rows out"], w: Float[Tensor, " rows"], count: int) -> Float[Tensor, ""]:
    return (loss.mean(dim=1) * w).sum() / max(count, 1)
