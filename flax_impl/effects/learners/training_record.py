"""How an ensemble was trained."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .cross_fit import CrossFit


class TrainingRecord(NamedTuple):
    """How an ensemble was trained.

    Attributes:
        losses: as `fit` returns them, for each net; NaN after a net stopped.
        held_out: the rows each net was judged by, or None.
        cross_fit: what the learners expect of rows that they did not see, where trees join the nets.
    """

    losses: Float[np.ndarray, "members steps columns"]
    held_out: Int[np.ndarray, "members held_out"] | None
    cross_fit: CrossFit | None = None

    @property
    def best(self) -> list[int]:
        """After how many steps each net was at its best: the parameters that were kept."""
        if self.held_out is None:
            return [int(np.isfinite(losses[:, 0]).sum()) for losses in self.losses]
        return [int(np.nanargmin(losses[:, -1])) + 1 for losses in self.losses]
