"""One process at a time in a folder."""

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

from ..checks.arguments import shown


class FolderLock:
    """Keeps other processes, and other trainings of this one, out of a folder.

    The file `lock` holds the number of the process. The system lets go of it when the process ends, however it ends,
    so that the next one takes it over. Where the file system or Windows has no such
    lock, nothing is kept out.

    Args:
        folder: which; it is made if it is not there.

    Raises:
        ValueError: another training is in it.
        OSError: the folder cannot be made, or nothing can be written to it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / "lock", "a+", encoding="utf-8")  # noqa: SIM115 (held until `close`)
        except OSError as error:
            raise OSError(f"checkpoint: expected a folder to write to, got {folder}: {error.strerror}") from error
        try:
            fcntl: Any = importlib.import_module("fcntl")
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read(20).strip() or "unknown"
            self._file.close()
            got = f"{shown(str(folder))}, where process {holder} trains"
            raise ValueError(f"checkpoint: expected a folder that no other training uses, got {got}") from error
        except OSError:
            return  # a file system without locks
        with contextlib.suppress(OSError):  # a full disk: the number is for the message only
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()

    def close(self) -> None:
        """Lets others in."""
        with contextlib.suppress(OSError):
            self._file.close()
