"""Parquet files of a source: a file, a folder, a pattern, or a URL that fsspec knows."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..checks.arguments import listed, shown
from ..data.tables import import_pyarrow, parquet_names
from .ahead import read_in_order

TEXT_SHA = b"twohead text sha256"  # in the footer of a file that was made of text


@dataclass(frozen=True)
class Source:
    """Parquet files, sorted by name.

    Args:
        files: their paths, as the file system takes them.
        names: short names for messages and fingerprints, which stay when the folder moves.
        system: the fsspec file system, or None for local files.
    """

    files: tuple[str, ...]
    names: tuple[str, ...]
    system: Any = None

    @contextmanager
    def open(self, number: int, metadata: Any = None, part: str = "") -> Iterator[Any]:
        """Yields a file as pyarrow opens it; errors of pyarrow and of the system become one that names the file.

        Args:
            number: of the file.
            metadata: its footer, where it was read before.
            part: what is read of it, for the error.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read as Parquet.
        """
        arrow = import_pyarrow(self.files[number])
        from pyarrow.parquet import ParquetFile

        try:
            options = {"metadata": metadata, "filesystem": self.system, "pre_buffer": self.system is not None}
            with ParquetFile(self.files[number], **options) as file:
                yield file
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.files[number]}: expected a Parquet file, found none") from error
        except (arrow.ArrowException, OSError) as error:
            got = shown(str(error))
            raise ValueError(f"{self.files[number]}{part}: expected a whole Parquet file, got {got}") from error

    def bytes_of(self, number: int) -> int:
        """Returns the size of a file.

        Args:
            number: of the file.
        """
        path = self.files[number]
        return Path(path).stat().st_size if self.system is None else int(self.system.size(path))


def find_source(source: Any) -> Source:
    """Returns the files of a source; of a folder or a pattern those whose names begin with neither . nor _.

    Such are not part of a table: half-written files, and what Spark and others write beside their rows.

    Args:
        source: the path of a file, of a folder with `*.parquet`, or a pattern with `*`; or such a URL, `s3://…`.

    Raises:
        FileNotFoundError: there are none.
        ImportError: a URL needs fsspec, or what fsspec needs for it.
        ValueError: it is no path.
    """
    if not isinstance(source, str | Path) or not str(source):
        raise ValueError(f"source: expected the path of Parquet files, got {shown(source)}")
    text = str(source)
    if "://" in text:
        return _remote(text)
    path = Path(text)
    if any(mark in text for mark in "*?["):
        files = _visible(glob.glob(text, recursive=True))
    elif path.is_dir():
        files = _visible(str(file) for file in path.glob("*.parquet"))
    else:
        files = [text] * path.is_file()
    return _named(text, files, None)


def column_names(source: Any) -> tuple[str, ...]:
    """Returns the names of a source's columns, as the first file has them.

    Raises:
        FileNotFoundError: as `find_source`.
        ImportError: as `find_source`.
        ValueError: as `find_source`, or a column without a name, a name that comes twice, or an index of pandas.
    """
    files = find_source(source)
    with files.open(0) as file:
        parquet_names(files.files[0], file.schema_arrow.names)
        return tuple(file.schema_arrow.names)


class Footer(NamedTuple):
    """What is known of a file without reading its rows.

    Attributes:
        metadata: as pyarrow has it.
        size: of the file, in bytes.
    """

    metadata: Any
    size: int


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Puts a place before what a ValueError of its block says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def read_footers(files: Source, wanted: Sequence[str], *, numbers_only: bool) -> tuple[Footer, ...]:
    """Returns the footer of each file; raises ValueError unless all have the columns, of one type, perhaps a number."""

    def footer(number: int) -> tuple[Footer, dict[str, Any]]:
        with files.open(number) as file:
            schema = file.schema_arrow
            kinds = {name: _plain(schema.field(name).type) for name in wanted if schema.names.count(name) == 1}
            for name in wanted:
                if name not in kinds:
                    count = schema.names.count(name)
                    got = f"it {count} times" if count else listed(schema.names)
                    raise ValueError(f"{files.files[number]}: expected the column {name} once, got {got}")
            return Footer(file.metadata, files.bytes_of(number)), kinds

    found = list(read_in_order(footer, range(len(files.files))))
    for number, (_, kinds) in enumerate(found):
        for name, kind in kinds.items():
            expected = found[0][1][name]
            if kind != expected:
                raise ValueError(f"{files.files[number]}: column {name}: expected {expected}, as in "
                                 f"{files.files[0]}, got {kind}")  # fmt: skip
            if numbers_only and not is_number(kind):
                raise ValueError(f"{files.files[number]}: column {name}: expected numbers or truth values, got {kind}")
    return tuple(footer for footer, _ in found)


def _remote(url: str) -> Source:
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{url}: URLs need fsspec: pip install 'twohead[data]'") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
        if any(mark in path for mark in "*?["):
            files = _visible(system.glob(path))
        elif system.isdir(path):
            files = _visible(system.glob(f"{path.rstrip('/')}/*.parquet"))
        else:
            files = [path] * system.isfile(path)
    except Exception as error:  # each file system has errors of its own, such as of credentials
        kind = ImportError if isinstance(error, ImportError) else ValueError
        got = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{url}: expected a URL that fsspec can open, got {got}") from error
    return _named(url, files, system)


def _visible(files: Iterable[str]) -> list[str]:
    return [file for file in files if not Path(file).name.startswith((".", "_"))]


def _named(source: str, files: Sequence[str], system: Any) -> Source:
    if not files:
        raise FileNotFoundError(f"{source}: expected Parquet files, found none")
    files = sorted(str(file) for file in files)
    folders = {file.rpartition("/")[0] for file in (Path(file).as_posix() for file in files)}
    cut = len(folders.pop()) + 1 if len(folders) == 1 and "/" in Path(files[0]).as_posix() else 0
    return Source(tuple(files), tuple(Path(file).as_posix()[cut:] for file in files), system)


def _plain(kind: Any) -> Any:
    """Returns the type of a column's values: text is a category in some files, and numbered in other widths."""
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def is_number(kind: Any) -> bool:
    """Returns whether a column's type is one of whole numbers, floats or truth values."""
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
