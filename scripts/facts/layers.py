"""Layers and their defaults."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from .fact import Found, fact, outcome

_GENERATOR = np.random.default_rng(0)
X, IMAGES = _GENERATOR.normal(size=(6, 4)), _GENERATOR.normal(size=(1, 1, 5, 5))
SMALL = 0.01 * X  # where an epsilon shows
EDGE: Any = [(1, 1), (1, 1)]
FAR_EDGE: Any = [(0, 1), (0, 1)]


def _run(module: nn.Module, x: np.ndarray, **settings: Any) -> Any:
    """Returns what a layer makes of `x` with its first weights, in float64."""
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


def _batch_norm(x: np.ndarray, momentum: float) -> tuple[Any, dict[str, Any]]:
    """Returns the output of Flax's batch norm in training, and its running statistics after it."""
    output, after = _run(nn.BatchNorm(use_running_average=False, momentum=momentum), x, mutable=["batch_stats"])
    return output, after["batch_stats"]


def _torch_moved() -> torch.nn.BatchNorm1d:
    layer = torch.nn.BatchNorm1d(4).double()
    layer(torch.tensor(X))
    return layer


@fact(
    "batch norm, momentum",
    torch="{torch}, the share of the new batch",
    jax="{jax}, the share that is kept",
    use="`BatchNorm(momentum=0.9)`",
)
def batch_norm_momentum() -> Found:
    values = {"torch": torch.nn.BatchNorm1d(4).momentum, "jax": nn.BatchNorm().momentum}
    found = [_batch_norm(X, momentum)[1]["mean"] for momentum in (nn.BatchNorm().momentum, 0.9)]
    return Found(_torch_moved().running_mean, *found, values=values)


@fact(
    "batch norm, running variance",
    torch="unbiased: divided by rows - 1",
    jax="biased: divided by rows",
    use="average the batch's variance times `rows / (rows - 1)`, in a layer of your own",
)
def batch_norm_variance() -> Found:
    unbiased = 0.9 + 0.1 * X.var(axis=0) * len(X) / (len(X) - 1)
    return Found(_torch_moved().running_var, _batch_norm(X, 0.9)[1]["var"], unbiased)


@fact("batch norm, epsilon", torch="{torch}", jax="{jax}")
def batch_norm_epsilon() -> Found:
    layer = torch.nn.BatchNorm1d(4)
    output, _ = _batch_norm(SMALL, 0.9)
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
    found = nn.avg_pool(jnp.asarray(IMAGES.transpose(0, 2, 3, 1)), (2, 2), (2, 2), EDGE)
    return Found(F.avg_pool2d(torch.tensor(IMAGES), 2, 2, 1), found.transpose(0, 3, 1, 2))


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


@fact(
    "RMS norm, epsilon",
    torch="{torch}: the dtype's own",
    jax="{jax}",
    use="`RMSNorm(epsilon=jnp.finfo(x.dtype).eps)`",
)
def rms_norm_epsilon() -> Found:
    layer = torch.nn.RMSNorm(4)
    return Found(
        layer.double()(torch.tensor(0.1 * SMALL)),
        _run(nn.RMSNorm(), 0.1 * SMALL),
        _run(nn.RMSNorm(epsilon=float(np.finfo(float).eps)), 0.1 * SMALL),
        values={"torch": str(layer.eps), "jax": nn.RMSNorm().epsilon},
    )


@fact(
    "pooling, its stride",
    torch="as large as the window",
    jax="1",
    use="`max_pool(x, (2, 2), strides=(2, 2))`",
)
def pooling_stride() -> Found:
    x = jnp.asarray(IMAGES[..., :4, :4].transpose(0, 2, 3, 1))
    ways: list[dict[str, Any]] = [{}, {"strides": (2, 2)}]
    found = [nn.max_pool(x, (2, 2), **strides).transpose(0, 3, 1, 2) for strides in ways]
    return Found(F.max_pool2d(torch.tensor(IMAGES[..., :4, :4]), 2), *found)


