"""A table of row groups whose columns are of any type."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...files.settings_text import text_of
from ..cells import check_changed, in_dtype
from ..table import Arrays, ParquetTable


@dataclass(frozen=True)
class MixedTable(ParquetTable):
    """A table larger than memory whose columns are of any type, the same in all files.

    Windows hold what `decode` returns, which is small. What a loss takes may be many columns of one, so it is made
    batch by batch.

    Args:
        source: as for `ParquetTable`.
        columns: as for `ParquetTable`.
        window: as for `ParquetTable`.
        change: as for `ParquetTable`, of decoded arrays.
        decode: makes the arrays of a row group from its columns, a pyarrow table, and checks them; it runs in threads.
        encode: makes of the arrays of some rows what the loss takes; None leaves them as they are.
        numbers: how many numbers a row then has.

    Raises:
        FileNotFoundError: as `ParquetTable`.
        ImportError: as `ParquetTable`.
        ValueError: as `ParquetTable`, but for the types of the columns.
    """

    decode: Callable[[Any], Arrays] | None = field(default=None, kw_only=True)
    encode: Callable[[Arrays], Mapping[str, Any]] | None = field(default=None, kw_only=True)
    numbers: int | None = field(default=None, kw_only=True)
    _numbers_only: ClassVar[bool] = False
    _window_numbers: ClassVar[int] = 2**23  # 64 MiB in float64

    @property
    def width(self) -> int:
        """How many numbers a row has for the loss."""
        return super().width if self.numbers is None else self.numbers

    def reading(
        self,
        decode: Callable[[Any], Arrays],
        encode: Callable[[Arrays], Mapping[str, Any]] | None = None,
        numbers: int | None = None,
    ) -> "MixedTable":
        """Returns the table read in another way; no file is opened again.

        Args:
            decode: as for the class.
            encode: as for the class.
            numbers: as for the class.
        """
        made = copy.copy(self)
        for name, value in (("decode", decode), ("encode", encode), ("numbers", numbers)):
            object.__setattr__(made, name, value)
        return made

    def read(self, number: int, dtype: str = "float64", check: Callable[[Arrays], Arrays] | None = None) -> Arrays:
        """Returns the arrays of one row group, as `decode` makes them.

        Args:
            number: of the group.
            dtype: what the loss takes; decoded arrays keep their own until then.
            check: is for tables of numbers; here `decode` has checked them.

        Raises:
            ValueError: the group cannot be read, or `decode` refuses it; file and row group are named.
        """
        del dtype, check
        assert self.decode is not None  # given, or by `reading`
        table = self.row_group(number)
        with self.naming(number):
            arrays = self.decode(table)
            return arrays if self.change is None else check_changed(self.change(arrays), len(table))

    def for_batches(self, arrays: Arrays, dtype: str) -> Arrays:
        """Returns decoded rows as the loss takes them.

        Args:
            arrays: of some rows.
            dtype: of all arrays but `t`.
        """
        return in_dtype(arrays if self.encode is None else self.encode(arrays), dtype)

    def fingerprint(self, processes: int = 1) -> str:
        """Returns a text that another table, or one that is read in another way, does not have.

        Args:
            processes: as for `ParquetTable`.
        """
        return f"{super().fingerprint(processes)}, decode {text_of(self.decode)}, encode {text_of(self.encode)}"
