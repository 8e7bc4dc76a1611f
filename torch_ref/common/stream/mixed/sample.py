"""Rows of a table of files that are drawn at random, in memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from ...checks.arguments import check_integer
from ...progress import Progress
from ..ahead import read_in_order
from ..table import ParquetTable


def sample_rows(
    table: ParquetTable, rows: int, seed: int, check: Callable[[Any], None], progress: bool
) -> tuple[Int[np.ndarray, " sample"], Any]:
    """Returns the numbers of rows that are drawn at random, rising, and what is in them, as one pyarrow table.

    Args:
        table: the rows.
        rows: how many to draw; all, where there are no more.
        seed: of numpy's default generator.
        check: looks at each whole row group that is read; its ValueError gets file and row group.
        progress: shows a bar, or plain lines, once it takes long.

    Raises:
        ValueError: a row group that cannot be read, or that `check` refuses.
    """
    check_integer("sample", rows, at_least=1)
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    numbers = np.arange(len(table))
    if rows < len(table):
        numbers = np.sort(generator.choice(len(table), rows, replace=False, shuffle=False))
    starts, bounds = table.starts, np.searchsorted(numbers, table.starts)

    def part(group: int) -> Any:
        found = table.row_group(group)
        with table.naming(group):
            check(found)
        return _with_wide_codes(found.take(numbers[bounds[group] : bounds[group + 1]] - starts[group]))

    from pyarrow import concat_tables

    groups, parts = np.flatnonzero(np.diff(bounds)).tolist(), []
    with Progress(len(groups), progress, "row group") as report:
        for found in read_in_order(part, groups):
            parts.append(found)
            report(len(parts))
    return numbers, concat_tables(_alike(parts)).unify_dictionaries()


def _alike(parts: list[Any]) -> list[Any]:
    """Returns tables in which a column that is a category in some parts only, or of another order, is plain in all."""
    from pyarrow import types

    for place, name in enumerate(parts[0].column_names):
        if len({str(part.schema.field(place).type) for part in parts}) > 1:
            for number, part in enumerate(parts):
                kind = part.schema.field(place).type
                if types.is_dictionary(kind):
                    parts[number] = part.set_column(place, name, part.column(place).cast(kind.value_type))
    return parts


def _with_wide_codes(table: Any) -> Any:
    """Returns a table whose categories are numbered alike: files number theirs in the least width that does."""
    import pyarrow as arrow

    for place, field in enumerate(table.schema):
        if arrow.types.is_dictionary(field.type):
            kind = arrow.dictionary(arrow.int32(), field.type.value_type, field.type.ordered)
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table