@fact(
    "pooling with `ceil_mode`",
    torch="keeps the last window where it is cut off",
    jax="drops it",
    use="pad the far side: `max_pool(x, (2, 2), (2, 2), [(0, 1), (0, 1)])`",
)
def pooling_ceil_mode() -> Found:
    x, ways = jnp.asarray(IMAGES.transpose(0, 2, 3, 1)), ("VALID", FAR_EDGE)
    found = [nn.max_pool(x, (2, 2), (2, 2), padding).transpose(0, 3, 1, 2) for padding in ways]
    return Found(F.max_pool2d(torch.tensor(IMAGES), 2, ceil_mode=True), *found)


@fact(
    "making an image smaller",
    torch='`interpolate(mode="bilinear")` takes every other pixel',
    jax="`jax.image.resize` smooths first",
    use="`jax.image.resize(x, shape, 'bilinear', antialias=False)`",
)
def resizing() -> Found:
    x, shape = IMAGES[..., :4, :4], (1, 1, 2, 2)
    found = [jax.image.resize(jnp.asarray(x), shape, "bilinear", antialias=smooth) for smooth in (True, False)]
    return Found(F.interpolate(torch.tensor(x), (2, 2), mode="bilinear"), *found)


@fact("PReLU, first slope", torch="{torch}", jax="{jax}", use="`PReLU(negative_slope_init=0.25)`")
def prelu_slope() -> Found:
    layer = torch.nn.PReLU()
    found = [_run(module, X) for module in (nn.PReLU(), nn.PReLU(negative_slope_init=0.25))]
    values = {"torch": layer.weight, "jax": nn.PReLU().negative_slope_init}
    return Found(layer.double()(torch.tensor(X)), *found, values=values)


@fact(
    "embedding of a number beyond the table",
    torch="{torch}",
    jax="{jax}",
    use="check the numbers before they go in",
)
def embedding_beyond() -> Found:
    refused = outcome(lambda: torch.nn.Embedding(3, 2)(torch.tensor([5])))
    found = _run(nn.Embed(3, 2), np.array([5]))
    return Found(values={"torch": refused, "jax": found})


@fact(
    "embedding with `padding_idx=0`",
    torch="row 0 is 0 and stays so",
    jax="has no such argument",
    use="`jnp.where(ids[..., None] == 0, 0, embed(ids))`",
)
def embedding_padding() -> Found:
    ids = np.array([0, 2])
    layer = torch.nn.Embedding(3, 2, padding_idx=0).double()
    table = layer.weight.detach().numpy().copy()
    table[0] = 1.0  # whatever is drawn there
    found = nn.Embed(3, 2).apply({"params": {"embedding": jnp.asarray(table)}}, jnp.asarray(ids))
    return Found(layer(torch.tensor(ids)), found, jnp.where(ids[..., None] == 0, 0, jnp.asarray(found)))


@fact(
    "mask of attention",
    torch="`MultiheadAttention(attn_mask=)`: True leaves out; `scaled_dot_product_attention`: True keeps",
    jax="True keeps",
    use="`mask=~attn_mask`",
)
def attention_mask() -> Found:
    x, later = torch.tensor(X[None]), torch.ones(6, 6).triu(1).bool()
    layer = torch.nn.MultiheadAttention(4, 1, batch_first=True).double()
    reference = layer(x, x, x, attn_mask=later)[0]
    weights, bias = layer.in_proj_weight.detach().numpy(), layer.in_proj_bias.detach().numpy()
    query, key, value = (
        jnp.asarray(X[None] @ w.T + b)[:, :, None] for w, b in zip(np.split(weights, 3), np.split(bias, 3), strict=True)
    )
    out = layer.out_proj.weight.detach().numpy()
    found = [
        nn.dot_product_attention(query, key, value, mask=jnp.asarray(mask)[None, None])[:, :, 0] @ out.T
        for mask in (later.numpy(), ~later.numpy())
    ]
    return Found(reference, *found)
