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
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.checks.arrays import check_arms

from . import two_head, two_in_two_out
from .layers import ACTIVATIONS, Params, keep_rows
from .nnx_layers import MLP, Embedding, InputGate, linear
from .pure import params_of

__all__ = ["MLP", "Embedding", "InputGate", "TwoHead", "TwoInTwoOut"]


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
    factual outcome, by `jnp.where`, without splitting. With more `arms` there is a head, and an outcome, for each.

    Twin: `torch_ref.TwoHead`, which splits the rows on `t`; in Linen `flax_impl.TwoHead`.

    Args:
        in_features: columns of `x`.
        representation_features: width of each representation layer (in the article three).
        head_features: width of each hidden layer of a head (in the article two); `out_features` comes after them.
        out_features: columns of an outcome.
        activation: after every layer but a head's last.
        final_activation: after a head's last layer; `"identity"` is what regression wants.
        input_groups: columns of `x` in each group that has an `InputGate`, codes left out; None has no gates.
        propensity_head: adds `propensity`, a linear layer from the representation to the logit of treatment, and the
            scalar `epsilon`, which starts at 0: what `TargetedLoss` trains. For two arms only.
        arms: how many treatments there are, the one to compare with among them.
        embeddings: levels and width of the table of each categorical feature. As many last columns of `x` hold codes,
            0 to levels - 1; any other is an unseen level. None has no such columns.
        rngs: where the first weights come from.

    Raises:
        ValueError: a width below 1, an unknown activation, groups of other columns than `x` has, a `propensity_head`
            that is neither True nor False, or with more than two arms; less than two arms, tables without levels, or
            more of them than `x` has columns.

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
        arms: int = 2,
        embeddings: Sequence[Sequence[int]] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.linen = made = two_head.TwoHead(
            in_features, representation_features, head_features, out_features, activation, final_activation,
            input_groups, propensity_head, arms, embeddings, parent=None,
        )  # fmt: skip
        columns = made.in_features + sum(width - 1 for _, width in made.embeddings or ())
        widths = (*made.head_features, made.out_features)
        code_features = (columns, *made.representation_features)[-1]
        if made.input_groups is not None:
            self.gate = InputGate(made.input_groups)
        if made.embeddings is not None:
            self.embedding = Embedding(made.embeddings)
        self.representation = MLP(columns, made.representation_features, activation, rngs=rngs)
        for arm in range(made.arms):
            setattr(self, f"head{arm}", MLP(code_features, widths, activation, final_activation, rngs=rngs))
        if made.propensity_head:
            self.propensity = linear(code_features, 1, rngs)
            self.epsilon = nnx.Param(jnp.zeros(1))

    @property
    def arms(self) -> int:
        """How many treatments there are."""
        return self.linen.arms

    @property
    def code_columns(self) -> int:
        """How many columns of `x`, the last, hold codes."""
        return self.linen.code_columns

    def __call__(
        self,
        x: Float[Array, "batch in"],
        t: Int[Array, " batch"] | None = None,
        return_representation: bool = False,
        return_propensity: bool = False,
    ) -> Any:
        """Returns both potential outcomes `(y0, y1)`, each [batch, out], or with `t` the factual outcome [batch, out].

        With more arms a potential outcome for each.
        With `return_representation` a pair: that, and the representation [batch, code].
        With `return_propensity` a pair comes last: the logit of treatment [batch], and `epsilon` [1].

        Raises:
            ValueError: `x` without `in_features` columns; `t` of another length, or with values that are no arm's.
                Under `jit` the values are not there to look at: what is no arm's is taken for 0.
                Or `return_propensity` of a model without the head.
        """
        check_shape("x", x, ("batch", self.linen.in_features))
        x = self._inputs(x)
        code = self.representation(x)
        more: list[Any] = [code] * return_representation
        if return_propensity:
            more.append(self._propensity(code))
        if t is None:
            outcomes = tuple(head(code) for head in self._heads())
            return (outcomes, *more) if more else outcomes
        check_shape("t", t, (len(x),))
        if not isinstance(t, Tracer):
            check_arms("t", np.asarray(t), self.arms)
        outcome = self._factual(code, t.astype(jnp.int32))
        return (outcome, *more) if more else outcome

    def _factual(self, code: Float[Array, "batch code"], t: Int[Array, " batch"]) -> Float[Array, "batch out"]:
        """Returns what each row's own head makes of it; a head sees zeros in the rows of the others."""
        if self.arms == 2:
            treated = t == 1
            head0, head1 = self._heads()
            y0, y1 = head0(code, ~treated), head1(code, treated)
            return jnp.where(treated[:, None], y1, y0)
        own = jnp.where((t >= 0) & (t < self.arms), t, 0)
        parts = [keep_rows(head(code, own == arm), own == arm) for arm, head in enumerate(self._heads())]
        return sum(parts[1:], parts[0])

    def _heads(self) -> list[MLP]:
        return [getattr(self, f"head{arm}") for arm in range(self.arms)]

    def _inputs(self, x: Float[Array, "batch in"]) -> Float[Array, "batch columns"]:
        """Returns what the representation takes: the columns through their gates, then those of the codes."""
        if self.linen.embeddings is None:
            return x if self.linen.input_groups is None else self.gate(x)
        plain = self.linen.in_features - self.code_columns
        features, codes = x[:, :plain], x[:, plain:]
        columns = self.embedding(codes)
        features = features.astype(columns.dtype)  # where a training rounds, it leaves that to the model: codes stay
        features = features if self.linen.input_groups is None else self.gate(features)
        return jnp.concatenate((features, columns), axis=1)

    def _propensity(self, code: Float[Array, "batch code"]) -> tuple[Float[Array, " batch"], Float[Array, "1"]]:
        """Returns the logit of treatment, and `epsilon`."""
        # Both in one pair: a loss only calls the model, and in Linen nobody can ask it for a parameter otherwise.
        if not self.linen.propensity_head:
            raise ValueError("return_propensity: expected a model with propensity_head, got one without")
        return self.propensity(code)[:, 0], self.epsilon[...]

    def concatenated(self, x: Float[Array, "batch in"]) -> Float[Array, "batch arms*out"]:
        """Returns all potential outcomes in one array, `y0` first: the article's outputs wanted together.

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
