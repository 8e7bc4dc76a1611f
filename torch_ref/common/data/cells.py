"""The cells of a table's columns, of whatever library: numbers with NaN for a gap, or levels with None for a gap."""

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias

import narwhals as nw
import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped
from narwhals.exceptions import DuplicateError
from narwhals.typing import IntoDataFrame

from ..checks.arguments import check_shape, shown

Table: TypeAlias = IntoDataFrame | Mapping[str, Any]
_TO_NUMBER = "make them a number, such as {}, or leave the column out (ignore=, --ignore)"
# What no feature may be, by the name of its type: its plain name, and what to do about it.
_DATES = "dates", _TO_NUMBER.format("days since a fixed date")
_DURATIONS = "durations", _TO_NUMBER.format("days")
_TIMES = "times of day", _TO_NUMBER.format("hours since midnight")
_LISTS = "lists", "make a column of each entry, or leave the column out (ignore=, --ignore)"
_RECORDS = "records", "make a column of each field, or leave the column out (ignore=, --ignore)"
_BYTES = "bytes", "decode them to text, or leave the column out (ignore=, --ignore)"
_REFUSED = {
    "date": _DATES, "datetime": _DATES, "datetime64": _DATES, "timestamp": _DATES, "period": _DATES,
    "duration": _DURATIONS, "timedelta": _DURATIONS, "timedelta64": _DURATIONS, "time": _TIMES,
    "list": _LISTS, "array": _LISTS, "tuple": _LISTS, "set": _LISTS, "ndarray": _LISTS,
    "struct": _RECORDS, "dict": _RECORDS, "binary": _BYTES, "bytes": _BYTES,
}  # fmt: skip
_EXACT = 2**53  # up to which float64 holds each whole number
_OTHERS = "make them numbers or text, or leave the column out (ignore=, --ignore)"


class Cells(NamedTuple):
    """A column's cells.

    Args:
        kind: numbers (truth values too), categories that their dtype declares, text, or nothing in any row.
        values: numbers with NaN for a gap [rows], or the levels as Python objects with None for a gap [rows].
        order: the levels of a dtype that has an order of its own.
        truth: the numbers are truth values.
    """

    kind: Literal["numbers", "categories", "text", "nothing"]
    values: Shaped[np.ndarray, " rows"]
    order: tuple[Any, ...] = ()
    truth: bool = False

    @property
    def gaps(self) -> Bool[np.ndarray, " rows"]:
        """Which rows have no value."""
        if self.values.dtype == object:
            return np.array([value is None for value in self.values], bool)
        return np.isnan(self.values)

    def as_categories(self) -> "Cells":
        """Returns the cells as those of a dtype of categories; whole numbers become integers."""
        if self.kind in ("categories", "nothing"):
            return self
        values = np.full(len(self.values), None, object)
        for row in np.flatnonzero(~self.gaps).tolist():
            value = self.values[row]
            if not isinstance(value, str):
                value = bool(value) if self.truth else int(value) if value.is_integer() else float(value)
            values[row] = value
        return Cells("categories", values)

    def take(self, rows: Int[np.ndarray, " some"]) -> "Cells":
        """Returns the cells of the given rows."""
        return self._replace(values=self.values[rows])


def open_table(table: Table) -> dict[str, Any]:
    """Returns the columns of a table by name: series of narwhals, or arrays; raises ValueError for anything else."""
    if isinstance(table, Mapping):
        return {str(name): _array(str(name), values) for name, values in table.items()}
    try:
        frame = nw.from_native(table, eager_only=True)
        names = list(frame.columns)
    except DuplicateError as error:
        names = list(map(str, getattr(table, "column_names", getattr(table, "columns", ()))))
        twice = next((name for i, name in enumerate(names) if name in names[:i]), "a name")
        raise ValueError(f"table: expected every column once, got {shown(twice)} twice") from error
    except TypeError as error:
        expected = "a table of pandas, polars or pyarrow in memory, or arrays by name"
        raise ValueError(f"table: expected {expected}, got {type(table).__name__}") from error
    columns: dict[str, Any] = {}
    for name, column in zip(names, frame.iter_columns(), strict=True):  # by a number, narwhals would give a row
        if str(name) in columns:
            raise ValueError(f"table: expected every column once, got {shown(str(name))} twice")
        columns[str(name)] = column
    return columns


