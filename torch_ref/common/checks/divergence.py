"""Checks of a finished training: losses and weights that are not finite."""

from collections.abc import Mapping

import numpy as np


def check_losses(losses: np.ndarray, first_step: int, steps: int) -> None:
    """Raises FloatingPointError, naming the step, where the losses [steps, outputs] left the finite numbers.

    Args:
        losses: of some steps of the training.
        first_step: the number of the first of them.
        steps: how many steps the training has in all.
    """
    wrong = np.argwhere(~np.isfinite(losses))
    if len(wrong):
        step, output = wrong[0]
        place = f"step {first_step + step} of {steps}, output {output}"
        raise FloatingPointError(f"loss: expected finite numbers, got {losses[step, output]} in {place}: {_DIVERGED}")


def check_watched(losses: np.ndarray) -> None:
    """Raises FloatingPointError where no look at the held-out rows, none of the losses that are NaN, was finite."""
    if not np.isfinite(losses).any():
        raise FloatingPointError(
            f"validation_rows: expected a finite loss on them, got none after any epoch: {_DIVERGED}"
        )


def check_trained(weights: Mapping[str, np.ndarray]) -> None:
    """Raises FloatingPointError where trained weights are not finite: the losses cannot tell of the last step."""
    for name, array in weights.items():
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            got = array[tuple(wrong[0])]
            raise FloatingPointError(f"{name}: expected finite numbers, got {got} after the last step: {_DIVERGED}")


_DIVERGED = "the training diverged; try a smaller lr, clip_norm, or standardised data"
