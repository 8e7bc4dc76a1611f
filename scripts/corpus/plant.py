"""Plants a fault in one equation of a port's jaxpr, before it is differentiated."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from flax_impl.parity.recording.operations.equations import INLINED

Change = Callable[[JaxprEqn, list[Any]], Any]


@dataclass(frozen=True)
class Fault:
    """One equation and what is done to it.

    Args:
        equation: its number, counted over all equations and those within them.
        kind: what is done; a key of `KINDS`.
    """

    equation: int
    kind: str


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yields all equations, those within others after them, in the order that `Planted` counts them in."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from equations(inner)


def inner_jaxprs(equation: JaxprEqn) -> list[Jaxpr]:
    """Returns the jaxprs that are run by an equation which `Planted` goes into."""
    name = equation.primitive.name
    if name in INLINED:
        return [_plain(equation.params[INLINED[name]])]
    return [_plain(equation.params["jaxpr"])] if name == "scan" else []


def _plain(jaxpr: Any) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


class Planted:
    """A jaxpr as a function, with one equation changed; every equation has its number in the name stack.

    Args:
        jaxpr: of the port's loss.
        faults: what to change; nothing changes nothing.
    """

    def __init__(self, jaxpr: ClosedJaxpr, *faults: Fault) -> None:
        self.jaxpr = jaxpr
        self.faults = {fault.equation: fault.kind for fault in faults}

    def __call__(self, *arrays: Any) -> list[Any]:
        """Returns what the changed jaxpr gives."""
        return self._run(self.jaxpr.jaxpr, self.jaxpr.consts, arrays, 0)

    def _run(self, jaxpr: Jaxpr, consts: Sequence[Any], arrays: Sequence[Any], start: int) -> list[Any]:
        held = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arrays], strict=True))
        number = start
        for equation in jaxpr.eqns:
            given = [atom.val if isinstance(atom, Literal) else held[atom] for atom in equation.invars]
            stack = source_info_util.current_name_stack() + equation.source_info.name_stack
            with source_info_util.user_context(equation.source_info.traceback, name_stack=stack.extend(f"eqn{number}")):
                made = self._equation(equation, given, number)
            held.update(zip(equation.outvars, made, strict=True))
            number += 1 + sum(1 for inner in inner_jaxprs(equation) for _ in equations(inner))
        return [atom.val if isinstance(atom, Literal) else held[atom] for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, given: list[Any], number: int) -> list[Any]:
        inner = inner_jaxprs(equation)
        size = sum(1 for jaxpr in inner for _ in equations(jaxpr))
        name = equation.primitive.name
        if number in self.faults:
            return _as_list(KINDS[self.faults[number]](equation, given), equation)
        custom = name.startswith("custom_")
        inside = any(number < fault <= number + size for fault in self.faults)
        if inner and name in INLINED and (inside or not custom):
            closed = equation.params[INLINED[name]]
            consts = closed.consts if isinstance(closed, ClosedJaxpr) else []
            run = lambda *arrays: self._run(inner[0], consts, arrays, number + 1)  # noqa: E731
            return (jax.checkpoint(run) if name in ("remat", "remat2", "checkpoint") else run)(*given)
        if name == "scan":
            return self._scan(equation, given, number)
        bound = equation.primitive.get_bind_params(equation.params)
        return _as_list(equation.primitive.bind(*given, **bound), equation)

    def _scan(self, equation: JaxprEqn, given: list[Any], number: int) -> list[Any]:
        params = equation.params
        consts, carried = params["num_consts"], params["num_carry"]
        closed = params["jaxpr"]

        def body(carry: Any, row: Any) -> Any:
            outputs = self._run(closed.jaxpr, closed.consts, [*given[:consts], *carry, *row], number + 1)
            return outputs[:carried], outputs[carried:]

        carry, rows = given[consts : consts + carried], given[consts + carried :]
        carry, stacked = lax.scan(body, list(carry), list(rows), length=params["length"], reverse=params["reverse"])
        return [*carry, *stacked]


def _aval(atom: Any) -> Any:
    """Returns the shape and dtype of what goes into or comes out of an equation."""
    return atom.aval


def _as_list(made: Any, equation: JaxprEqn) -> list[Any]:
    return list(made) if equation.primitive.multiple_results else [made]


def _bind(equation: JaxprEqn, arrays: Sequence[Any], **changed: Any) -> Any:
    return equation.primitive.bind(*arrays, **{**equation.params, **changed})


def _as(equation: JaxprEqn, array: Any) -> Any:
    """Returns an array in the dtype of the second operand."""
    return jnp.asarray(array, _aval(equation.invars[1]).dtype)


def _operand(i: int) -> Change:
    return lambda equation, given: jnp.broadcast_to(given[i], _aval(equation.outvars[0]).shape)


def _times(factor: float) -> Change:
    return lambda equation, given: _bind(equation, given) * factor


def _literal(change: Callable[[Any], Any]) -> Change:
    def run(equation: JaxprEqn, given: list[Any]) -> Any:
        arrays = [
            jnp.asarray(change(value), _aval(atom).dtype) if isinstance(atom, Literal) else value
            for atom, value in zip(equation.invars, given, strict=True)
        ]
        return _bind(equation, arrays)

    return run


def _other(function: Callable[..., Any]) -> Change:
    return lambda equation, given: function(*given)


def _turned(array: Any) -> Any:
    """Returns an array with its last two axes exchanged, where they are as long, or else its last one reversed."""
    if array.ndim > 1 and array.shape[-1] == array.shape[-2]:
        return jnp.swapaxes(array, -1, -2)
    return jnp.flip(array, -1)


KINDS: dict[str, Change] = {
    "a constant 1% off": _literal(lambda value: value * 1.01),
    "a constant ten times as large": _literal(lambda value: value * 10),
    "a factor of 1.1": _times(1.1),
    "the square root of the factor": lambda e, g: _bind(e, [g[0], _as(e, jnp.sqrt(jnp.abs(g[1])))]),
    "first operand only": _operand(0),
    "second operand only": _operand(1),
    "operands exchanged": lambda e, g: _bind(e, [g[1], g[0]]),
    "sum for difference": lambda e, g: g[0] + g[1],
    "the sign": lambda e, g: -_bind(e, g),
    "tanh for erf": lambda e, g: jnp.tanh(1.12837917 * g[0]),
    "logistic for tanh": lambda e, g: lax.logistic(g[0]),
    "tanh for logistic": lambda e, g: jnp.tanh(g[0]),
    "relu at 0.1": lambda e, g: jnp.maximum(g[0], g[1] + jnp.asarray(0.1, _aval(e.outvars[0]).dtype)),
    "another power": lambda e, g: _bind(e, g, y=e.params["y"] + 1),
    "sqrt for rsqrt": lambda e, g: lax.sqrt(g[0]),
    "mean over one element less": lambda e, g: _bind(e, [g[0], _as(e, g[1] - 1)]),
    "numbers in another order": lambda e, g: _turned(_bind(e, g)),
    "shifted by one": lambda e, g: jnp.roll(_bind(e, g), 1, -1),
    "no gradient": lambda e, g: lax.stop_gradient(_bind(e, g)),
    "a mask shifted by one": lambda e, g: _bind(e, [jnp.roll(g[0], 1, -1), *g[1:]]),
    "a mask inverted": lambda e, g: _bind(e, [jnp.logical_not(g[0]), *g[1:]]),
    "a transposed matrix": lambda e, g: _bind(e, [g[0], jnp.swapaxes(g[1], -1, -2)]),
    "clipped": lambda e, g: jnp.clip(_bind(e, g), -0.5, 0.5),
    "largest for sum": lambda e, g: jnp.max(g[0], e.params["axes"]),
    "kept in bfloat16": lambda e, g: _bind(e, g).astype(jnp.bfloat16).astype(_aval(e.outvars[0]).dtype),
}  # fmt: skip

_FOR: dict[str, tuple[str, ...]] = {
    "add": ("first operand only", "second operand only", "a constant 1% off", "a constant ten times as large"),
    "sub": ("sum for difference", "operands exchanged", "first operand only"),
    "mul": ("first operand only", "second operand only", "a constant 1% off", "the square root of the factor"),
    "div": ("operands exchanged", "first operand only", "the square root of the factor", "mean over one element less"),
    "max": ("relu at 0.1",),
    "dot_general": (
        "a factor of 1.1", "a transposed matrix", "shifted by one", "no gradient", "numbers in another order",
    ),
    "erf": ("tanh for erf",),
    "erfc": ("a factor of 1.1",),
    "tanh": ("logistic for tanh", "a factor of 1.1"),
    "logistic": ("tanh for logistic",),
    "exp": ("clipped", "a factor of 1.1"),
    "rsqrt": ("sqrt for rsqrt",),
    "integer_pow": ("another power",),
    "reduce_sum": ("largest for sum", "a factor of 1.1"),
    "select_n": ("a mask shifted by one", "a mask inverted"),
    "reshape": ("numbers in another order",),
    "transpose": ("numbers in another order", "shifted by one"),
    "concatenate": ("shifted by one", "the sign"),
    "slice": ("shifted by one", "the sign"),
    "gather": ("shifted by one", "a factor of 1.1"),
    "conv_general_dilated": ("a factor of 1.1", "shifted by one"),
    "neg": ("first operand only",),
    "cos": ("shifted by one",),
    "sin": ("the sign",),
}  # fmt: skip


def kinds_for(equation: JaxprEqn) -> list[str]:
    """Returns the faults that can be planted in an equation."""
    out = _aval(equation.outvars[0])
    if not jnp.issubdtype(getattr(out, "dtype", np.int32), jnp.floating) or out.size < 2:
        return []
    found = []
    literals = any(isinstance(atom, Literal) for atom in equation.invars)
    for kind in _FOR.get(equation.primitive.name, ()):
        if "constant" in kind and not literals:
            continue
        if kind == "a transposed matrix":
            other = _aval(equation.invars[1])
            if other.ndim < 2 or other.shape[-1] != other.shape[-2]:
                continue
        if kind in ("the square root of the factor", "mean over one element less") and not isinstance(
            equation.invars[1], Literal
        ):
            continue
        found.append(kind)
    return found
