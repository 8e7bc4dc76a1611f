"""The two-input/two-output model: both inputs through the same hidden layers, two outputs from both codes."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_choice, check_integer, check_shape, check_widths

from .layers import ACTIVATIONS, Params, init_params, linear


class TwoInTwoOut(nn.Module):
    """Layers `hidden1`, `hidden2`, … turn each input into a code; `predict1` and `predict2` see both codes.

    Twin: `torch_ref.TwoInTwoOut`.

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
        >>> variables = {"params": model.init_params(seed=0)}
        >>> y1, y2 = model.apply(variables, jnp.zeros((4, 1)), jnp.ones((4, 1)))
        >>> model.apply(variables, jnp.zeros((4, 1)), jnp.ones((4, 1)), method="concatenated").shape
        (4, 2)
    """

    in_features: int = 1
    hidden_features: int | Sequence[int] = 20
    out_features: int = 1
    activation: str = "relu"
    code_activation: str = "sigmoid"
    final_activation: str = "identity"

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("code_activation", self.code_activation, ACTIVATIONS)
        check_choice("final_activation", self.final_activation, ACTIVATIONS)
        self.in_features = check_integer("in_features", self.in_features, at_least=1)
        self.hidden_features = _hidden_widths(self.hidden_features)
        self.out_features = check_integer("out_features", self.out_features, at_least=1)
        super().__post_init__()

    def setup(self) -> None:
        """Builds the layers."""
        hidden_features = _hidden_widths(self.hidden_features)
        self.hidden = [
            linear(*widths, name=f"hidden{i}")
            for i, widths in enumerate(pairwise((self.in_features, *hidden_features)), start=1)
        ]
        self.predict1 = linear(2 * hidden_features[-1], self.out_features, "predict1")
        self.predict2 = linear(2 * hidden_features[-1], self.out_features, "predict2")

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON takes them."""
        return {
            "in_features": self.in_features,
            "hidden_features": list(_hidden_widths(self.hidden_features)),
            "out_features": self.out_features,
            "activation": self.activation,
            "code_activation": self.code_activation,
            "final_activation": self.final_activation,
        }

    def code(self, x: Float[Array, "batch in"]) -> Float[Array, "batch hidden"]:
        """Returns the code of one input.

        Args:
            x: one of the inputs [batch, in].
        """
        depth = len(self.hidden)
        for i, layer in enumerate(self.hidden, start=1):
            x = layer(x)
            x = ACTIVATIONS[self.code_activation if i == depth else self.activation](x)
        return x

    def __call__(
        self, x1: Float[Array, "batch in"], x2: Float[Array, "batch in"]
    ) -> tuple[Float[Array, "batch out"], Float[Array, "batch out"]]:
        """Returns both outputs `(y1, y2)`; each depends on both inputs.

        Args:
            x1: the first input [batch, in].
            x2: the second input [batch, in].

        Raises:
            ValueError: an input without `in_features` columns, or inputs that differ in rows.
        """
        check_shape("x1", x1, ("batch", self.in_features))
        check_shape("x2", x2, (len(x1), self.in_features))
        codes = jnp.concatenate((self.code(x1), self.code(x2)), axis=1)
        final = ACTIVATIONS[self.final_activation]
        return final(self.predict1(codes)), final(self.predict2(codes))

    def concatenated(self, x1: Float[Array, "batch in"], x2: Float[Array, "batch in"]) -> Float[Array, "batch 2*out"]:
        """Returns both outputs in one array, `y1` first: the article's outputs wanted together.

        Args:
            x1: the first input [batch, in].
            x2: the second input [batch, in].

        Raises:
            ValueError: as for a call of the model.
        """
        return jnp.concatenate(self(x1, x2), axis=1)

    @nn.nowrap
    def init_params(self, seed: int | Iterable[int] = 0) -> Params:
        """Returns initial parameters in float32, drawn from the distributions that torch draws from.

        Args:
            seed: of the draw; several, such as `range(10)`, give stacked parameters for `fit_replicas`.

        Raises:
            ValueError: a seed that is no whole number of at least 0, or none at all.
        """
        return init_params(self, seed, *[jnp.zeros((1, self.in_features), jnp.float32)] * 2)


def _hidden_widths(hidden_features: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the hidden widths as a tuple; one number is the article's two equal layers."""
    if isinstance(hidden_features, Integral):
        hidden_features = (int(hidden_features), int(hidden_features))
    widths = check_widths("hidden_features", hidden_features)
    if not widths:
        raise ValueError("hidden_features: expected at least one layer, got none")
    return widths