def read_cells(name: str, column: Any) -> Cells:
    """Returns the cells of one column.

    Args:
        name: of the column, for errors.
        column: a series of narwhals, or an array [rows].

    Raises:
        ValueError: dates, times, durations, lists, records, bytes and the like; text among numbers; or infinity.
    """
    if not isinstance(column, nw.Series):
        if column.dtype.kind in "biuf":
            return _numbers(name, column.astype(np.float64), truth=column.dtype.kind == "b")
        if column.dtype.kind not in "OUT":
            raise refused(name, column.dtype.type.__name__)
        return _objects(name, column.tolist(), np.array([_is_gap(value) for value in column.tolist()], bool))
    gaps = column.is_null().to_numpy().astype(bool)
    dtype = column.dtype
    if gaps.all():
        return Cells("nothing", np.full(len(gaps), None, object))
    if dtype.is_numeric() or isinstance(dtype, nw.Boolean):
        large = isinstance(dtype, nw.Int128 | nw.UInt128)  # numpy has none of these
        array = np.empty(0, object) if large else column.to_numpy()
        if array.dtype.kind not in "biuf":  # or truth values or decimals, with gaps among them
            array = _floats(column.to_list(), gaps)
        return _numbers(name, np.where(gaps, np.nan, array.astype(np.float64)), truth=isinstance(dtype, nw.Boolean))
    if isinstance(dtype, nw.Categorical | nw.Enum):
        order = tuple(map(_plain, dtype.categories)) if isinstance(dtype, nw.Enum) else ()
        return _objects(name, column.to_list(), gaps, declared=True)._replace(order=order)
    if isinstance(dtype, nw.String | nw.Object | nw.Unknown):
        return _objects(name, column.to_list(), gaps)
    raise refused(name, type(dtype).__name__)


def _array(name: str, values: Any) -> Any:
    """Returns a column of arrays by name: a series of pandas and the like as narwhals', anything else as an array."""
    found = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(found, nw.Series):
        return found
    if isinstance(values, np.ma.MaskedArray):  # numpy would forget the mask
        values = np.array(values.tolist(), object)
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.array(values, object)
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):  # numbers beside text became text
        array = np.array(values, object)
    check_shape(f"column {name}", array, ("rows",))
    return array


def as_number(text: str) -> float:
    """Returns the number that a text holds, or NaN for any other text."""
    try:
        return math.nan if "_" in text else float(text)  # Python reads 1_000, nobody else does
    except ValueError:
        return math.nan


def check_labels(name: str, cells: Cells) -> None:
    """Raises ValueError for numbers that are to be labels, but so large that neighbours have become the same one.

    Args:
        name: of the column.
        cells: of the column.
    """
    if cells.kind != "numbers":
        return
    rows = np.flatnonzero(np.abs(cells.values) > _EXACT)
    if len(rows):
        got = f"{cells.values[rows[0]]:.0f} in row {rows[0]}"
        raise ValueError(
            f"column {name}: expected labels of at most 2**53 where they are numbers, got {got}; write them as text"
        )


def _objects(name: str, values: list[Any], gaps: np.ndarray, *, declared: bool = False) -> Cells:
    """Returns the cells of a column of Python objects: all text, or all numbers; `declared` are levels of either."""
    cells = np.empty(len(values), object)
    cells[:] = [None if gap else _plain(value) for value, gap in zip(values, gaps, strict=True)]
    if gaps.all():
        return Cells("nothing", cells)
    kinds: dict[bool, int] = {}
    for row in np.flatnonzero(~gaps).tolist():
        value = cells[row]
        if not isinstance(value, str | Real | Decimal):
            raise refused(name, type(value).__name__)
        kinds.setdefault(isinstance(value, str), row)
    if len(kinds) == 2:
        text, number = kinds[True], kinds[False]
        got = f"{shown(cells[text])} in row {text} and {shown(cells[number])} in row {number}"
        raise ValueError(f"column {name}: expected text only or numbers only, got {got}")
    if declared:
        return Cells("categories", cells)
    truth = all(value is None or isinstance(value, bool) for value in cells)
    return Cells("text", cells) if True in kinds else _numbers(name, _floats(values, gaps), truth=truth)


def _numbers(name: str, values: Float64[np.ndarray, " rows"], *, truth: bool) -> Cells:
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        more = f" ({len(infinite)} in all)" if len(infinite) > 1 else ""
        got = f"{values[infinite[0]]} in row {infinite[0]}{more}"
        raise ValueError(f"column {name}: expected finite numbers, got {got}")
    if len(values) and np.isnan(values).all():
        return Cells("nothing", np.full(len(values), None, object))
    return Cells("numbers", values, truth=truth)


def _floats(values: list[Any], gaps: np.ndarray) -> Float64[np.ndarray, " rows"]:
    return np.array([math.nan if gap else _float(value) for value, gap in zip(values, gaps, strict=True)])


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _plain(value: Any) -> Any:
    """Returns a level as Python's own object, so that a file can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    return float(value) if isinstance(value, Decimal) else value


def _is_gap(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA is neither; an array has no truth value
        return type(value).__name__ == "NAType"


def refused(name: str, kind: str) -> ValueError:
    """Returns the error for a column of a type that no feature can have: its plain name, and what to do."""
    got, advice = _REFUSED.get(kind.lower().rstrip("_"), (kind, _OTHERS))
    return ValueError(f"column {name}: expected numbers, truth values or categories, got {got}; {advice}")
