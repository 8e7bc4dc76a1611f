"""Finds the lines of the source that an equation of a jaxpr comes from."""

from functools import cache
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn

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
