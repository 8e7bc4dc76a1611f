"""Early stopping inside the compiled loop: the best parameters so far, judged by the loss on held-out rows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from torch_ref.common.batches import HeldOut

from ..models.layers import Params


class Watch(NamedTuple):
    """The best parameters so far.

    Twin: `torch_ref.stopping.Watch`, which changes in place.

    Attributes:
        params: the best.
        loss: theirs, on the held-out rows; infinite before the first look.
        waited: how many looks ago that was.
        ended: after how many steps the training ended; 0 while it goes on.
    """

    params: Params
    loss: Float[Array, ""]
    waited: Int[Array, ""]
    ended: Int[Array, ""]

    def over(self, axis: str | None) -> Bool[Array, ""]:
        """Returns whether the training ended: of all replicas, where there are several along an axis."""
        ended = (self.ended > 0).astype(jnp.int32)
        return (ended if axis is None else jax.lax.pmin(ended, axis)) > 0

    def look(
        self,
        params: Params,
        loss_of: Callable[[Params, Int[Array, " held_out"]], Float[Array, ""]],
        step: Int[Array, ""],
        held_out: HeldOut,
    ) -> tuple["Watch", Float[Array, ""]]:
        """Looks at the parameters after a step, if it is the last of an epoch; returns the loss too, or NaN.

        Args:
            params: after the step.
            loss_of: gives their loss on the rows of these numbers.
            step: how many were taken.
            held_out: the rows, and when to look and when to end.
        """

        def looked(watch: Watch) -> tuple[Watch, Float[Array, ""]]:
            loss = loss_of(params, jnp.asarray(held_out.rows))
            going = watch.ended == 0
            better = going & (loss < watch.loss)
            waited = jnp.where(better, 0, watch.waited + 1)
            ended = jnp.where(going & (waited >= held_out.patience), step, watch.ended)
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, watch.params)
            return Watch(best, jnp.where(better, loss, watch.loss), waited, ended), loss

        def passed(watch: Watch) -> tuple[Watch, Float[Array, ""]]:
            return watch, jnp.full_like(watch.loss, jnp.nan)

        return jax.lax.cond(step % held_out.every == 0, looked, passed, self)


def begin(params: Params) -> Watch:
    """Returns the watch before the first step.

    Its arrays are copies: a training reuses the memory of its state, and nothing may be in it twice.
    """
    dtype = jax.tree.leaves(params)[0].dtype
    return Watch(jax.tree.map(jnp.copy, params), jnp.array(np.inf, dtype), *(jnp.array(0, jnp.int32) for _ in range(2)))
