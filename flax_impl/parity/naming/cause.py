"""Holds a cause: a finding of which the kind is known."""

from dataclasses import dataclass

from ..report.entries import Finding


@dataclass(frozen=True)
class Cause(Finding):
    """What a port does otherwise at a place.

    Args:
        kind: one word for what it is: `constant`, `factor`, `missing`, `extra`, `sign`, `operands`, `operation`,
            `function`, `order`, `mask`, `reduction`, `input`, `window` or `gradient`.

    Example:
        >>> print(Cause("the port multiplies by 2, which the reference does not", certain=False, kind="extra"))
        perhaps: the port multiplies by 2, which the reference does not
    """

    kind: str = ""
