"""What a training minimises: elementwise losses, and the losses of both models, a number for each output.

Nothing is split: every row stays in place, and a mask says which rows a loss sees. Labels and predictions are cleaned
before the loss and not after it, since 0 times NaN is NaN on the way back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_choice, check_each, check_integer, check_pair, check_shape
from torch_ref.common.checks.arrays import check_arms, check_rows

from ..models.layers import keep_rows
from .traced_settings import traced


def squared_error(prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns `(prediction - target) ** 2`, elementwise; without the half that `optax.l2_loss` puts before it.

    Twin: `torch_ref.training.squared_error`.

    Args:
        prediction: of any shape.
        target: of the same shape and dtype.

    Returns:
        The losses, in the shape of `prediction` and the square of its unit.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Example:
        >>> squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])).tolist()
        [0.0, 4.0]
    """
    check_shape("target", target, tuple(prediction.shape))
    return optax.squared_error(prediction, target)


def sigmoid_binary_cross_entropy(
    prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns the negative log likelihood of labels under `sigmoid(prediction)`, elementwise.

    Twin: `torch_ref.training.sigmoid_binary_cross_entropy`. Where `sigmoid` of a right prediction rounds to its label,
    the gradient is 0 there, and small here.

    Args:
        prediction: logits; a probability would lose its digits near 0 and 1.
        target: labels from 0 to 1, of the same shape and dtype.

    Returns:
        The losses in nats, in the shape of `prediction`.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Example:
        >>> losses = sigmoid_binary_cross_entropy(jnp.array([0.0, 2.0]), jnp.array([1.0, 1.0]))
        >>> [round(float(loss), 2) for loss in losses]
        [0.69, 0.13]
    """
    check_shape("target", target, tuple(prediction.shape))
    return optax.sigmoid_binary_cross_entropy(prediction, target)


CRITERIA: dict[str, Callable[[Array, Array], Array]] = {
    "sigmoid_binary_cross_entropy": sigmoid_binary_cross_entropy,
    "squared_error": squared_error,
}


@traced("head_weights")
@dataclass(frozen=True)
class FactualLoss:
    """The loss of the two-head model on the outcomes that were observed: a part for each head, to be added.

    Rows of the other head, and rows that `mask` leaves out, count nowhere, whatever they hold. A head without rows has
    loss 0 and gradient zero.

    Twin: `torch_ref.FactualLoss`, which leaves rows out where this one masks them.

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
        >>> def model(x, t):
        ...     return jnp.zeros((len(x), 1))
        >>> x, t, y = jnp.zeros((4, 3)), jnp.array([0, 1, 1, 0]), jnp.array([[1.0], [2.0], [2.0], [3.0]])
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
        x: Float[Array, "batch in"],
        t: Int[Array, " batch"],
        y: Float[Array, "batch out"],
        w: Float[Array, " batch"] | None = None,
        mask: Bool[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, ""], ...]:
        """Returns `(loss0, loss1)`, or a part for each of more arms.

        Args:
            model: gives the factual outcome for `x` and `t`.
            x: the features.
            t: the treatment, 0 to `arms - 1`.
            y: the outcome under that treatment.
            w: weights of the rows; None is 1 for each. A mean divides by the number of rows, not by their weight.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, or shapes that do not fit.
        """
        w, mask = _rows(w, mask, x=x)
        check_shape("t", t, (len(x),))
        if not isinstance(t, Tracer) and not isinstance(mask, Tracer):
            check_arms("t", np.where(mask, t, 0), self.arms)
        x, t = _fill_rows(x, mask), _fill_rows(t, mask)
        rows = [(t == arm) & mask for arm in range(self.arms)]
        counts = [of_arm.sum() for of_arm in rows]
        if self.reduction == "batch":
            counts = [sum(counts[1:], counts[0])] * self.arms
        outcome = model(x, t)
        check_shape("y", y, (len(x), outcome.shape[1]))
        assert self.head_weights is not None  # __post_init__ has seen to it
        return tuple(
            weight * _masked_mean(CRITERIA[self.criterion], outcome, y, w, of_arm, count)
            for weight, of_arm, count in zip(self.head_weights, rows, counts, strict=True)
        )


@traced("output_weights")
@dataclass(frozen=True)
class JointLoss:
    """The loss of the two-input/two-output model: a mean for each output, to be added.

    Twin: `torch_ref.JointLoss`, which leaves rows out where this one masks them.

    Args:
        criterion: `"squared_error"` or `"sigmoid_binary_cross_entropy"`.
        output_weights: factors of the two parts.

    Raises:
        ValueError: an unknown criterion, or weights that are not two numbers of at least 0.

    Example:
        >>> def model(x1, x2):
        ...     return x1, x2
        >>> x1, x2, y1, y2 = jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.ones((4, 1)), 2 * jnp.ones((4, 1))
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
        x1: Float[Array, "batch in"],
        x2: Float[Array, "batch in"],
        y1: Float[Array, "batch out"],
        y2: Float[Array, "batch out"],
        w: Float[Array, " batch"] | None = None,
        mask: Bool[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
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
        prediction1, prediction2 = model(_fill_rows(x1, mask), _fill_rows(x2, mask))
        check_shape("y1", y1, (len(x1), prediction1.shape[1]))
        check_shape("y2", y2, (len(x1), prediction2.shape[1]))
        count = mask.sum()
        loss1 = self.output_weights[0] * _masked_mean(CRITERIA[self.criterion], prediction1, y1, w, mask, count)
        loss2 = self.output_weights[1] * _masked_mean(CRITERIA[self.criterion], prediction2, y2, w, mask, count)
        return loss1, loss2


def _rows(w: Array | None, mask: Array | None, **inputs: Array) -> tuple[Array, Array]:
    """Returns the weight of each row and whether it counts."""
    for name, x in inputs.items():
        check_shape(name, x, ("batch", "features"))
        check_rows(name, x)
    x = next(iter(inputs.values()))
    w = jnp.ones(len(x), x.dtype) if w is None else w
    mask = jnp.ones(len(x), bool) if mask is None else mask.astype(bool)
    check_shape("w", w, (len(x),))
    check_shape("mask", mask, (len(x),))
    return w, mask


def _fill_rows(array: Array, mask: Bool[Array, " batch"]) -> Array:
    """Returns the array with a row that counts in place of those that do not.

    A row of zeros might overflow on its way through the model although the others do not.
    """
    first = jnp.argmax(mask)
    filler = jnp.where(mask[first], array[first], 0)
    return jnp.where(mask.reshape(-1, *[1] * (array.ndim - 1)), array, filler.astype(array.dtype))


def _masked_mean(
    criterion: Callable[[Array, Array], Array],
    prediction: Float[Array, "batch out"],
    target: Float[Array, "batch out"],
    w: Float[Array, " batch"],
    rows: Bool[Array, " batch"],
    count: Int[Array, ""],
) -> Float[Array, ""]:
    loss = criterion(keep_rows(prediction, rows), keep_rows(target, rows))
    return (loss.mean(axis=1) * jnp.where(rows, w, 0)).sum() / jnp.maximum(count, 1).astype(loss.dtype)
