"""Comma-separated values become a Parquet file beside them, chunk by chunk, so that they can be larger than memory."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.arguments import shown
from ..data.cells import as_number
from ..data.tables import check_quotes, first_line, import_pyarrow, text_names
from ..files.array_file import replacing
from .source import TEXT_SHA, Source

_CHUNK = 2**24  # bytes of text, which become a row group
_TIME = b"twohead text time"


def csv_to_parquet(path: str | os.PathLike[str]) -> Path:
    r"""Writes `name.parquet` beside `name.csv`, and returns its path; one that was made of this text is kept.

    The first 16 MiB settle the types. A column is float64 where all values there are numbers or it has none, a truth
    value where all are true or false, a date or a time where all are, and text otherwise. Empty cells, NA and the like
    are null. The footer holds the sha256 of the text, so that a checkpoint tells another text.

    Args:
        path: the .csv file, with a line of names.

    Returns:
        The path of the Parquet file, whose row groups are chunks of 16 MiB of text.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pyarrow is not installed; the message names the extra.
        ValueError: no names, no rows, a ragged line, a quote that is not closed, other bytes than UTF-8, or a value
            that is not of its column's type; file and line are named. Or a `name.parquet` that was not made of
            `name.csv`, which stays as it is.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch_ref.data import stream_data
        >>> with TemporaryDirectory() as folder:
        ...     text = Path(folder, "rows.csv")
        ...     _ = text.write_text("age,t,y\n31,0,1.5\n45,1,3\n")
        ...     table = stream_data(csv_to_parquet(text))
        ...     table.arrays()["x"].tolist()
        [[31.0], [45.0]]
    """
    if not isinstance(path, str | os.PathLike) or Path(path).suffix != ".csv":
        raise ValueError(f"path: expected a file ending in .csv, got {shown(str(path))}")
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: expected a file, found none")
    target, time = source.with_suffix(".parquet"), _time_of(source)
    if target.exists() and _time_in(target, source) == time:
        return target
    cells = first_line(source)
    if any(np.isfinite(as_number(cell)) for cell in cells):
        raise ValueError(f"{source}, line 1: expected the names of the columns, got {shown(','.join(cells))}")
    names = text_names(source, cells)
    arrow = import_pyarrow(source)
    from pyarrow.parquet import ParquetWriter

    try:
        with _opened(source, {}) as reader:
            types = {field.name: _settled(field.type, arrow, source) for field in reader.schema}
        with _opened(source, types) as reader, replacing(target) as beside:
            fields = [field.with_name(name) for field, name in zip(reader.schema, names, strict=True)]
            with source.open("rb") as text:
                schema = arrow.schema(fields, {_TIME: time, TEXT_SHA: hashlib.file_digest(text, "sha256").hexdigest()})
            rows = 0
            with ParquetWriter(beside, schema) as writer:
                for chunk in reader:
                    if len(chunk):
                        table = arrow.Table.from_batches([chunk]).rename_columns(names)
                        check_quotes(source, table, rows)
                        writer.write_table(table)
                    rows += len(chunk)
            if not rows:
                raise ValueError(f"{source}: expected at least one row, got a header only")
    except arrow.ArrowException as error:
        if "Empty CSV file" in str(error):
            raise ValueError(f"{source}: expected at least one row, got a header only") from error
        if "straddling object" in str(error):
            got = f"a row of more than {_CHUNK} bytes"
            raise ValueError(f"{source}: expected every quote to be closed, got {got}") from error
        raise ValueError(_explained(source, names, str(error))) from error
    return target


def _time_of(source: Path) -> str:
    """Returns when a text was changed last, in nanoseconds, and its size."""
    found = source.stat()
    return f"{found.st_mtime_ns}, {found.st_size} bytes"


def _time_in(target: Path, source: Path) -> str:
    """Returns what `_time_of` was when a Parquet file was made; raises ValueError where it was made of no text."""
    with Source((str(target),), (target.name,)).open(0) as file:
        found = file.metadata.metadata or {}
    if _TIME not in found:
        got = "another table: take that, or move it"
        raise ValueError(f"{target}: expected no file, or one that was made of {source}, got {got}")
    return found[_TIME].decode()


def _opened(source: Path, types: dict[str, Any]) -> Any:
    """Returns pyarrow's reader of chunks; without threads, as only so lines are counted."""
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, open_csv

    return open_csv(
        source,
        ReadOptions(use_threads=False, block_size=_CHUNK),
        ParseOptions(newlines_in_values=True, ignore_empty_lines=len(first_line(source)) > 1),
        ConvertOptions(strings_can_be_null=True, column_types=types),
    )


def _explained(source: Path, names: Sequence[str], message: str) -> str:
    """Returns pyarrow's words for a bad line in ours."""
    number = re.search(r"Row #(\d+): ", message)
    line = f"{source}, line {number[1]}" if number else str(source)
    if found := re.search(
        r"CSV column #(\d+): .*conversion error to (\w+).*?: invalid value '(.*)'", message, re.DOTALL
    ):
        kind = {"double": "a number", "bool": "a truth value"}.get(found[2], "a date or a time")
        return f"{line}: column {names[int(found[1])]}: expected {kind}, as in the first lines, got {shown(found[3])}"
    if found := re.search(r"Expected (\d+) columns, got (\d+)", message):
        return f"{line}: expected {found[1]} values, got {found[2]}"
    return f"{line}: expected comma-separated text, got {shown(message)}"


def _settled(kind: Any, arrow: Any, source: Path) -> Any:
    """Returns the type of a column from that of its first chunk."""
    types = arrow.types
    if types.is_binary(kind):
        raise ValueError(f"{source}: expected text in UTF-8, got other bytes")
    if types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind):
        return arrow.float64()
    if types.is_timestamp(kind):
        return arrow.timestamp("ns", kind.tz)
    return kind if types.is_boolean(kind) or types.is_temporal(kind) else arrow.string()
