"""Evaluates operations in float64, whatever dtype they were written in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from torch_ref.common.tape.literals import as_written
from torch_ref.common.tape.tape import Line

from ...alignment.repair import OPAQUE
from .equations import INLINED, equations_in, lines_of, own_line
from .numbers import HALF, Numbers, unrounded

LOW = ("float32", "float16", "bfloat16")
SINGLE = ("float32",)
# Operations that make no digits: a mask is as good in float32.
_EXACT = ("broadcast_in_dim", "reshape", "select_n", "transpose", "squeeze", "slice", "concatenate", "pjit", "jit")


@contextmanager
def wide() -> Iterator[None]:
    """Switches 64-bit numbers on within the context, and dtype promotion to the usual."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function as it is without float32: what it computes so is computed in float64.

    What rounds more than that, as bfloat16 does, stays as it is written.

    Args:
        function: of arrays in float64; it can be traced.
    """

    def run(*args: Any) -> Any:
        made, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _run(made, jax.tree.leaves(args), SINGLE))

    return run


def lines_in_float32(jaxpr: ClosedJaxpr) -> list[Line]:
    """Returns where a function rounds to float32, in the order of its operations; a line once."""
    lines: dict[Line, None] = {}
    for equation in equations_in(jaxpr):
        name = equation.primitive.name
        narrow = any(str(getattr(shape_of(variable), "dtype", "")) in SINGLE for variable in equation.outvars)
        exact = name in _EXACT or (name == "convert_element_type" and shape_of(equation.invars[0]).dtype.kind in "iub")
        if narrow and not exact:
            lines |= dict.fromkeys(own_line(equation))
    return list(lines)


def evaluated(equation: JaxprEqn, arrays: list[Any], low: Sequence[str] = LOW) -> list[Any]:
    """Returns what an operation gives in float64; where it has no such form, what it gives as written.

    Args:
        equation: of a jaxpr.
        arrays: its inputs.
        low: the dtypes that become float64.
    """
    primitive = equation.primitive
    params = equation.params
    if primitive.name == "reduce_precision" and (low is LOW or params["mantissa_bits"] >= 23):
        return arrays
    if primitive.name in (*OPAQUE, "bitcast_convert_type"):  # bits mean something in one dtype only
        wider, arrays = params, _as_written(equation, arrays, low)
    else:
        wider = {name: _wider(value, low) for name, value in params.items()}
    try:
        outputs = primitive.bind(*arrays, **wider)
    except (TypeError, NotImplementedError, ValueError):
        outputs = primitive.bind(*_as_written(equation, arrays, low), **params)
    outputs = outputs if primitive.multiple_results else [outputs]
    return [lifted(output, low=low) if isinstance(output, jax.Array) else output for output in outputs]


def _run(closed: Any, arrays: Sequence[Any], low: Sequence[str]) -> list[Any]:
    """Returns what a jaxpr gives in float64."""
    jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
    consts = [lifted(const, low=low) for const in closed.consts] if isinstance(closed, ClosedJaxpr) else ()
    held = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arrays], strict=True))
    for equation in jaxpr.eqns:
        lines = lines_of(equation)
        given = [written(atom, lines, low) if isinstance(atom, Literal) else held[atom] for atom in equation.invars]
        inner = equation.params.get(INLINED.get(equation.primitive.name, ""))
        outputs = evaluated(equation, given, low) if inner is None else _run(inner, given, low)
        held.update(zip(equation.outvars, outputs, strict=True))
    return [written(atom, (), low) if isinstance(atom, Literal) else held[atom] for atom in jaxpr.outvars]


def _wider(value: Any, low: Sequence[str]) -> Any:
    """Returns a parameter of an operation as it is in float64: a dtype, or functions such as those of a loop."""
    if isinstance(value, tuple) and any(isinstance(entry, Jaxpr | ClosedJaxpr) for entry in value):
        return tuple(_wider(entry, low) for entry in value)
    if isinstance(value, Jaxpr | ClosedJaxpr):
        jaxpr = value if isinstance(value, Jaxpr) else value.jaxpr
        avals = [shape_of(variable) for variable in jaxpr.invars]
        shapes = [
            jax.ShapeDtypeStruct(aval.shape, "float64" if str(aval.dtype) in low else aval.dtype) for aval in avals
        ]
        made = jax.make_jaxpr(lambda *arrays: _run(value, arrays, low))(*shapes)
        return made.jaxpr if isinstance(value, Jaxpr) else made
    return jnp.dtype("float64") if is_low(value, low) else value


def narrowed(array: np.ndarray, atom: Any) -> np.ndarray:
    """Returns an array in the dtype that an equation takes in 64-bit mode: integers as written, floating ones wide."""
    dtype = str(shape_of(atom).dtype)
    return np.asarray(array, "float64" if dtype in LOW else dtype)


def widened(array: Any) -> Any:
    """Returns an array in float64 where it is in a smaller floating dtype: parameters are held as they are."""
    return jnp.asarray(array, "float64") if str(getattr(array, "dtype", "")) in LOW else array


def lifted(array: Any, source: str = "", low: Sequence[str] = LOW) -> Any:
    """Returns an array in float64 where it is in a smaller one; a single number keeps its decimal digits.

    Args:
        array: any.
        source: the line that it comes from, where that is known.
        low: the dtypes that become float64.
    """
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return array
    array = array if isinstance(array, jax.Array) else np.asarray(array)
    if str(array.dtype) not in low:
        return array
    if array.ndim == 0 and not isinstance(array, Tracer):
        return np.asarray(as_written(float(array), source) if str(array.dtype) == "float32" else float(array))
    return jnp.asarray(array, "float64")


def written(
    atom: Literal, lines: Sequence[Line] = (), low: Sequence[str] = LOW, numbers: Numbers = MappingProxyType({})
) -> Any:
    """Returns the number of a literal; an integer keeps its dtype, which 64-bit mode would widen.

    A literal has no value of its own on the tape: it is one of its operation's constants.

    Args:
        atom: the literal.
        lines: that it comes from.
        low: the dtypes that become float64.
        numbers: the reference's, for literals in half precision.
    """
    dtype = shape_of(atom).dtype
    if str(dtype) not in low:
        return np.asarray(atom.val, dtype)
    if str(dtype) in HALF:
        return np.asarray(unrounded(float(atom.val), str(dtype), numbers))
    return lifted(np.asarray(atom.val, "float32"), " ".join(line.text for line in lines))


def is_low(value: Any, low: Sequence[str] = LOW) -> bool:
    """Returns whether a value is a dtype that becomes float64."""
    try:
        return not isinstance(value, str) and value is not None and str(jnp.dtype(value)) in low
    except TypeError:
        return False


def shape_of(atom: Any) -> Any:
    """Returns the shape and dtype of what goes into or comes out of an equation."""
    return atom.aval


def _as_written(equation: JaxprEqn, arrays: list[Any], low: Sequence[str]) -> list[Any]:
    """Returns the inputs of an operation in the dtypes that it takes."""
    dtypes = [shape_of(atom).dtype for atom in equation.invars]
    pairs = zip(arrays, dtypes, strict=True)
    return [jnp.asarray(array, dtype) if str(dtype) in low else array for array, dtype in pairs]
