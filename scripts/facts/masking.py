"""Splitting or masking, and what `where` does to gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from .fact import Found, fact


@fact(
    "overflow in the branch that is not taken",
    torch="split: the rows never reach it",
    jax="`where` on the result: infinity times 0 on the way back",
    use="`where` on the input as well: `jnp.where(mask, f(jnp.where(mask, x, 0)), …)`",
)
def overflow_in_the_other_branch() -> Found:
    x, mask = np.array([1.0, 1000.0]), np.array([True, False])
    tensor = torch.tensor(x, requires_grad=True)
    tensor[torch.tensor(mask)].exp().sum().backward()

    def once(x: jax.Array) -> jax.Array:
        return jnp.where(mask, jnp.exp(x), 0).sum()

    def twice(x: jax.Array) -> jax.Array:
        return jnp.where(mask, jnp.exp(jnp.where(mask, x, 0)), 0).sum()

    return Found(tensor.grad, jax.grad(once)(x), jax.grad(twice)(x))


@fact(
    "NaN in a label that does not count",
    torch="split: never read",
    jax="`where` on the loss: the loss is finite, its gradient is not",
    use="clean the label before the loss: `jnp.where(mask, y, 0)`",
)
def nan_in_an_inactive_label() -> Found:
    p, y, mask = np.array([1.0, 2.0]), np.array([0.5, np.nan]), np.array([True, False])
    tensor = torch.tensor(p, requires_grad=True)
    keep = torch.tensor(mask)
    ((torch.tensor(y)[keep] - tensor[keep]) ** 2).sum().backward()

    def late(p: jax.Array) -> jax.Array:
        return jnp.where(mask, (p - y) ** 2, 0).sum()

    def early(p: jax.Array) -> jax.Array:
        return jnp.where(mask, (p - jnp.where(mask, y, 0)) ** 2, 0).sum()

    return Found(tensor.grad, jax.grad(late)(p), jax.grad(early)(p))


@fact(
    "mean of a group without rows",
    torch="`x[mask].mean()`: {torch}, its gradient {torch_gradient}",
    jax="`(x * mask).sum() / mask.sum()`: {jax}, its gradient {jax_gradient}",
    use="`jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1)`; in torch, leave the group out",
)
def mean_of_no_rows() -> Found:
    mask = np.zeros(3, bool)
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    reference = x[torch.tensor(mask)].mean()
    reference.backward()
    ported, gradient = jax.value_and_grad(lambda x: (x * mask).sum() / mask.sum())(jnp.ones(3))
    guarded = jax.grad(lambda x: jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1))(jnp.ones(3))
    values = {"torch": reference, "torch_gradient": x.grad, "jax": ported, "jax_gradient": gradient}
    return Found(x.grad, gradient, guarded, values=values)


def _steps(gradients: list[float | None]) -> Any:
    """Returns a parameter after steps of torch's Adam; None is what a layer that was not called leaves."""
    parameter = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for gradient in gradients:
        parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return parameter.detach()


@fact(
    "a head that no row of the batch uses, under Adam",
    torch="never called: its gradient is None, and it stays where it is",
    jax="its gradient is 0, and the first moment carries it on",
    use="give torch zeros: run both heads, or `grad = torch.zeros_like(p)`",
)
def unused_head() -> Found:
    params, optimizer = jnp.asarray(1.0), optax.adam(0.1)
    state = optimizer.init(params)
    for gradient in (1.0, 0.0):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return Found(_steps([1.0, None]), params, params, torch_mended=_steps([1.0, 0.0]))


def _slopes(of_torch: Callable[[torch.Tensor], torch.Tensor], *of_jax: Callable[[Any], Any], at: float) -> list[Any]:
    tensor = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    of_torch(tensor).sum().backward()
    return [tensor.grad, *(jax.grad(lambda x, f=f: jnp.sum(f(x)))(at) for f in of_jax)]


@fact(
    "slope of ReLU at 0",
    torch="{torch}",
    jax="`jnp.maximum(x, 0)`: {jax}",
    use="`jax.nn.relu`",
)
def relu_at_zero() -> Found:
    slopes = _slopes(torch.relu, lambda x: jnp.maximum(x, 0), jax.nn.relu, at=0.0)
    return Found(*slopes, values={"torch": slopes[0], "jax": slopes[1]})


@fact(
    "slope of leaky ReLU at 0",
    torch="{torch}",
    jax="{jax}",
    use="`jnp.where(x > 0, x, 0.01 * x)`",
)
def leaky_relu_at_zero() -> Found:
    slopes = _slopes(torch.nn.functional.leaky_relu, jax.nn.leaky_relu, lambda x: jnp.where(x > 0, x, 0.01 * x), at=0.0)
    return Found(*slopes, values={"torch": slopes[0], "jax": slopes[1]})


@fact("slope of ELU at 0", torch="{torch}", jax="{jax}")
def elu_at_zero() -> Found:
    slopes = _slopes(torch.nn.functional.elu, jax.nn.elu, at=0.0)
    return Found(*slopes, values={"torch": slopes[0], "jax": slopes[1]})


@fact(
    "slope of the absolute value at 0",
    torch="{torch}",
    jax="{jax}",
    use="`jnp.sign(jax.lax.stop_gradient(x)) * x`",
)
def abs_at_zero() -> Found:
    slopes = _slopes(torch.abs, jnp.abs, lambda x: jnp.sign(jax.lax.stop_gradient(x)) * x, at=0.0)
    return Found(*slopes, values={"torch": slopes[0], "jax": slopes[1]})


@fact(
    "slope of clamp at its edge",
    torch="{torch}",
    jax="`jnp.clip`: {jax}",
    use="`jnp.where((x >= low) & (x <= high), x, jax.lax.stop_gradient(jnp.clip(x, low, high)))`",
)
def clamp_at_its_edge() -> Found:
    def mended(x: Any) -> Any:
        return jnp.where((x >= 0) & (x <= 1), x, jax.lax.stop_gradient(jnp.clip(x, 0, 1)))

    slopes = _slopes(lambda x: x.clamp(0, 1), lambda x: jnp.clip(x, 0, 1), mended, at=1.0)
    return Found(*slopes, values={"torch": slopes[0], "jax": slopes[1]})


@fact(
    "gradient of the norm at 0",
    torch="{torch}",
    jax="{jax}",
    use="mask: `jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1)), 0)` of the sum of squares `s`",
)
def norm_at_zero() -> Found:
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    x.norm().backward()

    def mended(x: jax.Array) -> jax.Array:
        squares = (x**2).sum()
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

    ported = jax.grad(jnp.linalg.norm)(jnp.zeros(2))
    return Found(x.grad, ported, jax.grad(mended)(jnp.zeros(2)), values={"torch": x.grad, "jax": ported})


@fact(
    "gradient of a maximum with ties",
    torch="`x.max(dim)`: to one of them, {torch}; `x.amax(dim)`: shared",
    jax="`jnp.max`: shared, {jax}",
    use="`jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis)`",
)
def tied_maximum() -> Found:
    x = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    x.max(1).values.sum().backward()

    def one(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), 1).sum()

    at = jnp.array([[1.0, 2.0, 2.0]])
    shared = jax.grad(lambda x: jnp.max(x, 1).sum())(at)
    return Found(x.grad, shared, jax.grad(one)(at), values={"torch": x.grad, "jax": shared})
