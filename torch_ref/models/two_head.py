"""The two-head model: a shared representation, and a head for each arm."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..common.checks.arguments import (
    check_choice,
    check_flag,
    check_groups,
    check_integer,
    check_shape,
    check_tables,
    check_widths,
)
from ..common.checks.arrays import check_arms
from .layers import ACTIVATIONS, MLP, Embedding, InputGate


class TwoHead(nn.Module):
    """Shared representation, then `head0` for the untreated outcome and `head1` for the treated one.

    Called with `x` alone it gives both potential outcomes of every row, as the article's forward does. Called with the
    treatment `t` it gives the factual outcome, the one that was observed: here by splitting the rows on `t`. With more
    `arms` there is a head, and an outcome, for each.

    Twin: `flax_impl.TwoHead`, which splits nothing and picks the head with `jnp.where`.

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
        >>> x, t = torch.zeros(4, 25), torch.tensor([0, 1, 1, 0])
        >>> y0, y1 = model(x)
        >>> model(x, t).shape
        torch.Size([4, 1])

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
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("final_activation", final_activation, ACTIVATIONS)
        self.in_features = check_integer("in_features", in_features, at_least=1)
        self.representation_features = check_widths("representation_features", representation_features)
        self.head_features = check_widths("head_features", head_features)
        self.out_features = check_integer("out_features", out_features, at_least=1)
        self.activation = activation
        self.final_activation = final_activation
        self.embeddings = None if embeddings is None else check_tables("embeddings", embeddings)
        if self.code_columns > self.in_features:
            expected = f"at most {self.in_features}, as `x` has columns"
            raise ValueError(f"embeddings: expected {expected}, got {self.code_columns}")
        self.input_groups = None
        if input_groups is not None:
            plain = self.in_features - self.code_columns
            self.input_groups = check_groups("input_groups", input_groups, columns=plain)
            self.gate = InputGate(self.input_groups)
        self.propensity_head = check_flag("propensity_head", propensity_head)
        self.arms = check_integer("arms", arms, at_least=2)
        if self.propensity_head and self.arms > 2:
            raise ValueError(f"propensity_head: expected False, as it is for two arms, got True with arms={self.arms}")
        if self.embeddings is not None:
            self.embedding = Embedding(self.embeddings)
        columns = self.in_features + sum(width - 1 for _, width in self.embeddings or ())
        widths = (*self.head_features, self.out_features)
        code_features = (columns, *self.representation_features)[-1]
        self.representation = MLP(columns, self.representation_features, activation)
        for arm in range(self.arms):
            self.add_module(f"head{arm}", MLP(code_features, widths, activation, final_activation))
        if self.propensity_head:
            self.propensity = nn.Linear(code_features, 1)
            self.epsilon = nn.Parameter(torch.zeros(1))

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

    def forward(
        self,
        x: Float[Tensor, "batch in"],
        t: Int[Tensor, " batch"] | None = None,
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
                Or `return_propensity` of a model without the head.
        """
        check_shape("x", x, ("batch", self.in_features))
        x = self._inputs(x)
        code = self.representation(x)
        more: list[Any] = [code] * return_representation
        if return_propensity:
            more.append(self._propensity(code))
        if t is None:
            outcomes = tuple(head(code) for head in self._heads())
            return (outcomes, *more) if more else outcomes
        check_shape("t", t, (len(x),))
        check_arms("t", t.detach().cpu().numpy(), self.arms)
        outcome = code.new_empty(len(x), self.out_features)
        for arm, head in enumerate(self._heads()):
            rows = t == arm
            outcome[rows] = head(code[rows])
        return (outcome, *more) if more else outcome

    def _heads(self) -> list[nn.Module]:
        return [self.get_submodule(f"head{arm}") for arm in range(self.arms)]

    def _inputs(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch columns"]:
        """Returns what the representation takes: the columns through their gates, then those of the codes."""
        if self.embeddings is None:
            return x if self.input_groups is None else self.gate(x)
        plain = self.in_features - self.code_columns
        features, codes = x[:, :plain], x[:, plain:]
        features = features if self.input_groups is None else self.gate(features)
        return torch.cat((features, self.embedding(codes)), dim=1)

    def _propensity(self, code: Float[Tensor, "batch code"]) -> tuple[Float[Tensor, " batch"], Float[Tensor, "1"]]:
        """Returns the logit of treatment, and `epsilon`."""
        # Both in one pair: a loss only calls the model, and in Linen nobody can ask it for a parameter otherwise.
        if not self.propensity_head:
            raise ValueError("return_propensity: expected a model with propensity_head, got one without")
        return self.propensity(code)[:, 0], self.epsilon

    def concatenated(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch arms*out"]:
        """Returns all potential outcomes in one array, `y0` first: the article's outputs wanted together.

        Args:
            x: the features [batch, in].

        Raises:
            ValueError: `x` without `in_features` columns.
        """
        return torch.cat(self(x), dim=1)
