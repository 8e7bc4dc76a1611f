"""Turns a function that each device runs on its own shard into one of whole arrays, with the same lines."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import source_info_util  # nowhere public: it gives an operation the line that it comes from
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from .equations import INLINED, is_of_jax

_SAME = ("pvary", "pcast")  # they say what varies over the devices, and change nothing


def gathered(equation: JaxprEqn) -> ClosedJaxpr:
    """Returns what a `shard_map` computes, as a jaxpr of whole arrays: its devices become axes, a psum a sum.

    Args:
        equation: of a `shard_map`.

    Raises:
        NotImplementedError: a collective that has no form for whole arrays.
    """
    params = equation.params
    axes = {name: size for name, size in params["mesh"].shape.items() if name in params["newly_manual_axes"]}
    jaxpr, specs = params["jaxpr"], [_spec(spec) for spec in params["in_specs"]]

    def run(*arrays: Any) -> list[Any]:
        def local(*shards: Any) -> list[Any]:
            return _evaluated(jaxpr, [], shards)

        function = local
        for name in reversed(axes):
            mapped = [0 if any(name in names for names in spec) else None for spec in specs]
            function = jax.vmap(function, mapped, 0, axis_name=name, axis_size=axes[name])
        shards = [_split(array, spec, axes) for array, spec in zip(arrays, specs, strict=True)]
        made = function(*shards)
        return [_merged(array, _spec(spec), axes) for array, spec in zip(made, params["out_specs"], strict=True)]

    avals: list[Any] = [variable.aval for variable in equation.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    return jax.make_jaxpr(run)(*shapes)


def _spec(spec: Any) -> list[tuple[str, ...]]:
    """Returns the names of the mesh's axes that each axis of an array is split over."""
    return [() if names is None else names if isinstance(names, tuple) else (names,) for names in spec]


def _split(array: Any, spec: Sequence[tuple[str, ...]], axes: dict[str, int]) -> Any:
    """Returns an array with an axis in front for each axis of the mesh that it is split over."""
    shape: list[int] = []
    at: dict[str, int] = {}
    for i, length in enumerate(array.shape):
        names = [name for name in (spec[i] if i < len(spec) else ()) if name in axes]
        rest = length
        for name in names:
            at[name] = len(shape)
            shape.append(axes[name])
            rest //= axes[name]
        shape.append(rest)
    return jnp.moveaxis(array.reshape(shape), [at[name] for name in axes if name in at], range(len(at)))


def _merged(array: Any, spec: Sequence[tuple[str, ...]], axes: dict[str, int]) -> Any:
    """Returns whole arrays of what the devices made: of an axis that nothing is split over, the first device's."""
    used = [name for names in spec for name in names if name in axes]
    array = array[tuple(slice(None) if name in used else 0 for name in axes)]
    kept = [name for name in axes if name in used]
    order, shape = [], []
    for i in range(array.ndim - len(kept)):
        names = [name for name in (spec[i] if i < len(spec) else ()) if name in axes]
        order += [*(kept.index(name) for name in names), len(kept) + i]
        length = array.shape[len(kept) + i]
        for name in names:
            length *= axes[name]
        shape.append(length)
    return array.transpose(order).reshape(shape)


def _evaluated(jaxpr: Jaxpr, consts: Sequence[Any], arrays: Sequence[Any], caller: Any = None) -> list[Any]:
    """Returns what a jaxpr gives; where it is a function of JAX's own, its lines are those of the `caller`."""
    held: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arrays], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else held[atom]

    for equation in jaxpr.eqns:
        source = equation.source_info
        stack = source_info_util.current_name_stack() + source.name_stack
        with source_info_util.user_context(caller or source.traceback, name_stack=stack):
            made = _made(equation, list(map(read, equation.invars)), caller)
            held.update(zip(equation.outvars, made, strict=True))
    return list(map(read, jaxpr.outvars))


def _made(equation: JaxprEqn, given: list[Any], caller: Any) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in _SAME:
        return given
    if name.startswith("psum"):
        return [lax.psum(array, params["axes"]) for array in given]
    if name == "all_gather_invariant":
        axis = {"axis": params["all_gather_dimension"], "tiled": params["tiled"]}
        return [lax.all_gather(array, params["axis_name"], **axis) for array in given]
    if name in INLINED and INLINED[name] in params:
        inner = params[INLINED[name]]
        jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, [])
        caller = caller or (equation.source_info.traceback if is_of_jax(jaxpr) else None)
        return _evaluated(jaxpr, consts, given, caller)
    made = equation.primitive.bind(*given, **equation.primitive.get_bind_params(params))
    return list(made) if equation.primitive.multiple_results else [made]
