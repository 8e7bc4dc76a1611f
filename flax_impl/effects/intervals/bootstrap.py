"""Intervals from the spread of members that were trained on bootstrap rows."""

import numpy as np
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_number


def student_interval(
    values: Float[np.ndarray, "members ..."], alpha: float = 0.05
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Returns the lower and upper end of an interval that holds the true value with probability `1 - alpha`.

    The members' mean, and Student's quantile times their standard deviation to either side. The spread of bootstrap
    members estimates how far an ensemble from other rows would lie away.

    Args:
        values: one for each member, trained on bootstrap rows.
        alpha: the probability of missing the true value.

    Raises:
        ValueError: less than two members, or `alpha` not between 0 and 1.

    Source: Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    margin = student_factor(len(values), alpha) * values.std(axis=0, ddof=1)
    return values.mean(axis=0) - margin, values.mean(axis=0) + margin


def student_factor(members: int, alpha: float) -> float:
    """Returns by how many standard deviations of so many members an interval goes to either side."""
    check_number("alpha", alpha, above=0, below=1)
    if members < 2:
        raise ValueError(f"members: expected at least 2 for an interval, got {members}")
    try:
        from scipy.stats import t as student
    except ImportError as error:
        raise ImportError("intervals need scipy: pip install 'twohead[jax]'") from error
    return float(student.ppf(1 - alpha / 2, members - 1))
