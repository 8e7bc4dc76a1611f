"""Moves the channels of Flax's arrays from the last axis to where torch has them."""

import numpy as np

# Of torch's classes: those that hold channels in the second axis, where Flax has them in the last.
_CHANNELS_FIRST = (
    "Conv",
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "MaxPool",
    "AvgPool",
    "AdaptiveAvgPool",
    "Upsample",
)


def channels_as_torch(array: np.ndarray, reference: np.ndarray | None, kind: str) -> np.ndarray:
    """Returns what a module of the port took or returned, with its channels where torch has them.

    Args:
        array: of the port.
        reference: torch's entry, whose shape decides where the class does not; None where there is none.
        kind: torch's class.
    """
    if array.ndim < 3:
        return array
    turned = np.moveaxis(array, -1, 1)
    if kind.startswith(_CHANNELS_FIRST):
        return turned
    if reference is None or array.shape == reference.shape or turned.shape != reference.shape:
        return array
    return turned
