"""Early stopping: the best parameters so far, judged by the loss on held-out rows."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common.batches import HeldOut


class Watch:
    """The best parameters so far.

    Twin: `flax_impl.stopping.Watch`, which is pure: each look returns a new one.

    Attributes:
        params: the best, as a `state_dict`.
        loss: theirs, on the held-out rows; infinite before the first look.
        waited: how many looks ago that was.
        ended: after how many steps the training ended; 0 while it goes on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.params = copy.deepcopy(model.state_dict())
        self.loss = math.inf
        self.waited = 0
        self.ended = 0

    def look(self, model: nn.Module, loss_of: Callable[[], Tensor], step: int, held_out: HeldOut) -> float:
        """Looks at the parameters after a step, if it is the last of an epoch; returns the loss too, or NaN.

        Args:
            model: after the step.
            loss_of: gives its loss on the held-out rows.
            step: how many were taken.
            held_out: when to look and when to end.
        """
        if step % held_out.every:
            return math.nan
        with torch.no_grad():
            loss = float(loss_of())
        if loss < self.loss:
            self.params, self.loss, self.waited = copy.deepcopy(model.state_dict()), loss, 0
        else:
            self.waited += 1
        if self.waited >= held_out.patience:
            self.ended = step
        return loss
