"""Finds where a port computes in another precision than its reference, as both are written."""

from dataclasses import dataclass

from torch_ref.common.tape.tape import Line

from .partners import Partners

_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}  # of the mantissa


@dataclass(frozen=True)
class Precision:
    """A line of the port and one of the reference that compute the same value, and round it otherwise.

    Args:
        reference: the dtype that the reference computes it in.
        port: the dtype that the port computes it in.
        line: of the port.
        twin: of the reference; None where it is not known.
    """

    reference: str
    port: str
    line: Line
    twin: Line | None

    def __str__(self) -> str:
        against = "" if self.twin is None else f" ({self.twin})"
        return f"{self.port} at {self.line}, {self.reference} in the reference{against}"


def precisions(partners: Partners) -> list[Precision]:
    """Returns where a port rounds otherwise than its reference, in the order of its operations; a line once.

    Both tapes are computed in float64, so this changes no value of them: it says what a run in the dtypes as they are
    written adds.

    Args:
        partners: the two tapes, and which of their values are the same.
    """
    reference, port = partners.reference, partners.port
    found: dict[tuple[Line, str, str], Precision] = {}
    for i in port.forward:
        operation = port.operations[i]
        for value in operation.outputs if operation.lines else ():
            twins = partners.of_port.get(value, ())
            dtype = port.dtypes[value]
            theirs = {reference.dtypes[twin] for twin in twins}
            if port.values[value].constant or dtype not in _BITS or not theirs or not theirs <= _BITS.keys():
                continue
            nearest = min(theirs, key=lambda other: abs(_BITS[other] - _BITS[dtype]))
            if nearest != dtype and min(_BITS[nearest], _BITS[dtype]) < _BITS["float32"]:
                twin = next((t for t in twins if reference.dtypes[t] == nearest and t in reference.producers), None)
                lines = () if twin is None else reference.operations[reference.producers[twin]].lines
                line = operation.lines[min(1, len(operation.lines) - 1)]
                known = Precision(nearest, dtype, line, lines[0] if lines else None)
                found.setdefault((line, nearest, dtype), known)
    return list(found.values())
