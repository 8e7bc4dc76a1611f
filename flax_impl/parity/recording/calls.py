"""Writes down what every submodule takes and returns, and adds zeros to take the gradient at each output by."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.extend.core import get_opaque_trace_state

from torch_ref.common.call_names import call_name, leaves


class Capture:
    """Writes down the calls of every submodule, in order of return; those of the model itself are `roots`.

    Twin: `torch_ref.recording.calls.Capture`, which sets hooks, and needs no zeros.

    Args:
        probes: zeros by the name of the output to which they are added; the gradient by one is the cotangent there.
    """

    def __init__(self, probes: Mapping[str, Array] | None = None) -> None:
        self.probes = probes or {}
        self.inputs: OrderedDict[str, Array] = OrderedDict()
        self.outputs: OrderedDict[str, Array] = OrderedDict()
        self.roots: list[Any] = []
        self._counts: dict[str, int] = {}
        self._trace = get_opaque_trace_state(convention="flax")

    @contextmanager
    def linen(self) -> Iterator[None]:
        """Writes down the calls of Linen modules within the context."""

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            output = call(*args, **kwargs)
            path = context.module.path
            if context.method_name != "__call__" or not path:
                return output
            return self._take(".".join(path), (args, kwargs), output)

        with nn.intercept_methods(intercept):
            yield

    @contextmanager
    def nnx(self, model: nnx.Module) -> Iterator[None]:
        """Writes down the calls of an NNX model's submodules; as NNX has no interceptors, wraps their classes."""
        names = {id(module): ".".join(map(str, path)) for path, module in nnx.iter_modules(model) if path}
        inside: list[int] = []  # a call of a parent class's method on the same module is no second call

        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(module: Any, *args: Any, **kwargs: Any) -> Any:
                if id(module) not in names or id(module) in inside:
                    return original(module, *args, **kwargs)
                inside.append(id(module))
                try:
                    output = original(module, *args, **kwargs)
                finally:
                    inside.pop()
                return self._take(names[id(module)], (args, kwargs), output)

            return call

        owners = {
            next(owner for owner in type(module).__mro__ if "__call__" in vars(owner))
            for _, module in nnx.iter_modules(model)
            if callable(module)
        }
        before = {owner: vars(owner)["__call__"] for owner in owners}
        try:
            for owner, original in before.items():
                owner.__call__ = watched(original)
            yield
        finally:
            for owner, original in before.items():
                owner.__call__ = original

    def _take(self, module: str, taken: tuple[Any, Mapping[str, Any]], output: Any) -> Any:
        if get_opaque_trace_state(convention="flax") != self._trace:
            return output  # within nn.scan or the like: what is in there does not live on outside
        index = self._counts.get(module, 0)
        self._counts[module] = index + 1
        name = call_name(module, index)
        args, kwargs = taken
        for leaf, array in leaves((*args, *kwargs.values())).items():
            if isinstance(array, Array):
                self.inputs[f"{name}{leaf}"] = array
        return self._probed(name, output)

    def _probed(self, name: str, output: Any) -> Any:
        """Writes the output down, and returns it with its zeros added."""
        probed: dict[int, Array] = {}
        for leaf, array in leaves(output).items():
            if isinstance(array, Array):
                self.outputs[f"{name}{leaf}"] = array
                probe = self.probes.get(f"{name}{leaf}")
                if probe is not None:
                    probed.setdefault(id(array), array + probe)
        # Whatever holds them, a frozen dataclass too, as long as JAX knows it.
        return jax.tree.map(lambda leaf: probed.get(id(leaf), leaf), output)


def zeros_for(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Returns zeros for the outputs that are floating numbers."""
    return {
        name: jnp.zeros(array.shape, array.dtype)
        for name, array in outputs.items()
        if jnp.issubdtype(array.dtype, jnp.floating)
    }
