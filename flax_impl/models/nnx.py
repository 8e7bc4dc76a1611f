"""The two models as NNX modules, over the same tree of parameters as the Linen ones.

Whatever takes a Linen model and its parameters takes one of these as well: `fit(model, model.params, …)` returns new
parameters, and `flax.nnx.update(model, params)` puts them into the module.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_groups, check_shape
from torch_ref.common.checks.arrays import check_binary

from . import layers, two_head, two_in_two_out
from .layers import ACTIVATIONS, Params, keep_rows, linear_initializers, repeat_groups
from .pure import params_of

__all__ = ["MLP", "InputGate", "TwoHead", "TwoInTwoOut"]


def linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear layer whose weights are drawn as `torch.nn.Linear` draws them, its bias included."""
    return nnx.Linear(in_features, out_features, **linear_initializers(in_features), rngs=rngs)


class MLP(nnx.Module):
    """Linear layers `layer0`, `layer1`, …, each with an activation after it, the last one included.

    Twin: `torch_ref.models.MLP`, which leaves rows out, where this one masks them; in Linen `flax_impl.models.MLP`.

    Args:
        in_features: columns of the input.
        features: the width of each layer; an empty sequence passes the input on.
        activation: after every layer but the last.
        final_activation: after the last layer; None means `activation`.
        rngs: where the first weights come from.

    Raises:
        ValueError: a width below 1, or an unknown activation.

    Example:
        >>> MLP(3, [4, 2], rngs=nnx.Rngs(0))(jnp.zeros((5, 3))).shape
        (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        features: Sequence[int],
        activation: str = "elu",
        final_activation: str | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.linen = layers.MLP(in_features, features, activation, final_activation, parent=None)  # checks and keeps
        for i, widths in enumerate(pairwise((self.linen.in_features, *self.linen.features))):
            setattr(self, f"layer{i}", linear(*widths, rngs))

    def __call__(
        self, x: Float[Array, "batch in"], rows: Bool[Array, " batch"] | None = None
    ) -> Float[Array, "batch out"]:
        """Returns the last layer's output, after its activation; a row that is not in `rows` passes as zeros."""
        x = keep_rows(x, rows)
        depth, hidden = len(self.linen.features), self.linen.activation
        for i in range(depth):
            x = keep_rows(getattr(self, f"layer{i}")(x), rows)
            x = ACTIVATIONS[self.linen.final_activation or hidden if i == depth - 1 else hidden](x)
        return x


class InputGate(nnx.Module):
    """A factor for each group of input columns, that decay turns off where the group tells nothing.

    The factor is the fourth power of its parameter. So decay, which shrinks the parameter and the weights behind it
    alike, presses small groups to zero and leaves large ones.

    Twin: `torch_ref.models.InputGate`; in Linen `flax_impl.models.InputGate`.

    Args:
        groups: how many columns each group has; they lie side by side.

    Raises:
        ValueError: no group, or one without columns.

    Example:
        >>> InputGate([1, 2])(jnp.ones((1, 3))).tolist()
        [[1.0, 1.0, 1.0]]

    Source: Hoff, "Lasso, fractional norm and structured sparse estimation using a Hadamard product", 2017.
    """

    def __init__(self, groups: Sequence[int]) -> None:
        self.groups = check_groups("groups", groups)
        self.scale = nnx.Param(jnp.ones(len(self.groups), jnp.float32))

    def __call__(self, x: Float[Array, "batch in"]) -> Float[Array, "batch in"]:
        """Returns the input, each column times the factor of its group."""
        return x * repeat_groups(self.scale[...] ** 4, self.groups)[None, :]


