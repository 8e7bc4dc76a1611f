"""Training loops under `jit`, `scan` and `vmap`."""

from operator import setitem
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import flax_impl
import torch_ref

from .fact import Found, fact, outcome

_GENERATOR = np.random.default_rng(0)
X, Y = _GENERATOR.normal(size=(12, 3)), _GENERATOR.normal(size=12)


def _gradient(w: jax.Array, x: Any, y: Any) -> jax.Array:
    return jax.grad(lambda w: ((x @ w - y) ** 2).mean())(w)


@fact(
    "two backward passes before a step",
    torch="`.grad` adds up",
    jax="`optax.MultiSteps` averages",
    use="add the gradients: `jax.tree.map(jnp.add, first, second)`",
)
def accumulated_gradients() -> Found:
    halves = [slice(0, 6), slice(6, 12)]
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for rows in halves:
        ((torch.tensor(X[rows]) @ weight - torch.tensor(Y[rows])) ** 2).mean().backward()
    optimizer.step()
    w = start = jnp.ones(3)
    multi = optax.MultiSteps(optax.sgd(0.1), 2)
    state = multi.init(w)
    for rows in halves:
        updates, state = multi.update(_gradient(w, X[rows], Y[rows]), state, w)
        w = jnp.asarray(optax.apply_updates(w, updates))
    first, second = (_gradient(start, X[rows], Y[rows]) for rows in halves)
    return Found(weight.detach(), w, start - 0.1 * (first + second))


def _after(steps: int, way: str) -> jax.Array:
    """Returns the weights after steps taken in a Python loop, or in one compiled loop."""

    def step(w: jax.Array, _: None) -> tuple[jax.Array, None]:
        return w - 0.1 * _gradient(w, X, Y), None

    if way == "scan":
        return jax.lax.scan(step, jnp.ones(3), None, steps)[0]
    w, jitted = jnp.ones(3), jax.jit(step)
    for _ in range(steps):
        w, _ = jitted(w, None)
    return w


@fact("the same steps in `lax.scan`", torch="a loop", jax="one program; the digits that rounding leaves differ")
def scanned_loop() -> Found:
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        ((torch.tensor(X) @ weight - torch.tensor(Y)) ** 2).mean().backward()
        optimizer.step()
    return Found(weight.detach(), _after(50, "scan"), _after(50, "loop"))


@fact(
    "many trainings under `vmap`",
    torch="one after the other",
    jax="one program; each as if it were alone (`fit_replicas`)",
)
def vectorized_trainings() -> Found:
    data, model = flax_impl.data.synthetic(rows=40, features=4), flax_impl.TwoHead(4, [4], [4])
    params = jax.tree.map(lambda leaf: leaf.astype(float), model.init_params(range(2)))
    settings: dict[str, Any] = {"steps": 5, "batch_size": 20, "progress": False}
    together, _ = flax_impl.fit_replicas(model, params, data.arrays(), seed=range(2), **settings)
    trained, alone = [], []
    for number in range(2):
        first, last = (
            flax_impl.models.to_numpy(jax.tree.map(lambda leaf, n=number: leaf[n], tree)) for tree in (params, together)
        )
        net = torch_ref.TwoHead(4, [4], [4]).double()
        torch_ref.models.from_numpy(net, first)
        torch_ref.fit(net, data.arrays(), seed=number, **settings)
        weights = torch_ref.models.to_numpy(net)
        alone += [weights[name].ravel() for name in sorted(weights)]
        trained += [last[name].ravel() for name in sorted(weights)]
    return Found(np.concatenate(alone), np.concatenate(trained))


@fact(
    "rows picked by a mask",
    torch="`x[mask]`: {torch}",
    jax="under `jit`: {jax}",
    use="`jnp.where(mask, x, 0)`, and count with `mask.sum()`",
)
def boolean_indexing() -> Found:
    x, mask = np.arange(3.0), np.array([True, False, True])
    shape = str(list(torch.tensor(x)[torch.tensor(mask)].shape))
    return Found(values={"torch": shape, "jax": outcome(lambda: jax.jit(lambda x, mask: x[mask])(x, mask))})


@fact(
    "writing into an array",
    torch="`x[0] = 1`: in place",
    jax="`x[0] = 1`: {jax}",
    use="`x = x.at[0].set(1)`: a new array",
)
def writing_in_place() -> Found:
    tensor, array = torch.zeros(3, dtype=torch.float64), jnp.zeros(3)
    held: Any = array
    tensor[0] = 1
    return Found(tensor, array, array.at[0].set(1), values={"jax": outcome(lambda: setitem(held, 0, 1))})


@fact(
    "a print, or any side effect, in the step",
    torch="each time",
    jax="under `jit` {calls} in 3 calls, while it is traced",
    use="`jax.debug.print`",
)
def side_effects() -> Found:
    calls = []

    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        calls.append(x)
        return x + 1

    for i in range(3):
        step(jnp.asarray(float(i)))
    return Found(values={"calls": "once" if len(calls) == 1 else f"{len(calls)} times"})


@fact(
    "a last batch that is shorter",
    torch="a batch like any other",
    jax="another shape: {programs} programs are compiled for 10 rows in batches of 4",
    use="fill it up and mask, as `fit` does",
)
def short_batch() -> Found:
    traced = []

    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return x.sum()

    for start in range(0, 10, 4):
        step(jnp.arange(10.0)[start : start + 4])
    return Found(values={"programs": len(traced)})
