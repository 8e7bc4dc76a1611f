"""What the models are made of: linear layers under explicit names, and activations by name."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import jaxpr_as_fun
from jax.nn.initializers import variance_scaling
from jaxtyping import Bool, Float

from torch_ref.common.checks.arguments import (
    check_choice,
    check_groups,
    check_integer,
    check_shape,
    check_tables,
    check_widths,
)

Params = dict[str, Any]  # arrays by module and name: params["representation"]["layer0"]["kernel"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": jax.nn.elu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # torch's default is the error function, jax's is tanh
    "identity": lambda x: x,
    "leaky_relu": lambda x: jnp.where(x > 0, x, 0.01 * x),  # its slope at 0 is 0.01 in torch, 1 in jax
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def linear(in_features: int, out_features: int, name: str) -> nn.Dense:
    """Returns a linear layer whose weights are drawn as `torch.nn.Linear` draws them, its bias included."""
    return nn.Dense(out_features, **linear_initializers(in_features), name=name)


def linear_initializers(in_features: int) -> dict[str, Any]:
    """Returns what draws a linear layer's weights as `torch.nn.Linear` draws them.

    Both come from U(-1/sqrt(in_features), 1/sqrt(in_features)). A bias initialiser of Flax's cannot see `in_features`,
    so it is made here, where they are known.

    Source: He et al., "Delving deep into rectifiers", ICCV 2015, with the gain torch has used since its first release.
    """
    return {"kernel_init": _draw_kernel, "bias_init": partial(_draw_bias, bound=1 / math.sqrt(in_features))}


def keep_rows(x: Float[Array, "batch features"], rows: Bool[Array, " batch"] | None) -> Float[Array, "batch features"]:
    """Returns `x` with zeros in the rows that are not kept; no gradient comes back from those, whatever they held."""
    return x if rows is None else jnp.where(rows[:, None], x, 0)


class MLP(nn.Module):
    """Linear layers `layer0`, `layer1`, …, each with an activation after it, the last one included.

    Twin: `torch_ref.models.MLP`, which leaves rows out, where the port masks them.

    Args:
        in_features: columns of the input.
        features: the width of each layer; an empty sequence passes the input on.
        activation: after every layer but the last.
        final_activation: after the last layer; None means `activation`.

    Raises:
        ValueError: a width below 1, or an unknown activation.

    Example:
        >>> model = MLP(3, [4, 2])
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 3)))
        >>> model.apply(variables, jnp.zeros((5, 3))).shape
        (5, 2)
    """

    in_features: int
    features: Sequence[int]
    activation: str = "elu"
    final_activation: str | None = None

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        if self.final_activation is not None:
            check_choice("final_activation", self.final_activation, ACTIVATIONS)
        self.in_features = check_integer("in_features", self.in_features, at_least=1)
        self.features = check_widths("features", self.features)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch in"], rows: Bool[Array, " batch"] | None = None
    ) -> Float[Array, "batch out"]:
        """Returns the last layer's output, after its activation.

        A row that is not in `rows` enters as zeros and leaves every layer as zeros. A mask on the result alone would
        let it overflow on the way, and 0 times infinity makes the gradient NaN (the double where).

        Args:
            x: the input [batch, in].
            rows: False for rows to leave out [batch]; None means that all are kept.
        """
        x = keep_rows(x, rows)
        depth = len(self.features)
        for i, widths in enumerate(pairwise((self.in_features, *self.features))):
            x = keep_rows(linear(*widths, name=f"layer{i}")(x), rows)
            x = ACTIVATIONS[self.final_activation or self.activation if i == depth - 1 else self.activation](x)
        return x


class InputGate(nn.Module):
    """A factor for each group of input columns, that decay turns off where the group tells nothing.

    The factor is the fourth power of its parameter. So decay, which shrinks the parameter and the weights behind it
    alike, presses small groups to zero and leaves large ones.

    Twin: `torch_ref.models.InputGate`.

    Args:
        groups: how many columns each group has; they lie side by side.

    Raises:
        ValueError: no group, or one without columns.

    Example:
        >>> gate = InputGate([1, 2])
        >>> variables = gate.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> gate.apply(variables, jnp.ones((1, 3))).tolist()
        [[1.0, 1.0, 1.0]]

    Source: Hoff, "Lasso, fractional norm and structured sparse estimation using a Hadamard product", 2017.
    """

    groups: Sequence[int]

    def __post_init__(self) -> None:
        self.groups = check_groups("groups", self.groups)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "batch in"]) -> Float[Array, "batch in"]:
        """Returns the input, each column times the factor of its group.

        Args:
            x: the input [batch, in].
        """
        scale = self.param("scale", nn.initializers.ones, (len(self.groups),), jnp.float32)
        return x * repeat_groups(scale**4, self.groups)[None, :]


class Embedding(nn.Module):
    """A few columns for each category, learned: a row of `table0`, `table1`, … for each code.

    A code that is no level's, such as -1 for a level that training did not see, gives zeros and no gradient. Tables
    start at zero, too: so an unseen level lies in the middle of the others, and decay keeps rare ones near it.

    Twin: `torch_ref.models.Embedding`.

    Args:
        tables: levels and width of each, such as `[(200, 8)]`.

    Raises:
        ValueError: no table, or one without levels or columns.

    Example:
        >>> embedding = Embedding([(3, 2), (5, 1)])
        >>> variables = embedding.init(jax.random.key(0), jnp.zeros((1, 2)))
        >>> embedding.apply(variables, jnp.array([[2.0, 4.0], [-1.0, 0.0]])).shape
        (2, 3)

    Source: Guo, Berkhahn, "Entity embeddings of categorical variables", 2016.
    """

    tables: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        self.tables = check_tables("tables", self.tables)
        super().__post_init__()

    @nn.compact
    def __call__(self, codes: Float[Array, "batch tables"]) -> Float[Array, "batch out"]:
        """Returns the columns of each code, side by side.

        Args:
            codes: whole numbers from 0 to below the levels of their table [batch, tables]; others are no level's.

        Raises:
            ValueError: `codes` without a column for each table.
        """
        check_shape("codes", codes, ("batch", len(self.tables)))
        tables = [
            self.param(f"table{i}", nn.initializers.zeros, (levels, width), jnp.float32)
            for i, (levels, width) in enumerate(self.tables)
        ]
        return jnp.concatenate([look_up(table, codes[:, i]) for i, table in enumerate(tables)], axis=1)


def look_up(table: Float[Array, "levels width"], code: Float[Array, " batch"]) -> Float[Array, "batch width"]:
    """Returns the row of each code, and zeros, which send no gradient back, where there is no such row."""
    known = (code >= 0) & (code < len(table)) & (code == jnp.floor(code))
    return keep_rows(table[jnp.where(known, code, 0).astype(jnp.int32)], known)


def repeat_groups(values: Float[Array, " groups"], groups: Sequence[int]) -> Float[Array, " in"]:
    """Returns each group's value as often as the group has columns."""
    group_of = [group for group, columns in enumerate(groups) for _ in range(columns)]
    return values[np.array(group_of)]


