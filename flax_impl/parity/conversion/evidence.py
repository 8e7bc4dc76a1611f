"""What shows that a weight is the right one: that a value which is computed with it is one of the reference's."""

from collections.abc import Sequence

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint, fingerprint
from torch_ref.common.tape.tape import Tape

from ..alignment.likeness import NOISE, SAME_AXES
from ..alignment.pool import Pool
from ..alignment.slices import Slices, is_slice
from .expressions import Expression, Joined

_NEAR = 1e-7  # of the largest number: how far a value may be from the reference's to be the same
_LOOSE = 0.1  # the same, after a fault has moved all values
_CONSTANT = 1e-12


class Evidence:
    """The values of a reference's forward pass.

    Args:
        reference: its tape, with its values kept.
    """

    def __init__(self, reference: Tape) -> None:
        forward = [v for of in reference.operations if not of.backward for v in of.outputs]
        self._numbers = {id(reference.values[value]): value for value in forward}
        self._pool = Pool(reference.values[value] for value in forward)
        self._slices = Slices(reference, forward)

    def fits(self, outputs: Sequence[np.ndarray], made: Expression | None = None) -> bool:
        """Returns whether an output is a value of the reference, or, of joined weights, consists of such.

        Args:
            outputs: of an operation.
            made: the weight that is tried.
        """
        output = np.asarray(outputs[0])
        joined = made if isinstance(made, Joined) else getattr(made, "whole", None)
        if self._is_value(output) or not isinstance(joined, Joined):
            return self._is_value(output)
        count = len(joined.parts)
        axes = [axis for axis, length in enumerate(output.shape) if length % count == 0]
        return any(all(map(self._is_value, np.split(output, count, axis))) for axis in axes)

    def _is_value(self, output: np.ndarray) -> bool:
        own = fingerprint(output)
        if not _tells(own):
            return False
        return any(level >= SAME_AXES for level, _ in self._pool.like(own, _NEAR * own.scale / NOISE))

    def is_part(self, outputs: Sequence[np.ndarray]) -> bool:
        """Returns whether an output is a slice of a value of the reference.

        Args:
            outputs: of an operation.
        """
        own = fingerprint(np.asarray(outputs[0]))
        return _tells(own) and is_slice(own, self._slices)

    def nearest(self, output: np.ndarray) -> tuple[float, int] | None:
        """Returns how far the nearest value of the reference is, and its number; None where none is near.

        Args:
            output: of an operation.
        """
        found = self._pool.nearest(fingerprint(output), _LOOSE)
        return None if found is None else (found[0], self._numbers[id(found[1])])


def _tells(value: Fingerprint) -> bool:
    """Whether a value has more than one number, and not all the same."""
    return value.kind == "f" and value.size > 1 and value.moments[5] - value.moments[4] > _CONSTANT * value.scale
