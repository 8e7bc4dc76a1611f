"""Comma-separated values become a Parquet file beside them, chunk by chunk, so that they can be larger than memory."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.arguments import shown
from ..data.cells import as_number
from ..data.tables import first_line, header_names, import_pyarrow
from ..files.array_file import replacing

_CHUNK = 2**24  # bytes of text, which become a row group


def csv_to_parquet(path: str | os.PathLike[str]) -> Path:
    r"""Writes `name.parquet` beside `name.csv`, and returns its path; one that is newer than the text is kept.

    The first 16 MiB settle the types. A column is float64 where all values there are numbers or it has none, a truth
    value where all are true or false, and text otherwise. Empty cells, NA and the like are null.

    Args:
        path: the .csv file, with a line of names.

    Returns:
        The path of the Parquet file, whose row groups are chunks of 16 MiB of text.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pyarrow is not installed; the message names the extra.
        ValueError: no names, no rows, a ragged line, other bytes than UTF-8, or a value that is not of its column's
            type; file and line are named.

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
    source = Path(path)
    if source.suffix != ".csv":
        raise ValueError(f"path: expected a file ending in .csv, got {str(path)!r}")
    if not source.is_file():
        raise FileNotFoundError(f"{source}: expected a file, found none")
    target = source.with_suffix(".parquet")
    if target.is_file() and target.stat().st_mtime_ns > source.stat().st_mtime_ns:
        return target
    cells = first_line(source)
    if any(np.isfinite(as_number(cell)) for cell in cells):
        raise ValueError(f"{source}, line 1: expected the names of the columns, got {shown(','.join(cells))}")
    names = header_names(str(source), cells)
    arrow = import_pyarrow(source)
    from pyarrow.parquet import ParquetWriter

    try:
        with _opened(source, {}) as reader:
            types = {field.name: _settled(field.type, arrow, source) for field in reader.schema}
        with _opened(source, types) as reader, replacing(target) as beside:
            schema = reader.schema.with_metadata(None)
            schema = arrow.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])
            rows = 0
            with ParquetWriter(beside, schema) as writer:
                for chunk in reader:
                    rows += len(chunk)
                    if len(chunk):
                        writer.write_table(arrow.Table.from_batches([chunk]).rename_columns(names))
            if not rows:
                raise ValueError(f"{source}: expected at least one row, got a header only")
    except arrow.ArrowException as error:
        if "Empty CSV file" in str(error):
            raise ValueError(f"{source}: expected at least one row, got a header only") from error
        raise ValueError(_explained(source, names, str(error))) from error
    return target


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
    if found := re.search(r"CSV column #(\d+): .*conversion error to (\w+): invalid value '(.*)'", message, re.DOTALL):
        kind = "a truth value" if found[2] == "bool" else "a number"
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
    return kind if types.is_boolean(kind) else arrow.string()
