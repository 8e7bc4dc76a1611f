"""What is known of a table's columns: which are numbers, and which are categories, with their levels."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A feature of a table, as it was in training.

    In the array of features a number stands for itself, a truth value for 0 or 1, and a category for the place of its
    level among `levels`; -1 is a level that training did not see. A missing value is NaN.

    Args:
        name: of the column.
        levels: of a category, in the order of their codes: texts, numbers or truth values; None for a number.
        gaps: values were missing in training.

    Example:
        >>> Column("colour", levels=("blue", "red")).levels
        ('blue', 'red')
    """

    name: str
    levels: tuple[Any, ...] | None = None
    gaps: bool = False
