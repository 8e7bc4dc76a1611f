"""A table of row groups in Parquet files: known from its footers, read group by group."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int

from ..checks.arguments import shown
from ..files.settings_text import text_of
from .ahead import read_in_order
from .cells import check_changed, in_dtype, to_arrays
from .columns import checked_columns, choose_columns
from .order import WindowShuffle
from .source import TEXT_SHA, Footer, Source, find_source, naming, read_footers
from .statistics import ColumnStatistics, RunningStatistics

_MOST_ROWS = int(np.iinfo(np.int32).max)  # their numbers are int32
Arrays = dict[str, np.ndarray]


class RowGroup(NamedTuple):
    """A row group.

    Attributes:
        file: the number of its file.
        number: its place in the file.
        rows: how many it has.
    """

    file: int
    number: int
    rows: int


@dataclass(frozen=True)
class ParquetTable:
    """A table larger than memory that `fit` takes as its data: row groups of Parquet files.

    Opening it reads the footers only. A training holds two windows of rows and what a few threads decode.

    Args:
        source: the path of a file, of a folder with `*.parquet`, or a pattern with `*`, sorted by name; or such a URL
            that fsspec knows, as `s3://bucket/folder`.
        columns: the columns of each array that the loss takes: for `FactualLoss` x, t, y and perhaps w. They hold
            numbers or truth values, none missing.
        window: how many rows are shuffled together, at least those of the largest row group; None takes as many as fill
            64 MiB in float32.
        change: changes the arrays of some rows, row by row, as scaling does; None leaves them as they are. It gets them
            in float64, and runs in threads.

    Attributes:
        groups: the row groups, in the order of the table.

    Raises:
        FileNotFoundError: there are no such files.
        ImportError: pyarrow, or fsspec for a URL, is not installed; the message names the extra.
        ValueError: a file that is no Parquet or damaged, without rows or a column, or with a column that is no number
            or of another type than in the first file; a window that is too small. File and column are named.

    Example:
        >>> import pyarrow, torch_ref
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from pyarrow.parquet import write_table
        >>> made = pyarrow.table({"age": [31.0, 45, 52, 38], "drug": [0, 1, 1, 0], "y": [1.0, 3, 4, 2]})
        >>> model = torch_ref.TwoHead(1, [4], [4])
        >>> with TemporaryDirectory() as folder:
        ...     write_table(made, Path(folder, "rows.parquet"), row_group_size=2)
        ...     table = ParquetTable(folder, {"x": "age", "t": "drug", "y": "y"})
        ...     print(len(table), len(table.groups), table.statistics()["x"].mean)
        ...     losses = torch_ref.fit(model, table, epochs=3, batch_size=2, progress=False)
        4 2 [41.5]
        >>> losses.shape
        (6, 2)
    """

    source: Any
    columns: Mapping[str, str | Sequence[str]]
    window: int | None = None
    change: Callable[[Arrays], Arrays] | None = None
    groups: tuple[RowGroup, ...] = field(init=False, repr=False)
    _names: dict[str, tuple[str, ...]] = field(init=False, repr=False)
    _files: Source = field(init=False, repr=False)
    _footers: tuple[Footer, ...] = field(init=False, repr=False)
    _numbers_only: ClassVar[bool] = True
    _window_numbers: ClassVar[int] = 2**24  # 64 MiB in float32

    def __post_init__(self) -> None:
        names = checked_columns(self.columns)
        if not (self.change is None or callable(self.change)):
            raise ValueError(f"change: expected a function of arrays by name, got {shown(self.change)}")
        files = find_source(self.source)
        wanted = [name for of_array in names.values() for name in of_array]
        footers = read_footers(files, wanted, numbers_only=self._numbers_only)
        groups = tuple(
            RowGroup(file, number, rows)
            for file, footer in enumerate(footers)
            for number in range(footer.metadata.num_row_groups)
            if (rows := footer.metadata.row_group(number).num_rows)
        )
        if not groups:
            raise ValueError(f"{self.source}: expected at least one row, got none")
        if sum(group.rows for group in groups) > _MOST_ROWS:
            raise ValueError(f"{self.source}: expected at most {_MOST_ROWS} rows, got more")
        largest = max(group.rows for group in groups)
        fitting = max(largest, self._window_numbers // len(wanted))
        for name, value in (
            ("groups", groups),
            ("_names", names),
            ("_files", files),
            ("_footers", footers),
            ("window", WindowShuffle((largest,), fitting if self.window is None else self.window).window),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def starts(self) -> Int[np.ndarray, " groups+1"]:
        """How many rows come before each group, and at the end how many there are."""
        return np.cumsum([0, *(group.rows for group in self.groups)])

    @property
    def width(self) -> int:
        """How many numbers a row has for the loss."""
        return sum(map(len, self._names.values()))

    def order(self) -> WindowShuffle:
        """Returns the order in which a training sees the rows, as `shuffle` of a training in memory."""
        assert self.window is not None  # __post_init__ has filled it in
        return WindowShuffle(tuple(group.rows for group in self.groups), self.window)

    def changed(self, change: Callable[[Arrays], Arrays]) -> "ParquetTable":
        """Returns the table with arrays that a function changes as they are read, after those that change them now.

        Args:
            change: takes the arrays of some rows by name, in float64, and returns them row by row; it runs in threads.

        Raises:
            ValueError: it is no function.
        """
        if not callable(change):
            raise ValueError(f"change: expected a function of arrays by name, got {shown(change)}")
        before = self.change
        changed = copy.copy(self)
        object.__setattr__(changed, "change", change if before is None else Changes((before, change)))
        return changed

    def only(self, names: Sequence[str]) -> "ParquetTable":
        """Returns the table with some of its arrays, so that no other column is read; a change may need them all.

        Args:
            names: of the arrays.
        """
        if self.change is not None:
            return self
        kept = copy.copy(self)
        object.__setattr__(kept, "columns", {name: self.columns[name] for name in names})
        object.__setattr__(kept, "_names", {name: self._names[name] for name in names})
        return kept

    def arrays(self, dtype: str = "float64") -> Arrays:
        """Returns all rows in memory, as `fit` takes them.

        Args:
            dtype: of all arrays but `t`.

        Raises:
            ValueError: as `read`.
        """
        return joined(list(self.parts(dtype)))

    def parts(self, dtype: str = "float64") -> Iterator[Arrays]:
        """Yields the arrays of one row group after the other, in the order of the table; threads read ahead.

        Args:
            dtype: of all arrays but `t`.

        Raises:
            ValueError: as `read`.
        """
        return read_in_order(lambda number: self.read(number, dtype), range(len(self.groups)))

    def read(self, number: int, dtype: str = "float64", check: Callable[[Arrays], Arrays] | None = None) -> Arrays:
        """Returns the arrays of one row group.

        Args:
            number: of the group.
            dtype: of all arrays but `t`.
            check: looks at the arrays, and returns them; its ValueError gets the place of the group.

        Raises:
            ValueError: the group cannot be read, or holds NaN, infinity or a gap; file, row group, column and row are
                named.
        """
        table = self.row_group(number)
        with self.naming(number):
            if self.change is None:
                arrays = to_arrays(table, self._names, dtype)
            else:
                changed = check_changed(self.change(to_arrays(table, self._names, "float64")), len(table))
                arrays = in_dtype(changed, dtype)
            return arrays if check is None else check(arrays)

    def row_group(self, number: int) -> Any:
        """Returns the columns of one row group, as pyarrow has them.

        Args:
            number: of the group.

        Raises:
            FileNotFoundError: its file is gone.
            ValueError: it cannot be read; file and row group are named.
        """
        file, place, _ = self.groups[number]
        wanted = [name for of_array in self._names.values() for name in of_array]
        with self._files.open(file, self._footers[file].metadata, f", row group {place}") as opened:
            return opened.read_row_group(place, columns=[*dict.fromkeys(wanted)], use_threads=False)

    def naming(self, number: int) -> AbstractContextManager[None]:
        """Returns a context in which a ValueError gets the file and the row group that it is about.

        Args:
            number: of the group.
        """
        file, place, _ = self.groups[number]
        return naming(f"{self._files.files[file]}, row group {place}")

    def for_batches(self, arrays: Arrays, dtype: str) -> Arrays:
        """Returns rows of what `read` gave as the loss takes them; of numbers they are that already.

        Args:
            arrays: of some rows.
            dtype: of all arrays but `t`.
        """
        del dtype
        return arrays

    def statistics(self) -> dict[str, ColumnStatistics]:
        """Returns count, mean, deviation and range of the columns of each array, in one pass over the table.

        Raises:
            ValueError: as `read`.
        """
        running = {name: RunningStatistics(columns) for name, columns in self._names.items()}
        for arrays in self.parts():
            for name, array in arrays.items():
                width = array.reshape(len(array), -1).shape[1]
                if name not in running or width != len(running[name].columns):  # a change made another of it
                    running[name] = RunningStatistics(tuple(f"{name}[{i}]" for i in range(width)))
                running[name].add(np.asarray(array, np.float64).reshape(len(array), -1))
        return {name: of.found() for name, of in running.items() if of.count}

    def fingerprint(self, processes: int = 1) -> str:
        """Returns a text that another table does not have: names, sizes and footers of the files, and the columns.

        Args:
            processes: how many share its rows; each reads groups of its own.
        """
        digest = hashlib.sha256()
        for name, footer in zip(self._files.names, self._footers, strict=True):
            text = (footer.metadata.metadata or {}).get(TEXT_SHA)
            digest.update(f"{name} {footer.size} {footer.metadata.to_dict()} {text}".encode())
        readers = f", read by {processes} processes" if processes > 1 else ""
        return (
            f"{len(self._footers)} Parquet files, {len(self.groups)} row groups, {len(self)} rows, window {self.window}"
            f", columns {text_of(self._names)}, change {text_of(self.change)}, footers {digest.hexdigest()}{readers}"
        )


@dataclass(frozen=True)
class Changes:
    """Changes of arrays, one after the other.

    Args:
        each: the functions.
    """

    each: tuple[Callable[[Arrays], Arrays], ...]

    def __call__(self, arrays: Arrays) -> Arrays:
        """Returns the changed arrays.

        Args:
            arrays: of some rows.
        """
        for change in self.each:
            arrays = change(arrays)
        return arrays


def stream_data(
    source: Any,
    *,
    treatment: str = "t",
    outcome: str = "y",
    weight: str | None = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    window: int | None = None,
) -> ParquetTable:
    """Opens Parquet files as data of a two-head model, larger than memory; `load_data` reads such files whole.

    Every other column is a feature, except `mu0`, `mu1` and `ycf`, which only a simulation knows.

    Args:
        source: as for `ParquetTable`.
        treatment: the column with the number of the arm of each row, from 0.
        outcome: the column with the outcome.
        weight: the column with the weights of the rows; None weighs all alike.
        features: the columns that are features; None takes all others.
        ignore: the columns that are no features, such as identifiers.
        window: as for `ParquetTable`.

    Returns:
        The table, with x, t, y, and w where there is a weight.

    Raises:
        FileNotFoundError: there are no such files.
        ImportError: pyarrow, or fsspec for a URL, is not installed; the message names the extra.
        ValueError: as for `ParquetTable`; names that are no columns or come twice; no feature is left.

    Example:
        >>> import pyarrow
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from pyarrow.parquet import write_table
        >>> made = pyarrow.table({"id": [7, 8], "age": [31.0, 45.0], "dose": [1, 2], "t": [0, 1], "y": [1.0, 3.0]})
        >>> with TemporaryDirectory() as folder:
        ...     write_table(made, Path(folder, "rows.parquet"))
        ...     stream_data(folder, ignore=["id"]).columns
        {'x': ('age', 'dose'), 't': 't', 'y': 'y'}
    """
    named = choose_columns(
        source, treatment=treatment, outcome=outcome, weight=weight, features=features, ignore=ignore
    )
    return ParquetTable(source, named, window)


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Returns the arrays of parts, one part after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
