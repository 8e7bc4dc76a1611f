"""Runs one step under jit and returns every value that a trace records."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from .operations.lifting import in_float64, lines_in_float32
from .variables import Variables


@dataclass(frozen=True, eq=False)
class Program:
    """Holds what is compiled; equal programs share one compilation."""

    model: Any  # a Linen module, or the structure (`nnx.split`) of an NNX one
    loss: Callable[..., Any]  # takes the model and the batch by their names
    forward: Callable[..., Any] | None  # likewise, for the outputs; None takes those of the model's calls in `loss`
    inputs: tuple[str, ...]  # entries of the batch to take gradients by
    in_float32: tuple[str, ...] = ()  # lines that compute in float32, and are run in float64 instead

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        parts = (self.model, self.loss, self.forward, self.in_float32, *self.inputs)
        return tuple(part if _hashable(part) else _Itself(part) for part in parts)  # nn.Sequential holds a list

    def run(
        self, function: Callable[..., Any], variables: Variables, batch: Mapping[str, Array], capture: Capture
    ) -> tuple[tuple[Array, ...], Variables]:
        """Returns the arrays that a loss or `forward` gives for a batch, and the variables after it."""
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
                answer = function(call, **batch)
            buffers = held.pop("batch_stats", variables.buffers)
            return _flat(answer), Variables(variables.params, buffers, held)
        own = jax.tree.map(lambda leaf: leaf, variables)  # NNX moves a variable only in the trace that it is made in
        model = nnx.merge(self.model, own.params, own.buffers, own.others)
        with capture.nnx(model):
            answer = function(_Rooted(model, capture.roots), **batch)
        _, params, buffers, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        return _flat(answer), Variables(params, buffers, others)


class _Rooted:
    """Passes everything on to an NNX model, and writes down what its calls return."""

    def __init__(self, model: Any, roots: list[Any]) -> None:
        self._model, self._roots = model, roots

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._roots.append(output := self._model(*args, **kwargs))
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Itself:
    """Stands for a value without a hash; equal only to one that stands for the same object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return hash(type(self.value))


@partial(jax.jit, static_argnames="program")
def forward_and_backward(
    program: Program, variables: Variables, batch: Mapping[str, Array]
) -> tuple[OrderedDict[str, Any], Any, Variables]:
    """Returns a step's entries by phase, the gradients by the parameters, and the variables with moved buffers.

    Twin: `torch_ref.recording.one_step.forward_and_backward`.
    """
    step = partial(_forward_and_backward, program)
    return (in_float64(step) if program.in_float32 else step)(variables, batch)


def _forward_and_backward(
    program: Program, variables: Variables, batch: Mapping[str, Array]
) -> tuple[OrderedDict[str, Any], Any, Variables]:
    found: OrderedDict[str, Any] = OrderedDict()
    if program.forward is not None:
        capture = Capture()
        outputs, _ = program.run(program.forward, variables, batch, capture)
        found["module_input"], found["activation"] = capture.inputs, capture.outputs
        found["output"] = _numbered(outputs)
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
        found["module_input"], found["activation"], found["output"] = inputs, activations, _numbered(outputs)
    found["loss"] = _numbered(losses)
    found["cotangent"] = gradients[2]
    found["grad"] = gradients[1]
    return found, gradients[0], after


def without_float32(program: Program, variables: Variables, batch: Mapping[str, Any]) -> Program:
    """Returns a program that computes in float64 what it is written to compute in float32.

    Args:
        program: as it is written.
        variables: of it, in float64.
        batch: likewise.
    """
    made = jax.make_jaxpr(lambda *arrays: forward_and_backward(program, *arrays))(variables, batch)
    return replace(program, in_float32=tuple(map(str, lines_in_float32(made))))


def optimizer_step(optimizer: Any, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    """Returns the parameters and the state after a step of optax's optimiser, or of the one that settings build."""
    take = _step_of_settings if isinstance(optimizer, Optimizer) else _step_of_optax
    return take(optimizer, state, params, gradients)


@jax.jit
def _step_of_settings(optimizer: Any, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    return _stepped(build_optimizer(optimizer), state, params, gradients)


@partial(jax.jit, static_argnums=0)
def _step_of_optax(optimizer: Any, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    return _stepped(optimizer, state, params, gradients)


def _stepped(optimizer: optax.GradientTransformation, state: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def init_state(optimizer: Any, params: Any) -> Any:
    """Returns the optimiser's state before the first step."""
    return (build_optimizer(optimizer) if isinstance(optimizer, Optimizer) else optimizer).init(params)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _flat(value: Any) -> tuple[Any, ...]:
    return tuple(leaves(value).values())


def _numbered(arrays: Any) -> OrderedDict[str, Any]:
    return OrderedDict((str(i), array) for i, array in enumerate(arrays))
