"""What an ensemble says about rows that its members did not see."""

import numpy as np
from jaxtyping import Bool, Int

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
