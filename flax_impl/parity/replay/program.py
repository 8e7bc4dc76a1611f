"""A model and what is asked of it, as one compiled call that returns everything a trace holds of a step."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from torch_ref.common.call_names import leaves
from torch_ref.common.settings.optimizers import Optimizer

from ...training.build import build_optimizer
from .calls import Capture, zeros_for

Path = tuple[str, ...]


@dataclass(frozen=True)
class Variables:
    """All that a model holds: parameters, what else moves with a step (BatchNorm's statistics), and what does not.

    Args:
        params: a pytree of arrays.
        buffers: likewise.
        others: likewise; random keys and counts, for one.
    """

    params: Any
    buffers: Any
    others: Any

    def named(self) -> dict[Path, Array]:
        """Returns parameters and buffers by their path, which starts with the collection."""
        return {**named_leaves("params", self.params), **named_leaves("batch_stats", self.buffers)}

    def replaced(self, named: Mapping[Path, Any]) -> "Variables":
        """Returns the same with other arrays, by path; those that are not named stay."""
        params = with_leaves("params", self.params, named)
        return Variables(params, with_leaves("batch_stats", self.buffers, named), self.others)


jax.tree_util.register_dataclass(Variables, ["params", "buffers", "others"], [])


@dataclass(frozen=True, eq=False)
class Program:
    """What is compiled: a model, its loss, and what else is asked of it.

    Args:
        model: a Linen module, or the structure (`nnx.split`) of an NNX one.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        forward: likewise, and returns the outputs; None takes those of the model's calls in `loss`.
        inputs: entries of the batch that gradients are taken by.
    """

    model: Any
    loss: Callable[..., Any]
    forward: Callable[..., Any] | None
    inputs: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        parts = (self.model, self.loss, self.forward, *self.inputs)
        return tuple(part if _hashable(part) else id(part) for part in parts)  # nn.Sequential holds a list

    def run(
        self, ask: Callable[..., Any], variables: Variables, batch: Mapping[str, Array], capture: Capture
    ) -> tuple[tuple[Array, ...], Variables]:
        """Returns what `ask` gets from the model for a batch, and the variables as that leaves them."""
        if isinstance(self.model, nn.Module):
            rest = {"batch_stats": variables.buffers, **variables.others}
            held = {name: collection for name, collection in rest.items() if collection}

            def call(*args: Any, **kwargs: Any) -> Any:
                output, moved = self.model.apply(
                    {"params": variables.params, **held}, *args, **kwargs, mutable=list(held)
                )
                held.update(moved)
                capture.roots.append(output)
                return output

            with capture.linen():
                answer = ask(call, **batch)
            buffers = held.pop("batch_stats", variables.buffers)
            return _flat(answer), Variables(variables.params, buffers, held)
        own = jax.tree.map(lambda leaf: leaf, variables)  # NNX moves a variable only in the trace that it is made in
        model = nnx.merge(self.model, own.params, own.buffers, own.others)

        class Rooted:
            """The model, whose calls are counted."""

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                capture.roots.append(output := model(*args, **kwargs))
                return output

            def __getattr__(self, name: str) -> Any:
                return getattr(model, name)

        with capture.nnx(model):
            answer = ask(Rooted(), **batch)
        _, params, buffers, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        return _flat(answer), Variables(params, buffers, others)


@partial(jax.jit, static_argnames="program")
def evaluate(
    program: Program, variables: Variables, batch: Mapping[str, Array]
) -> tuple[OrderedDict[str, Any], Any, Variables]:
    """Returns what a trace holds of a step, the gradients by the parameters, and the variables with moved buffers.

    The entries are those from the first module's input to the gradients by the inputs, by phase, in order of calls.
    """
    found: OrderedDict[str, Any] = OrderedDict()
    if program.forward is not None:
        capture = Capture()
        outputs, _ = program.run(program.forward, variables, batch, capture)
        found["module_input"], found["activation"] = capture.inputs, capture.outputs
        found["output"] = OrderedDict((str(i), output) for i, output in enumerate(outputs))
    by_input = {name: batch[name] for name in program.inputs if jnp.issubdtype(batch[name].dtype, jnp.floating)}

    def total(params: Any, by_input: Mapping[str, Array], probes: Mapping[str, Array]) -> Any:
        capture = Capture(probes)
        start = Variables(params, variables.buffers, variables.others)
        losses, after = program.run(program.loss, start, {**batch, **by_input}, capture)
        outputs = [leaf for root in capture.roots for leaf in leaves(root).values()]
        return sum(losses[1:], losses[0]), (losses, after, capture.inputs, capture.outputs, outputs)

    _, (_, _, _, shapes, _) = jax.eval_shape(total, variables.params, by_input, {})
    gradients, (losses, after, inputs, activations, outputs) = jax.grad(total, (0, 1, 2), has_aux=True)(
        variables.params, by_input, zeros_for(shapes)
    )
    if program.forward is None:
        found["module_input"], found["activation"] = inputs, activations
        found["output"] = OrderedDict((str(i), output) for i, output in enumerate(outputs))
    found["loss"] = OrderedDict((str(i), loss) for i, loss in enumerate(losses))
    found["cotangent"] = gradients[2]
    found["grad"] = gradients[1]
    return found, gradients[0], after


def step(optimizer: Any, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    """Returns the parameters and the state after a step of optax's optimiser, or of one whose `build` gives it."""
    if isinstance(optimizer, Optimizer):
        return _step_of_settings(optimizer, state, params, gradients)
    return _step_of_optax(optimizer, state, params, gradients)


@jax.jit
def _step_of_settings(optimizer: Any, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    return _stepped(build_optimizer(optimizer), state, params, gradients)


@partial(jax.jit, static_argnames="optimizer")
def _step_of_optax(optimizer: Any, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    return _stepped(optimizer, state, params, gradients)


def _stepped(optimizer: optax.GradientTransformation, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def init_state(optimizer: Any, params: Any) -> Any:
    """Returns the optimiser's state before the first step."""
    return (build_optimizer(optimizer) if isinstance(optimizer, Optimizer) else optimizer).init(params)


def named_leaves(collection: str, tree: Any) -> dict[Path, Any]:
    """Returns the leaves of a pytree by their path."""
    return {_path(collection, keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def with_leaves(collection: str, tree: Any, named: Mapping[Path, Any]) -> Any:
    """Returns the pytree with other leaves, by path; those that are not named stay."""
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: named.get(_path(collection, keys), leaf), tree)


def _path(collection: str, keys: Any) -> Path:
    # NNX wraps each array in a variable, whose `value` is no part of the name.
    names = [getattr(key, "key", getattr(key, "idx", None)) for key in keys]
    return (collection, *(str(name) for name in names if name is not None))


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _flat(value: Any) -> tuple[Any, ...]:
    return tuple(leaves(value).values())
