"""What the models are made of: linear layers under explicit names, and activations by name."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..common.checks.arguments import check_choice, check_groups, check_integer, check_shape, check_tables, check_widths

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "identity": lambda x: x,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class MLP(nn.Module):
    """Linear layers `layer0`, `layer1`, …, each with an activation after it, the last one included.

    Twin: `flax_impl.models.MLP`, which can also mask rows, where the reference leaves them out.

    Args:
        in_features: columns of the input.
        features: the width of each layer; an empty sequence passes the input on.
        activation: after every layer but the last.
        final_activation: after the last layer; None means `activation`.

    Raises:
        ValueError: a width below 1, or an unknown activation.

    Example:
        >>> model = MLP(3, [4, 2])
        >>> model(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, in_features: int, features: Sequence[int], activation: str = "elu", final_activation: str | None = None
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        if final_activation is not None:
            check_choice("final_activation", final_activation, ACTIVATIONS)
        self.in_features = check_integer("in_features", in_features, at_least=1)
        self.features = check_widths("features", features)
        self.activation = activation
        self.final_activation = final_activation
        for i, widths in enumerate(pairwise((self.in_features, *self.features))):
            self.add_module(f"layer{i}", nn.Linear(*widths))

    def forward(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        """Returns the last layer's output, after its activation.

        Args:
            x: the input [batch, in].

        Raises:
            RuntimeError: `x` without `in_features` columns, in torch's words.
        """
        depth = len(self.features)
        for i, layer in enumerate(self.children()):
            x = layer(x)
            x = ACTIVATIONS[self.final_activation or self.activation if i == depth - 1 else self.activation](x)
        return x


class InputGate(nn.Module):
    """A factor for each group of input columns, that decay turns off where the group tells nothing.

    The factor is the fourth power of its parameter. So decay, which shrinks the parameter and the weights behind it
    alike, presses small groups to zero and leaves large ones.

    Twin: `flax_impl.models.InputGate`.

    Args:
        groups: how many columns each group has; they lie side by side.

    Raises:
        ValueError: no group, or one without columns.

    Example:
        >>> gate = InputGate([1, 2])
        >>> gate(torch.ones(1, 3)).tolist()
        [[1.0, 1.0, 1.0]]

    Source: Hoff, "Lasso, fractional norm and structured sparse estimation using a Hadamard product", 2017.
    """

    def __init__(self, groups: Sequence[int]) -> None:
        super().__init__()
        self.groups = check_groups("groups", groups)
        self.scale = nn.Parameter(torch.ones(len(self.groups)))

    def forward(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch in"]:
        """Returns the input, each column times the factor of its group.

        Args:
            x: the input [batch, in].
        """
        group_of = [group for group, columns in enumerate(self.groups) for _ in range(columns)]
        return x * (self.scale**4)[torch.tensor(group_of, device=x.device)]


class Embedding(nn.Module):
    """A few columns for each category, learned: a row of `table0`, `table1`, … for each code.

    A code that is no level's, such as -1 for a level that training did not see, gives zeros and no gradient. Tables
    start at zero, too: so an unseen level lies in the middle of the others, and decay keeps rare ones near it.

    Twin: `flax_impl.models.Embedding`.

    Args:
        tables: levels and width of each, such as `[(200, 8)]`.

    Raises:
        ValueError: no table, or one without levels or columns.

    Example:
        >>> embedding = Embedding([(3, 2), (5, 1)])
        >>> embedding(torch.tensor([[2.0, 4.0], [-1.0, 0.0]])).shape
        torch.Size([2, 3])

    Source: Guo, Berkhahn, "Entity embeddings of categorical variables", 2016.
    """

    def __init__(self, tables: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.tables = check_tables("tables", tables)
        for i, (levels, width) in enumerate(self.tables):
            self.register_parameter(f"table{i}", nn.Parameter(torch.zeros(levels, width)))

    def forward(self, codes: Float[Tensor, "batch tables"]) -> Float[Tensor, "batch out"]:
        """Returns the columns of each code, side by side.

        Args:
            codes: whole numbers from 0 to below the levels of their table [batch, tables]; others are no level's.

        Raises:
            ValueError: `codes` without a column for each table.
        """
        check_shape("codes", codes, ("batch", len(self.tables)))
        return torch.cat([look_up(table, codes[:, i]) for i, table in enumerate(self.parameters())], dim=1)


def look_up(table: Float[Tensor, "levels width"], code: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
    """Returns the row of each code, and zeros, which send no gradient back, where there is no such row."""
    known = (code >= 0) & (code < len(table)) & (code == torch.floor(code))
    return torch.where(known[:, None], table[torch.where(known, code, 0).long()], 0)
