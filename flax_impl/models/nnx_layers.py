"""What the NNX models are made of: the layers of the Linen ones, over the same parameters."""

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from torch_ref.common.checks.arguments import check_groups, check_shape, check_tables

from . import layers
from .layers import ACTIVATIONS, keep_rows, linear_initializers, look_up, repeat_groups


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


class Embedding(nnx.Module):
    """A few columns for each category, learned: a row of `table0`, `table1`, … for each code.

    A code that is no level's, such as -1 for a level that training did not see, gives zeros and no gradient. Tables
    start at zero, too: so an unseen level lies in the middle of the others, and decay keeps rare ones near it.

    Twin: `torch_ref.models.Embedding`; in Linen `flax_impl.models.Embedding`.

    Args:
        tables: levels and width of each, such as `[(200, 8)]`.

    Raises:
        ValueError: no table, or one without levels or columns.

    Example:
        >>> Embedding([(3, 2), (5, 1)])(jnp.array([[2.0, 4.0], [-1.0, 0.0]])).shape
        (2, 3)

    Source: Guo, Berkhahn, "Entity embeddings of categorical variables", 2016.
    """

    def __init__(self, tables: Sequence[Sequence[int]]) -> None:
        self.tables = check_tables("tables", tables)
        for i, table in enumerate(self.tables):
            setattr(self, f"table{i}", nnx.Param(jnp.zeros(table, jnp.float32)))

    def __call__(self, codes: Float[Array, "batch tables"]) -> Float[Array, "batch out"]:
        """Returns the columns of each code, side by side; zeros for a code that is no level's."""
        check_shape("codes", codes, ("batch", len(self.tables)))
        tables = [getattr(self, f"table{i}")[...] for i in range(len(self.tables))]
        return jnp.concatenate([look_up(table, codes[:, i]) for i, table in enumerate(tables)], axis=1)
