"""Reads off an equation of a jaxpr what a tape wants to know of it: its lines, its constants, its last uses."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from torch_ref.common.tape.tape import Line

_LIBRARIES = ("/jax/", "/jaxlib/", "/flax/", "/optax/", "/chex/", "/haiku/", "/equinox/")
_JAX = ("/jax/", "/jaxlib/")


def lines_of(equation: JaxprEqn) -> tuple[Line, ...]:
    """Returns the innermost line outside JAX, and the innermost ones outside all libraries.

    Args:
        equation: of a jaxpr.
    """
    traceback = equation.source_info.traceback
    return () if traceback is None else _of_traceback(traceback)


@cache
def _of_traceback(traceback: Any) -> tuple[Line, ...]:
    frames = [
        frame
        for frame in traceback.frames
        if not any(part in frame.file_name for part in (*_JAX, "/parity/recording/"))
        and not frame.file_name.endswith(("contextlib.py", "functools.py"))
    ]
    own = [frame for frame in frames if not any(library in frame.file_name for library in _LIBRARIES)]
    chosen = [*frames[:1], *(frame for frame in own[:2] if frame is not frames[0])]
    return tuple(Line.of(frame.file_name, frame.line_num, frame.function_name) for frame in chosen)


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
