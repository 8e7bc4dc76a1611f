"""Reads off an equation of a jaxpr what a tape wants to know of it: its lines, its constants, its last uses."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from torch_ref.common.tape.tape import Line

# Operations that only hold others, by the parameter that holds them.
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "call_jaxpr",
}
_LIBRARIES = ("/jax/", "/jaxlib/", "/flax/", "/optax/", "/chex/", "/haiku/", "/equinox/")
_CALLERS = ("step", "total")  # what runs a loss
_JAX = ("/jax/", "/jaxlib/")


def lines_of(equation: JaxprEqn) -> tuple[Line, ...]:
    """Returns the innermost line outside JAX, and the innermost ones outside all libraries.

    Args:
        equation: of a jaxpr.
    """
    traceback = equation.source_info.traceback
    return () if traceback is None else _of_traceback(traceback)


def own_line(equation: JaxprEqn) -> tuple[Line, ...]:
    """Returns the innermost line outside all libraries, or inside them where there is none; nothing where it is lost.

    Args:
        equation: of a jaxpr.
    """
    lines = lines_of(equation)
    return tuple(line for line in lines if not _of_library(line.file))[:1] or lines[:1]


def _of_library(path: str) -> bool:
    return any(library in f"/{path}" for library in _LIBRARIES)


@cache
def _of_traceback(traceback: Any) -> tuple[Line, ...]:
    ours = [i for i, frame in enumerate(traceback.frames) if "/parity/recording/" in frame.file_name]
    called = next((i for i in ours if traceback.frames[i].function_name in _CALLERS), None)
    frames = [
        frame
        for frame in traceback.frames[:called]  # what called us is not the model's
        if not any(part in frame.file_name for part in (*_JAX, "/parity/recording/"))
        and not frame.file_name.endswith(("contextlib.py", "functools.py"))
    ]
    own = [frame for frame in frames if not _of_library(frame.file_name)]
    chosen = [*frames[:1], *(frame for frame in own[:2] if frame is not frames[0])]
    return tuple(Line.of(frame.file_name, frame.line_num, frame.function_name) for frame in chosen)


def equations_in(jaxpr: Any) -> Iterator[JaxprEqn]:
    """Yields the equations of a jaxpr and of the functions that they call, in order.

    Args:
        jaxpr: closed or not.
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Jaxpr | ClosedJaxpr):
                    yield from equations_in(inner)


def is_of_jax(jaxpr: Jaxpr) -> bool:
    """Returns whether a function is JAX's own, such as `jax.nn.silu`.

    Args:
        jaxpr: of the function.
    """
    source = jaxpr.debug_info.func_src_info or ""
    return any(part in source for part in _JAX)


def last_uses(jaxpr: Jaxpr) -> dict[int, list[Var]]:
    """Returns, by equation, the variables that are of no use after it."""
    last: dict[Var, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        for atom in (*equation.invars, *equation.outvars):
            if not isinstance(atom, Literal):
                last[atom] = i
    found: dict[int, list[Var]] = {}
    for variable, i in last.items():
        found.setdefault(i, []).append(variable)
    return found


def variables_in(atoms: Sequence[Any]) -> set[Var]:
    """Returns the variables among what comes out of a jaxpr; the others are literals."""
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def constants_of(equation: JaxprEqn) -> dict[str, Any]:
    """Returns the numbers, words and lists that an operation was given, by name."""
    return {name: value for name, value in equation.params.items() if _plain(value)}


def moved_by(equation: JaxprEqn, numbers: list[int]) -> tuple[int, Sequence[int]] | None:
    """Returns the value that an operation passes on, and the order of its axes, where it does nothing else."""
    if len(numbers) != 1 or numbers[0] < 0:
        return None
    if equation.primitive.name in ("copy", "copy_p", "stop_gradient"):
        aval: Any = equation.invars[0].aval
        return numbers[0], range(aval.ndim)
    return (numbers[0], equation.params["permutation"]) if equation.primitive.name == "transpose" else None


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_plain, value))
    return isinstance(value, bool | int | float | str)
