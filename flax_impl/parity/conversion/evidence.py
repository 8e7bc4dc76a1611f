"""What shows that a weight is the right one: that a value which is computed with it is one of the reference's."""

from collections.abc import Sequence

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint, fingerprint
from torch_ref.common.tape.tape import Tape

from ..alignment.likeness import NOISE, SAME_AXES, Pool
from ..alignment.proof.layouts import layouts
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
        self._arrays = reference.arrays
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
        count = None if made is None else _count(made)
        is_value = self._is_value(output)
        if is_value or count is None:
            return is_value
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

    def nearest(self, output: np.ndarray, made: Expression) -> tuple[float, np.ndarray] | None:
        """Returns how far the nearest value of the reference is, and it in the output's layout; None where none is.

        Args:
            output: of an operation.
            made: the weight that is tried; of joined ones, each part has a value of its own.
        """
        found = self._nearest(output)
        if found is not None or (count := _count(made)) is None:
            return found
        for axis, length in enumerate(output.shape):
            blocks = [self._nearest(block) for block in np.split(output, count, axis)] if length % count == 0 else []
            known = [block for block in blocks if block is not None]
            if len(known) == count:
                return max(distance for distance, _ in known), np.concatenate([exact for _, exact in known], axis)
        return None

    def _nearest(self, output: np.ndarray) -> tuple[float, np.ndarray] | None:
        found = self._pool.nearest(fingerprint(output), _LOOSE)
        exact = None if found is None else self._arrays.get(self._numbers[id(found[1])])
        if found is None or exact is None:
            return None if found is None else (found[0], output)
        turned = layouts(exact, output.shape)
        return found[0], min(turned, key=lambda array: float(np.abs(array - output).max()), default=output)


def _count(made: Expression) -> int | None:
    """Returns of how many parts a joined weight is made; None of another."""
    joined = made if isinstance(made, Joined) else getattr(made, "whole", None)
    return len(joined.parts) if isinstance(joined, Joined) else None


def _tells(value: Fingerprint) -> bool:
    """Whether a value has more than one number, and not all the same."""
    return value.kind == "f" and value.size > 1 and value.moments[5] - value.moments[4] > _CONSTANT * value.scale
