"""Evaluates a jaxpr operation by operation, in float64 whatever was written, and writes every operation down."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from torch_ref.common.tape.tape import Line, Operation
from torch_ref.common.tape.writer import TapeWriter

from ...alignment.repair import Exchange
from .devices import gathered
from .equations import INLINED, constants_of, is_of_jax, last_uses, lines_of, moved_by, variables_in
from .lifting import evaluated, is_low, lifted, shape_of, widened, written
from .numbers import Numbers

_MOVING = ("transpose", "reshape", "squeeze")
_LARGE = 1 << 16


class Walk:
    """Runs a jaxpr and writes it down.

    Args:
        writer: takes the operations and the values.
        exchanges: values to go on with in place of the port's own.
        numbers: the reference's, for literals in half precision.
    """

    def __init__(
        self, writer: TapeWriter, exchanges: Sequence[Exchange] = (), numbers: Numbers = MappingProxyType({})
    ) -> None:
        self.writer, self.numbers = writer, numbers
        # Of each operation, with the literals among its inputs by their place; a scan takes its rows by their number,
        # and stacks them without an equation.
        self.equations: list[tuple[JaxprEqn | int | None, dict[int, Any]]] = []
        self.decisive: set[int] = set()  # the values that chose a branch, or how often a loop runs
        self._outer: tuple[Line, ...] = ()  # where the function of JAX's is called that is being run
        self._everywhere = {e.port: e.array for e in exchanges if e.takers is None}
        self._at = {(e.port, taker): e.array for e in exchanges for taker in e.takers or ()}

    def value(self, array: Any, dtype: str, moved: tuple[int, Sequence[int]] | None = None) -> tuple[Any, int]:
        """Writes a value down; returns it, or what stands in its place, and its number.

        Args:
            array: the value.
            dtype: as it was written.
            moved: see `TapeWriter.value`.
        """
        number = len(self.writer.values)
        if number in self._everywhere:
            array, moved = jnp.asarray(self._everywhere[number], array.dtype), None
        self.writer.value(_numpy(array), dtype, moved)
        return array, number

    def leaf(self, name: str, array: Any, dtype: str) -> tuple[Any, int]:
        """Writes a parameter or an input down; returns it in float64, and its number.

        Args:
            name: `param/…`, `buffer/…` or `input/…`.
            array: the value.
            dtype: as it was written.
        """
        number = len(self.writer.values)
        if number in self._everywhere:
            array = jnp.asarray(self._everywhere[number], "float64" if is_low(array.dtype) else array.dtype)
        kept = array if array.dtype == np.float32 else widened(array)
        return kept, self.writer.leaf(name, _numpy(kept), dtype)

    def run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], stack: str = "", *, drop: bool = False
    ) -> list[Any]:
        """Evaluates a jaxpr; what goes in and comes out are pairs of an array and its number.

        Args:
            jaxpr: what to run.
            consts: pairs for its constants.
            inputs: pairs for its arguments.
            stack: the name stack that it stands in.
            drop: whether only the numbers of the results are wanted, so that no result is held to the end.
        """
        held: dict[Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
        last, results = last_uses(jaxpr), set() if drop else variables_in(jaxpr.outvars)
        for i, equation in enumerate(jaxpr.eqns):
            lines = self._lines(equation)
            given = [
                (written(a, lines, numbers=self.numbers), -1) if isinstance(a, Literal) else held[a]
                for a in equation.invars
            ]
            made = self._equation(equation, given, stack)
            held.update(zip(equation.outvars, made, strict=True))
            for variable in last.get(i, ()):
                if variable not in results:
                    held[variable] = None, held[variable][1]
        return [(written(atom), -1) if isinstance(atom, Literal) else held[atom] for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, given: list[Any], stack: str) -> list[Any]:
        name = equation.primitive.name
        inner = f"{stack}/{equation.source_info.name_stack}".strip("/")
        if name in INLINED and INLINED[name] in equation.params:
            jaxpr, consts = self.opened(equation.params[INLINED[name]])
            before = self._outer
            # JAX traces a function once: the lines within it are those where it was called first.
            self._outer = self._lines(equation) if is_of_jax(jaxpr) else ()
            try:
                return self.run(jaxpr, consts, given, inner)
            finally:
                self._outer = before
        if name == "shard_map":
            jaxpr, consts = self.opened(gathered(equation))
            return self.run(jaxpr, consts, given, inner)
        if name == "scan":
            return self._scan(equation, given, inner)
        if name == "while":
            return self._while(equation, given, inner)
        if name == "cond":
            branches = equation.params["branches"]
            index = int(np.clip(int(given[0][0]), 0, len(branches) - 1))
            jaxpr, consts = self.opened(branches[index])
            self.decisive.add(given[0][1])
            return self.run(jaxpr, consts, given[1:], inner)
        if self._at:
            here = len(self.writer.operations)
            given = [(jnp.asarray(self._at.get((n, here), a), a.dtype), n) for a, n in given]
        outputs = self.outputs(equation, [array for array, _ in given])
        moved = moved_by(equation, [number for _, number in given])
        made = [
            self.value(out, _dtype(shape_of(var)), moved) for out, var in zip(outputs, equation.outvars, strict=True)
        ]
        self._write(name, given, made, constants_of(equation), self._lines(equation), inner, equation)
        return made

    def _lines(self, equation: JaxprEqn) -> tuple[Line, ...]:
        return self._outer or lines_of(equation)

    def _scan(self, equation: JaxprEqn, given: list[Any], stack: str) -> list[Any]:
        params = equation.params
        consts, carried = params["num_consts"], params["num_carry"]
        jaxpr, closed = self.opened(params["jaxpr"])
        carry, rows = given[consts : consts + carried], given[consts + carried :]
        steps: list[list[Any]] = []
        lines = self._lines(equation)
        order = range(params["length"])
        for i in reversed(order) if params["reverse"] else order:
            taken = []
            for array, number in rows:
                row = self.value(self.row(array, i), self.writer.dtypes[number])
                self._write("scan.slice", [(array, number)], [row], {"index": i}, lines, stack, i)
                taken.append(row)
            outputs = self.run(jaxpr, closed, [*given[:consts], *carry, *taken], f"{stack}[{i}]")
            carry = outputs[:carried]
            steps.append(outputs[carried:])
        if params["reverse"]:
            steps.reverse()
        stacked = []
        for j, variable in enumerate(equation.outvars[carried:]):
            parts = [step[j] for step in steps]
            made = self.value(self.stacked([part[0] for part in parts], shape_of(variable)), _dtype(shape_of(variable)))
            self._write("scan.stack", parts, [made], {}, lines, stack)
            stacked.append(made)
        return [*carry, *stacked]

    def _while(self, equation: JaxprEqn, given: list[Any], stack: str) -> list[Any]:
        params = equation.params
        of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
        condition, body = self.opened(params["cond_jaxpr"]), self.opened(params["body_jaxpr"])
        carry = given[of_cond + of_body :]
        i = 0
        while True:
            goes_on, number = self.run(*condition, [*given[:of_cond], *carry], f"{stack}[{i}]")[0]
            self.decisive.add(number)
            if not bool(goes_on):
                return carry
            carry = self.run(*body, [*given[of_cond : of_cond + of_body], *carry], f"{stack}[{i}]")
            i += 1

    def outputs(self, equation: JaxprEqn, arrays: list[Any]) -> list[Any]:
        """Returns what an operation gives; a large weight that is only moved stays as narrow as it is."""
        if equation.primitive.name in _MOVING and len(arrays) == 1 and np.size(arrays[0]) > _LARGE:
            return [equation.primitive.bind(jnp.asarray(arrays[0]), **equation.params)]
        return evaluated(equation, [widened(array) for array in arrays])

    def row(self, array: Any, i: int) -> Any:
        """Returns what a scan takes of an array at one step."""
        return widened(array[i])

    def stacked(self, rows: list[Any], aval: Any) -> Any:
        """Returns what a scan makes of the rows of its steps."""
        return jnp.stack([widened(row) for row in rows]) if rows else jnp.zeros(aval.shape)

    def opened(self, jaxpr: Any) -> tuple[Jaxpr, list[Any]]:
        """Returns a jaxpr and its constants, written down."""
        if isinstance(jaxpr, ClosedJaxpr):
            dtypes = [_dtype(shape_of(variable)) for variable in jaxpr.jaxpr.constvars]
            consts = zip(jaxpr.consts, dtypes, strict=True)
            typed = ((const if hasattr(const, "dtype") else np.asarray(const, dtype), dtype) for const, dtype in consts)
            return jaxpr.jaxpr, [self.value(lifted(const), dtype) for const, dtype in typed]
        return jaxpr, []

    def _write(
        self,
        name: str,
        given: Sequence[Any],
        made: Sequence[Any],
        constants: Any,
        lines: Any,
        stack: str,
        equation: JaxprEqn | int | None = None,
    ) -> None:
        self.equations.append((equation, {i: array for i, (array, number) in enumerate(given) if number < 0}))
        literals = {f"literal{i}": a.item() for i, (a, number) in enumerate(given) if number < 0 and not a.ndim}
        self.writer.operations.append(
            Operation(
                name,
                tuple(number for _, number in given if number >= 0),
                tuple(number for _, number in made),
                constants | literals,
                lines,
                stack,
                "transpose(" in stack,
                random=name in ("random_bits", "threefry2x32", "random_gamma"),
            )
        )


def _dtype(value: Any) -> str:
    return str(getattr(value, "dtype", "") or np.asarray(value).dtype)


def _numpy(array: Any) -> np.ndarray:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return np.zeros(array.shape, bool)  # the keys of a random generator have no numbers
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.kind not in "fiub" else array
