"""The two-input/two-output model: both inputs through the same hidden layers, two outputs from both codes."""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..common.checks.arguments import check_choice, check_integer, check_shape, check_widths
from .layers import ACTIVATIONS


class TwoInTwoOut(nn.Module):
    """Layers `hidden1`, `hidden2`, … turn each input into a code; `predict1` and `predict2` see both codes.

    Twin: `flax_impl.TwoInTwoOut`.

    Args:
        in_features: columns of each input; the inputs share the layers, so both have as many.
        hidden_features: width of each hidden layer; one number stands for the article's two layers of that width.
        out_features: columns of each output.
        activation: after every hidden layer but the last.
        code_activation: after the last hidden layer.
        final_activation: after `predict1` and `predict2`.

    Raises:
        ValueError: a width below 1, no hidden layer, or an unknown activation.

    Example:
        >>> model = TwoInTwoOut()
        >>> y1, y2 = model(torch.zeros(4, 1), torch.ones(4, 1))
        >>> model.concatenated(torch.zeros(4, 1), torch.ones(4, 1)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int = 1,
        hidden_features: int | Sequence[int] = 20,
        out_features: int = 1,
        activation: str = "relu",
        code_activation: str = "sigmoid",
        final_activation: str = "identity",
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("code_activation", code_activation, ACTIVATIONS)
        check_choice("final_activation", final_activation, ACTIVATIONS)
        self.in_features = check_integer("in_features", in_features, at_least=1)
        self.hidden_features = _hidden_widths(hidden_features)
        self.out_features = check_integer("out_features", out_features, at_least=1)
        self.activation = activation
        self.code_activation = code_activation
        self.final_activation = final_activation
        for i, widths in enumerate(pairwise((self.in_features, *self.hidden_features)), start=1):
            self.add_module(f"hidden{i}", nn.Linear(*widths))
        self.predict1 = nn.Linear(2 * self.hidden_features[-1], self.out_features)
        self.predict2 = nn.Linear(2 * self.hidden_features[-1], self.out_features)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON takes them."""
        return {
            "in_features": self.in_features,
            "hidden_features": list(self.hidden_features),
            "out_features": self.out_features,
            "activation": self.activation,
            "code_activation": self.code_activation,
            "final_activation": self.final_activation,
        }

    def code(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch hidden"]:
        """Returns the code of one input.

        Args:
            x: one of the inputs [batch, in].
        """
        depth = len(self.hidden_features)
        for i in range(1, depth + 1):
            x = self.get_submodule(f"hidden{i}")(x)
            x = ACTIVATIONS[self.code_activation if i == depth else self.activation](x)
        return x

    def forward(
        self, x1: Float[Tensor, "batch in"], x2: Float[Tensor, "batch in"]
    ) -> tuple[Float[Tensor, "batch out"], Float[Tensor, "batch out"]]:
        """Returns both outputs `(y1, y2)`; each depends on both inputs.

        Args:
            x1: the first input [batch, in].
            x2: the second input [batch, in].

        Raises:
            ValueError: an input without `in_features` columns, or inputs that differ in rows.
        """
        check_shape("x1", x1, ("batch", self.in_features))
        check_shape("x2", x2, (len(x1), self.in_features))
        codes = torch.cat((self.code(x1), self.code(x2)), dim=1)
        final = ACTIVATIONS[self.final_activation]
        return final(self.predict1(codes)), final(self.predict2(codes))

    def concatenated(
        self, x1: Float[Tensor, "batch in"], x2: Float[Tensor, "batch in"]
    ) -> Float[Tensor, "batch 2*out"]:
        """Returns both outputs in one array, `y1` first: the article's outputs wanted together.

        Args:
            x1: the first input [batch, in].
            x2: the second input [batch, in].

        Raises:
            ValueError: as for a call of the model.
        """
        return torch.cat(self(x1, x2), dim=1)


def _hidden_widths(hidden_features: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the hidden widths as a tuple; one number is the article's two equal layers."""
    if isinstance(hidden_features, Integral):
        hidden_features = (int(hidden_features), int(hidden_features))
    widths = check_widths("hidden_features", hidden_features)
    if not widths:
        raise ValueError("hidden_features: expected at least one layer, got none")
    return widths
