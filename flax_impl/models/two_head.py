"""The two-head model: a shared representation, and a head for each arm."""

from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import (
    check_choice,
    check_flag,
    check_groups,
    check_integer,
    check_shape,
    check_tables,
    check_widths,
)
from torch_ref.common.checks.arrays import check_arms

from .layers import ACTIVATIONS, MLP, Embedding, InputGate, Params, init_params, keep_rows, linear


class TwoHead(nn.Module):
    """Shared representation, then `head0` for the untreated outcome and `head1` for the treated one.

    Called with `x` alone it gives both potential outcomes of every row, as the article's forward does. Called with the
    treatment `t` it gives the factual outcome, the one that was observed: here by `jnp.where`, without splitting. With
    more `arms` there is a head, and an outcome, for each.

    Twin: `torch_ref.TwoHead`, which splits the rows on `t`.

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

    Raises:
        ValueError: a width below 1, an unknown activation, groups of other columns than `x` has, a `propensity_head`
            that is neither True nor False, or with more than two arms; less than two arms, tables without levels, or
            more of them than `x` has columns.

    Example:
        >>> model = TwoHead(in_features=25, final_activation="identity")
        >>> params = model.init_params(seed=0)
        >>> x, t = jnp.zeros((4, 25)), jnp.array([0, 1, 1, 0])
        >>> y0, y1 = model.apply({"params": params}, x)
        >>> model.apply({"params": params}, x, t).shape
        (4, 1)

    Source: TARNet; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017. With
        `propensity_head` DragonNet; Shi, Blei, Veitch, "Adapting neural networks for the estimation of treatment
        effects", NeurIPS 2019.
    """

    in_features: int
    representation_features: Sequence[int] = (200, 200, 200)
    head_features: Sequence[int] = (100, 100)
    out_features: int = 1
    activation: str = "elu"
    final_activation: str = "elu"
    input_groups: Sequence[int] | None = None
    propensity_head: bool = False
    arms: int = 2
    embeddings: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("final_activation", self.final_activation, ACTIVATIONS)
        self.in_features = check_integer("in_features", self.in_features, at_least=1)
        self.representation_features = check_widths("representation_features", self.representation_features)
        self.head_features = check_widths("head_features", self.head_features)
        self.out_features = check_integer("out_features", self.out_features, at_least=1)
        if self.embeddings is not None:
            self.embeddings = check_tables("embeddings", self.embeddings)
        if self.code_columns > self.in_features:
            expected = f"at most {self.in_features}, as `x` has columns"
            raise ValueError(f"embeddings: expected {expected}, got {self.code_columns}")
        if self.input_groups is not None:
            plain = self.in_features - self.code_columns
            self.input_groups = check_groups("input_groups", self.input_groups, columns=plain)
        self.propensity_head = check_flag("propensity_head", self.propensity_head)
        self.arms = check_integer("arms", self.arms, at_least=2)
        if self.propensity_head and self.arms > 2:
            raise ValueError(f"propensity_head: expected False, as it is for two arms, got True with arms={self.arms}")
        super().__post_init__()

    def setup(self) -> None:
        """Builds the layers."""
        columns = self.in_features + sum(width - 1 for _, width in self.embeddings or ())
        widths = (*self.head_features, self.out_features)
        code_features = (columns, *self.representation_features)[-1]
        if self.input_groups is not None:
            self.gate = InputGate(self.input_groups)
        if self.embeddings is not None:
            self.embedding = Embedding(self.embeddings)
        self.representation = MLP(columns, self.representation_features, self.activation)
        for arm in range(self.arms):
            setattr(self, f"head{arm}", MLP(code_features, widths, self.activation, self.final_activation))
        if self.propensity_head:
            self.propensity = linear(code_features, 1, "propensity")
            self.epsilon = self.param("epsilon", nn.initializers.zeros, (1,))

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON takes them."""
        return {
            "in_features": self.in_features,
            "representation_features": list(self.representation_features),
            "head_features": list(self.head_features),
            "out_features": self.out_features,
            "activation": self.activation,
            "final_activation": self.final_activation,
            "input_groups": None if self.input_groups is None else list(self.input_groups),
            "propensity_head": self.propensity_head,
            "arms": self.arms,
            "embeddings": None if self.embeddings is None else [list(table) for table in self.embeddings],
        }

    @property
    def code_columns(self) -> int:
        """How many columns of `x`, the last, hold codes."""
        return len(self.embeddings or ())

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

        Args:
            x: the features [batch, in].
            t: the treatment, 0 to `arms - 1` [batch]; None asks for the outcomes under all.
            return_representation: whether to return the representation too.
            return_propensity: whether to return the logit and `epsilon` too.

        Raises:
            ValueError: `x` without `in_features` columns; `t` of another length, or with values that are no arm's.
                Under `jit` the values are not there to look at: what is no arm's is taken for 0.
                Or `return_propensity` of a model without the head.
        """
        check_shape("x", x, ("batch", self.in_features))
        x = self._inputs(x)
        code = self.representation(x)
        more: list[Any] = [code] * return_representation
        if self.propensity_head and self.is_initializing():
            self.propensity(code)  # its weights are there even if the first call does not ask for it
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
        if self.embeddings is None:
            return x if self.input_groups is None else self.gate(x)
        plain = self.in_features - self.code_columns
        features, codes = x[:, :plain], x[:, plain:]
        columns = self.embedding(codes)
        features = features.astype(columns.dtype)  # where a training rounds, it leaves that to the model: codes stay
        features = features if self.input_groups is None else self.gate(features)
        return jnp.concatenate((features, columns), axis=1)

    def _propensity(self, code: Float[Array, "batch code"]) -> tuple[Float[Array, " batch"], Float[Array, "1"]]:
        """Returns the logit of treatment, and `epsilon`."""
        # Both in one pair: a loss only calls the model, and in Linen nobody can ask it for a parameter otherwise.
        if not self.propensity_head:
            raise ValueError("return_propensity: expected a model with propensity_head, got one without")
        return self.propensity(code)[:, 0], self.epsilon

    def concatenated(self, x: Float[Array, "batch in"]) -> Float[Array, "batch arms*out"]:
        """Returns all potential outcomes in one array, `y0` first: the article's outputs wanted together.

        Args:
            x: the features [batch, in].

        Raises:
            ValueError: `x` without `in_features` columns.
        """
        return jnp.concatenate(self(x), axis=1)

    @nn.nowrap
    def init_params(self, seed: int | Iterable[int] = 0) -> Params:
        """Returns initial parameters in float32, drawn from the distributions that torch draws from.

        Args:
            seed: of the draw; several, such as `range(10)`, give stacked parameters for `fit_replicas`.

        Raises:
            ValueError: a seed that is no whole number of at least 0, or none at all.
        """
        return init_params(self, seed, jnp.zeros((1, self.in_features), jnp.float32))
