"""Holds many fingerprints, to find those that are like another one by their moments first."""

from collections.abc import Iterable, Iterator

import numpy as np

from torch_ref.common.tape.fingerprint import Fingerprint

from .likeness import NOISE, OTHER, likeness, tolerance


class Pool:
    """Fingerprints of floating values.

    Args:
        values: any; those of integers and masks, and empty ones, are left out.
    """

    def __init__(self, values: Iterable[Fingerprint]) -> None:
        self._values = [value for value in values if value.kind == "f" and value.size]
        self._moments = np.array([value.moments for value in self._values]).reshape(len(self._values), -1)
        self._scales = np.array([value.scale for value in self._values])

    def like(self, value: Fingerprint, noise: float = 0.0) -> Iterator[tuple[int, Fingerprint]]:
        """Yields how much each fingerprint is like a value, and it, where it is at all.

        Args:
            value: what to look for.
            noise: how far rounding moves it.
        """
        if value.kind != "f" or not value.size or not self._values:
            return
        near = tolerance(np.maximum(self._scales, value.scale), noise)
        for i in np.flatnonzero(np.abs(self._moments - value.moments).max(1) <= near):
            if (level := likeness(value, self._values[int(i)], noise)) > OTHER:
                yield level, self._values[int(i)]

    def nearest(self, value: Fingerprint, share: float) -> tuple[float, Fingerprint] | None:
        """Returns the nearest fingerprint that may be of the same value, and how far it is of the largest number.

        Args:
            value: what to look for.
            share: how far it may be at most; None is returned where nothing is so near.
        """
        scale = value.scale or 1.0
        near = [other for _, other in self.like(value, share * scale / NOISE) if other.size == value.size]
        found = [(float(np.abs(other.moments - value.moments).max()) / scale, other) for other in near]
        return min(found, key=lambda pair: pair[0], default=None)