def init_params(model: nn.Module, seed: int | Iterable[int], *inputs: Float[Array, "batch in"]) -> Params:
    """Returns initial parameters of a model that is called with inputs like these; for several seeds stacked ones."""
    if not isinstance(seed, Iterable):
        return _draw(model, check_integer("seed", seed, at_least=0), inputs)
    seeds = [check_integer(f"seed[{i}]", each, at_least=0) for i, each in enumerate(seed)]
    if not seeds:
        raise ValueError("seed: expected a whole number, or at least one of them, got none")
    return jax.vmap(lambda seed: _draw(model, seed, inputs))(np.asarray(seeds, np.int32))


def _draw(model: nn.Module, seed: int | Array, inputs: Sequence[Array]) -> Params:
    """Runs the draws of `model.init`, and nothing else of it, each compiled for its shape: so models share them.

    One program for the whole model would take longer to compile than many a training.
    """
    key = jax.random.key(seed)
    traced = _draws.trace(model, tuple(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in inputs), key)
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), jaxpr_as_fun(traced.jaxpr)(key))


@partial(jax.jit, static_argnames=("model", "shapes"))
def _draws(model: nn.Module, shapes: Sequence[jax.ShapeDtypeStruct], key: chex.PRNGKey) -> Params:
    variables: Any = model.lazy_init(key, *shapes)
    return variables["params"]


_draw_kernel = jax.jit(variance_scaling(1 / 3, "fan_in", "uniform"), static_argnums=(1, 2))


@partial(jax.jit, static_argnums=(1, 2))
def _draw_bias(key: chex.PRNGKey, shape: tuple[int, ...], dtype: Any = jnp.float32, *, bound: float) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)
