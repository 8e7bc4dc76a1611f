"""Which tables are read in parts, and from which files."""

import os
from pathlib import Path

from torch_ref.common.stream.convert import csv_to_parquet


def streamed_source(source: str, asked: bool) -> str | None:
    """Returns the Parquet files of a table that is read in parts, or None for one that is read whole.

    A folder, a pattern and a URL are read in parts; a file where that is asked for. A .csv file is converted once, to a
    .parquet file beside it, which a line says.

    Args:
        source: what `--data` says.
        asked: `--stream` was given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `--stream` with a source that cannot be read in parts, or a .csv file that cannot be converted.
    """
    path = Path(source)
    if _is_many(source):
        return source
    if not asked:
        return None
    if path.suffix == ".csv":
        converted = path.with_suffix(".parquet")
        before = os.stat(converted).st_mtime_ns if converted.is_file() else None
        converted = csv_to_parquet(path)
        new = converted.stat().st_mtime_ns != before
        print(f"{source}: {'converted to' if new else 'read from'} {converted}")
        return str(converted)
    if path.suffix != ".parquet":
        expected = "a folder, a pattern, a URL, or a .parquet or .csv file"
        raise ValueError(f"--stream: expected {expected} for --data, got {source}, which is read whole")
    return source


def _is_many(source: str) -> bool:
    path = Path(source)
    return not path.is_file() and ("://" in source or any(mark in source for mark in "*?[") or path.is_dir())
