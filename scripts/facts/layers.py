"""Layers and their defaults."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from .fact import Found, fact

_GENERATOR = np.random.default_rng(0)
X = _GENERATOR.normal(size=(6, 4))
SMALL = 0.01 * X  # where an epsilon shows
EDGE = [(1, 1), (1, 1)]


def _run(module: nn.Module, x: np.ndarray, **settings: Any) -> Any:
    variables = jax.tree.map(lambda leaf: leaf.astype(float), module.init(jax.random.key(0), jnp.asarray(x)))
    return module.apply(variables, jnp.asarray(x), **settings)


@fact(
    "layer norm, epsilon",
    torch="{torch}",
    jax="{jax}",
    use="`LayerNorm(epsilon=1e-5)`",
)
def layer_norm_epsilon() -> Found:
    layer = torch.nn.LayerNorm(4)
    return Found(
        layer.double()(torch.tensor(SMALL)),
        _run(nn.LayerNorm(), SMALL),
        _run(nn.LayerNorm(epsilon=1e-5), SMALL),
        values={"torch": layer.eps, "jax": nn.LayerNorm().epsilon},
    )


@fact(
    "layer norm where the mean is 1000 times the spread",
    torch="mean of squared distances",
    jax="mean of squares less the squared mean",
    use="`LayerNorm(use_fast_variance=False)`",
)
def layer_norm_variance() -> Found:
    x = 1000 + X
    fast, slow = (_run(nn.LayerNorm(epsilon=1e-5, use_fast_variance=fast), x) for fast in (True, False))
    return Found(torch.nn.LayerNorm(4).double()(torch.tensor(x)), fast, slow, coarse=True)


@fact("group norm, epsilon", torch="{torch}", jax="{jax}", use="`GroupNorm(epsilon=1e-5)`")
def group_norm_epsilon() -> Found:
    layer = torch.nn.GroupNorm(2, 4)
    return Found(
        layer.double()(torch.tensor(SMALL)),
        _run(nn.GroupNorm(2), SMALL),
        _run(nn.GroupNorm(2, epsilon=1e-5), SMALL),
        values={"torch": layer.eps, "jax": nn.GroupNorm(2).epsilon},
    )


def _moved(momentum: float, unbiased: bool = False) -> Any:
    """Returns the running variance after a batch."""
    layer = nn.BatchNorm(use_running_average=False, momentum=momentum)
    variables = jax.tree.map(lambda leaf: leaf.astype(float), layer.init(jax.random.key(0), jnp.asarray(X)))
    _, after = layer.apply(variables, jnp.asarray(X), mutable=["batch_stats"])
    var = after["batch_stats"]["var"]
    return var + (1 - momentum) * X.var(axis=0) / (len(X) - 1) if unbiased else var


def _torch_moved() -> Any:
    layer = torch.nn.BatchNorm1d(4).double()
    layer(torch.tensor(X))
    return layer.running_var


@fact(
    "batch norm, momentum",
    torch="{torch}, the share of the new batch",
    jax="{jax}, the share that is kept",
    use="`BatchNorm(momentum=0.9)`; the row below is what is left",
)
def batch_norm_momentum() -> Found:
    values = {"torch": torch.nn.BatchNorm1d(4).momentum, "jax": nn.BatchNorm().momentum}
    biased = torch.tensor(0.9 + 0.1 * X.var(axis=0))
    return Found(biased, _moved(nn.BatchNorm().momentum), _moved(0.9), values=values)


@fact(
    "batch norm, running variance",
    torch="unbiased: divided by rows - 1",
    jax="biased: divided by rows",
    use="add a share `1 / (rows - 1)` of the batch's variance, in a layer of your own",
)
def batch_norm_variance() -> Found:
    return Found(_torch_moved(), _moved(0.9), _moved(0.9, unbiased=True))


@fact("batch norm, epsilon", torch="{torch}", jax="{jax}")
def batch_norm_epsilon() -> Found:
    layer = torch.nn.BatchNorm1d(4)
    found = nn.BatchNorm(use_running_average=False)
    variables = jax.tree.map(lambda leaf: leaf.astype(float), found.init(jax.random.key(0), jnp.asarray(SMALL)))
    output, _ = found.apply(variables, jnp.asarray(SMALL), mutable=["batch_stats"])
    values = {"torch": layer.eps, "jax": nn.BatchNorm().epsilon}
    return Found(layer.double()(torch.tensor(SMALL)), output, values=values)


@fact(
    "GELU",
    torch="by the error function",
    jax="by tanh",
    use="`jax.nn.gelu(x, approximate=False)`",
)
def gelu() -> Found:
    x = np.linspace(-3, 3, 61)
    return Found(F.gelu(torch.tensor(x)), jax.nn.gelu(x), jax.nn.gelu(x, approximate=False))


@fact("ELU, SiLU, sigmoid, tanh, softplus, log softmax", torch="", jax="")
def activations() -> Found:
    x = np.linspace(-8, 8, 161)
    tensor = torch.tensor(x)
    of_torch = [F.elu(tensor), F.silu(tensor), tensor.sigmoid(), tensor.tanh(), F.softplus(tensor, threshold=1e9)]
    of_jax = [jax.nn.elu(x), jax.nn.silu(x), jax.nn.sigmoid(x), jnp.tanh(x), jax.nn.softplus(x)]
    of_torch.append(F.log_softmax(tensor, 0))
    of_jax.append(jax.nn.log_softmax(x))
    return Found(torch.stack(of_torch), jnp.stack(of_jax))


@fact(
    "softplus of more than 20",
    torch="the input itself",
    jax="the function",
    use="`jnp.where(x > 20, x, jax.nn.softplus(x))`, where the last digits matter",
)
def softplus_threshold() -> Found:
    x = 20.5
    mended = jnp.where(x > 20, x, jax.nn.softplus(x))
    return Found(F.softplus(torch.tensor(x, dtype=torch.float64)), jax.nn.softplus(x), mended)


@fact(
    "average pooling, at a padded edge",
    torch="divides by the window, padding counted",
    jax="`avg_pool` counts the padding as well; `count_include_pad=False` does not",
)
def average_pool() -> Found:
    x = _GENERATOR.normal(size=(1, 1, 4, 4))
    found = nn.avg_pool(jnp.asarray(x.transpose(0, 2, 3, 1)), (2, 2), (2, 2), EDGE)  # pyright: ignore[reportArgumentType]
    return Found(F.avg_pool2d(torch.tensor(x), 2, 2, 1), found.transpose(0, 3, 1, 2))


@fact(
    "standard deviation",
    torch="divides by rows - 1",
    jax="divides by rows",
    use="`jnp.std(x, ddof=1)`",
)
def standard_deviation() -> Found:
    return Found(torch.tensor(X).std(0), jnp.std(X, 0), jnp.std(X, 0, ddof=1))


@fact(
    "median of an even number",
    torch="the lower of the two in the middle",
    jax="halfway between them",
    use='`jnp.quantile(x, 0.5, method="lower")`',
)
def median() -> Found:
    return Found(torch.tensor(X).median(0).values, jnp.median(X, 0), jnp.quantile(X, 0.5, 0, method="lower"))
