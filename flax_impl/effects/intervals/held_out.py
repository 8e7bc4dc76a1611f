"""What an ensemble says about rows that its members did not see."""

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_shape


def held_out_means(
    values: Float[np.ndarray, "members rows"], held_out: Int[np.ndarray, "members held_out"]
) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Returns each row's mean over the members that held it out, and which rows have one.

    Args:
        values: what each member says about each row of the table [members, rows].
        held_out: the rows that each member held out [members, held_out], as `EffectModel.training` has them.

    Returns:
        Two arrays [rows]: the means, NaN for a row that no member held out, and whether any did.

    Raises:
        ValueError: arrays of other shapes, or of another number of members.

    Example:
        >>> means, seen = held_out_means(np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), np.array([[0, 1], [1, 0]]))
        >>> means.tolist(), seen.tolist()
        ([3.0, 4.0, nan], [True, True, False])
    """
    check_shape("values", values, ("members", "rows"))
    check_shape("held_out", held_out, (len(values), "held_out"))
    out = np.zeros(values.shape, bool)
    np.put_along_axis(out, held_out, True, axis=1)
    seen = out.any(axis=0)
    sums, counts = np.where(out, values, 0.0).sum(axis=0), out.sum(axis=0)
    return np.divide(sums, counts, out=np.full(len(seen), np.nan), where=seen), seen
