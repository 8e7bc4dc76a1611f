"""What an ensemble says about rows that its members did not see."""

import numpy as np
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_row_numbers, check_shape


def in_held_out(held_out: Int[np.ndarray, "members held_out"], rows: int) -> Bool[np.ndarray, "members rows"]:
    """Returns which rows of a table each member held out.

    Args:
        held_out: the row numbers that each member held out, as `EffectModel.training` has them.
        rows: how many the table has.

    Returns:
        Whether a member held a row out [members, rows].

    Raises:
        ValueError: an array of another shape, or row numbers that the table does not have.

    Example:
        >>> in_held_out(np.array([[0, 2], [1, 2]]), rows=3).tolist()
        [[True, False, True], [False, True, True]]
    """
    check_shape("held_out", held_out, ("members", "held_out"))
    check_row_numbers("held_out", held_out.ravel(), rows)
    found = np.zeros((len(held_out), rows), bool)
    np.put_along_axis(found, held_out, True, axis=1)
    return found


def held_out_means(
    values: Float[np.ndarray, "members rows"], unseen: Bool[np.ndarray, "members rows"]
) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Returns each row's mean over the members that did not see it, and which rows have one.

    Args:
        values: what each member says about each row of the table [members, rows].
        unseen: which rows each member did not see [members, rows].

    Returns:
        Two arrays [rows]: the means, NaN for a row that every member saw, and whether there is one.

    Raises:
        ValueError: arrays of other or of different shapes.

    Example:
        >>> unseen = np.array([[True, True, False], [True, False, False]])
        >>> means, known = held_out_means(np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), unseen)
        >>> means.tolist(), known.tolist()
        ([3.0, 2.0, nan], [True, True, False])
    """
    check_shape("values", values, ("members", "rows"))
    check_shape("unseen", unseen, values.shape)
    sums, counts = np.where(unseen, values, 0.0).sum(axis=0), unseen.sum(axis=0)
    known = counts > 0
    return np.divide(sums, counts, out=np.full(len(known), np.nan), where=known), known
