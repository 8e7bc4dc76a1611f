"""Checks a port again whenever its file is saved; the reference is recorded once."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .pair import Recorded, Side, check_own, record_own

_PAUSE = 0.2  # seconds between two looks at the files
Written = dict[Path, int | None]


def watch(
    reference: Side, port: Side, show: Callable[[Any, float], None], *, again: Callable[[], bool] | None = None
) -> int:
    """Checks, shows the report, and waits for one of the files to be saved, until it is interrupted.

    An error in a file is shown, and costs nothing else.

    Args:
        reference: the reference's file; it is recorded again where it is saved.
        port: the port's.
        show: takes the report and the seconds that it took.
        again: says whether to wait for another change; None waits until Ctrl-C.

    Returns:
        0 where the last report passed, 1 otherwise.
    """
    recorded: Recorded | None = None
    of_reference: Written = {}
    seen: set[Path] = set()  # also what is not loaded any more, since it could not be read
    passed = False
    while True:
        seen |= reference.files() | port.files()
        before, start = _written(seen), time.perf_counter()
        try:
            if recorded is None or _written(of_reference) != of_reference:
                recorded = record_own(reference.build())
                of_reference = _written(reference.files())
            report = check_own(port.build(), recorded)
            passed = report.passed
            show(report, time.perf_counter() - start)
        except Exception as error:  # the user is writing: the next save may mend it
            passed = False
            print(f"error: {told(error)}", file=sys.stderr, flush=True)
        new = (reference.files() | port.files()) - seen
        seen |= new
        before |= _written(new)
        if again is not None and not again():
            return int(not passed)
        try:
            print("waiting for a change; Ctrl-C ends", file=sys.stderr, flush=True)
            while _written(seen) == before:
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return int(not passed)


def _written(paths: Iterable[Path]) -> Written:
    """Returns when each file was written last; None for one that is not there."""
    return {path: path.stat().st_mtime_ns if path.exists() else None for path in paths}


def told(error: BaseException) -> str:
    """Returns an error with the last line of the user's that it came from.

    Args:
        error: of a file of the user's.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