class _Model(nnx.Module):
    """What both models have: the Linen model of the same arguments, which checks and keeps them."""

    linen: Any

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON takes them."""
        return self.linen.config

    @property
    def params(self) -> Params:
        """The parameters, as the tree that the Linen model takes."""
        return params_of(self)

    def init_params(self, seed: int | Iterable[int] = 0) -> Params:
        """Returns initial parameters in float32, the same numbers as the Linen model's.

        Args:
            seed: of the draw; several, such as `range(10)`, give stacked parameters for `fit_replicas`.
        """
        return self.linen.init_params(seed)


class TwoHead(_Model):
    """Shared representation, then `head0` for the untreated outcome and `head1` for the treated one.

    Called with `x` alone it gives both potential outcomes of every row. Called with the treatment `t` it gives the
    factual outcome, by `jnp.where`, without splitting.

    Twin: `torch_ref.TwoHead`, which splits the rows on `t`; in Linen `flax_impl.TwoHead`.

    Args:
        in_features: columns of `x`.
        representation_features: width of each representation layer (in the article three).
        head_features: width of each hidden layer of a head (in the article two); `out_features` comes after them.
        out_features: columns of an outcome.
        activation: after every layer but a head's last.
        final_activation: after a head's last layer; `"identity"` is what regression wants.
        input_groups: columns of `x` in each group that has an `InputGate`; None has no gates.
        propensity_head: adds `propensity`, a linear layer from the representation to the logit of treatment, and the
            scalar `epsilon`, which starts at 0: what `TargetedLoss` trains.
        rngs: where the first weights come from.

    Raises:
        ValueError: a width below 1, an unknown activation, groups of other columns than `x` has, or a
            `propensity_head` that is neither True nor False.

    Example:
        >>> model = TwoHead(in_features=25, final_activation="identity", rngs=nnx.Rngs(0))
        >>> x, t = jnp.zeros((4, 25)), jnp.array([0, 1, 1, 0])
        >>> y0, y1 = model(x)
        >>> model(x, t).shape
        (4, 1)

    Source: TARNet; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017. With
        `propensity_head` DragonNet; Shi, Blei, Veitch, "Adapting neural networks for the estimation of treatment
        effects", NeurIPS 2019.
    """

    def __init__(
        self,
        in_features: int,
        representation_features: Sequence[int] = (200, 200, 200),
        head_features: Sequence[int] = (100, 100),
        out_features: int = 1,
        activation: str = "elu",
        final_activation: str = "elu",
        input_groups: Sequence[int] | None = None,
        propensity_head: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.linen = made = two_head.TwoHead(
            in_features, representation_features, head_features, out_features, activation, final_activation,
            input_groups, propensity_head, parent=None,
        )  # fmt: skip
        widths = (*made.head_features, made.out_features)
        code_features = (made.in_features, *made.representation_features)[-1]
        if made.input_groups is not None:
            self.gate = InputGate(made.input_groups)
        self.representation = MLP(made.in_features, made.representation_features, activation, rngs=rngs)
        self.head0 = MLP(code_features, widths, activation, final_activation, rngs=rngs)
        self.head1 = MLP(code_features, widths, activation, final_activation, rngs=rngs)
        if made.propensity_head:
            self.propensity = linear(code_features, 1, rngs)
            self.epsilon = nnx.Param(jnp.zeros(1))

    def __call__(
        self,
        x: Float[Array, "batch in"],
        t: Int[Array, " batch"] | None = None,
        return_representation: bool = False,
        return_propensity: bool = False,
    ) -> Any:
        """Returns both potential outcomes `(y0, y1)`, each [batch, out], or with `t` the factual outcome [batch, out].

        With `return_representation` a pair: that, and the representation [batch, code].
        With `return_propensity` a pair comes last: the logit of treatment [batch], and `epsilon` [1].

        Raises:
            ValueError: `x` without `in_features` columns; `t` of another length, or with values other than 0 and 1.
                Under `jit` the values are not there to look at: what is not 1 is taken for 0.
                Or `return_propensity` of a model without the head.
        """
        check_shape("x", x, ("batch", self.linen.in_features))
        x = x if self.linen.input_groups is None else self.gate(x)
        code = self.representation(x)
        more: list[Any] = [code] * return_representation
        if return_propensity:
            more.append(self._propensity(code))
        if t is None:
            outcomes = self.head0(code), self.head1(code)
            return (outcomes, *more) if more else outcomes
        check_shape("t", t, (len(x),))
        if not isinstance(t, Tracer):
            check_binary("t", np.asarray(t))
        treated = t.astype(jnp.int32) == 1
        y0, y1 = self.head0(code, ~treated), self.head1(code, treated)
        outcome = jnp.where(treated[:, None], y1, y0)
        return (outcome, *more) if more else outcome

    def _propensity(self, code: Float[Array, "batch code"]) -> tuple[Float[Array, " batch"], Float[Array, "1"]]:
        """Returns the logit of treatment, and `epsilon`."""
        # Both in one pair: a loss only calls the model, and in Linen nobody can ask it for a parameter otherwise.
        if not self.linen.propensity_head:
            raise ValueError("return_propensity: expected a model with propensity_head, got one without")
        return self.propensity(code)[:, 0], self.epsilon[...]

    def concatenated(self, x: Float[Array, "batch in"]) -> Float[Array, "batch 2*out"]:
        """Returns both potential outcomes in one array, `y0` first: the article's outputs wanted together.

        Args:
            x: the features [batch, in].
        """
        return jnp.concatenate(self(x), axis=1)


class TwoInTwoOut(_Model):
    """Layers `hidden1`, `hidden2`, … turn each input into a code; `predict1` and `predict2` see both codes.

    Twin: `torch_ref.TwoInTwoOut`; in Linen `flax_impl.TwoInTwoOut`.

    Args:
        in_features: columns of each input; the inputs share the layers, so both have as many.
        hidden_features: width of each hidden layer; one number stands for the article's two layers of that width.
        out_features: columns of each output.
        activation: after every hidden layer but the last.
        code_activation: after the last hidden layer.
        final_activation: after `predict1` and `predict2`.
        rngs: where the first weights come from.

    Raises:
        ValueError: a width below 1, no hidden layer, or an unknown activation.

    Example:
        >>> model = TwoInTwoOut(rngs=nnx.Rngs(0))
        >>> y1, y2 = model(jnp.zeros((4, 1)), jnp.ones((4, 1)))
        >>> model.concatenated(jnp.zeros((4, 1)), jnp.ones((4, 1))).shape
        (4, 2)
    """

    def __init__(
        self,
        in_features: int = 1,
        hidden_features: int | Sequence[int] = 20,
        out_features: int = 1,
        activation: str = "relu",
        code_activation: str = "sigmoid",
        final_activation: str = "identity",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.linen = made = two_in_two_out.TwoInTwoOut(
            in_features, hidden_features, out_features, activation, code_activation, final_activation, parent=None
        )
        widths = made.config["hidden_features"]
        for i, pair in enumerate(pairwise((made.in_features, *widths)), start=1):
            setattr(self, f"hidden{i}", linear(*pair, rngs))
        self.predict1 = linear(2 * widths[-1], made.out_features, rngs)
        self.predict2 = linear(2 * widths[-1], made.out_features, rngs)

    def code(self, x: Float[Array, "batch in"]) -> Float[Array, "batch hidden"]:
        """Returns the code of one input.

        Args:
            x: the input [batch, in].
        """
        depth = len(self.config["hidden_features"])
        for i in range(1, depth + 1):
            x = getattr(self, f"hidden{i}")(x)
            x = ACTIVATIONS[self.linen.code_activation if i == depth else self.linen.activation](x)
        return x

    def __call__(
        self, x1: Float[Array, "batch in"], x2: Float[Array, "batch in"]
    ) -> tuple[Float[Array, "batch out"], Float[Array, "batch out"]]:
        """Returns both outputs `(y1, y2)`; each depends on both inputs.

        Raises:
            ValueError: an input without `in_features` columns, or inputs that differ in rows.
        """
        check_shape("x1", x1, ("batch", self.linen.in_features))
        check_shape("x2", x2, (len(x1), self.linen.in_features))
        codes = jnp.concatenate((self.code(x1), self.code(x2)), axis=1)
        final = ACTIVATIONS[self.linen.final_activation]
        return final(self.predict1(codes)), final(self.predict2(codes))

    def concatenated(self, x1: Float[Array, "batch in"], x2: Float[Array, "batch in"]) -> Float[Array, "batch 2*out"]:
        """Returns both outputs in one array, `y1` first: the article's outputs wanted together.

        Args:
            x1: the first input [batch, in].
            x2: the second input [batch, in].
        """
        return jnp.concatenate(self(x1, x2), axis=1)
