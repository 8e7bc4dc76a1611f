"""Starts `twohead` as processes: fresh ones, and forks of this one, which has imported the packages already.

A fork starts in no time, so that far more blows fit into a minute; a fresh process also stands the blows that fall
while it imports. This process computes nothing by itself: its forks would inherit threads that do not run there.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT = 120.0  # seconds after which a process hangs
# The console script, which says on a pipe that Python has started: no program catches what comes before.
_SCRIPT = (
    "import os, sys; from flax_impl.commands.main import main; os.write({0}, b'.'); os.close({0}); sys.exit(main())"
)
_FORKS = multiprocessing.get_context("fork")


class Ended(NamedTuple):
    """How a process ended.

    Args:
        code: its exit code, or the negative number of the signal that ended it.
        out: what it printed.
        err: its warnings and errors.
        seconds: how long it took.
        hung: whether it had to be killed, since it did not end.
    """

    code: int
    out: str
    err: str
    seconds: float
    hung: bool

    @property
    def last(self) -> str:
        """The last lines of what it told."""
        return " / ".join([line for line in self.err.splitlines() if line.strip()][-4:])[-600:]


class Running:
    """A command that runs in a folder, with its output in files beside the folder.

    Args:
        arguments: what follows `twohead`.
        folder: where it runs.
        fresh: starts Python anew, in place of a fork.
        before: is called in a fork before the command.
        number: tells the outputs of several in one folder apart.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        fresh: bool = False,
        before: Callable[[], None] | None = None,
        number: int = 0,
    ) -> None:
        self._said = [folder.parent / f"{folder.name}.{number}.{name}" for name in ("out", "err")]
        self._start = time.monotonic()
        self._process: ForkProcess | subprocess.Popen[bytes]
        if fresh:
            self._process = self._fresh(arguments, folder)
        else:
            self._process = _FORKS.Process(target=_run, args=(list(arguments), folder, self._said, before))
            self._process.start()

    def _fresh(self, arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
        read, write = os.pipe()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with open(self._said[0], "wb") as out, open(self._said[1], "wb") as err:
            started = subprocess.Popen(
                [sys.executable, "-c", _SCRIPT.format(write), *arguments], cwd=folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=[write],
            )  # fmt: skip
        os.close(write)
        with open(read, "rb") as pipe:
            pipe.read()
        return started

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self.runs() and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def runs(self) -> bool:
        """Whether it has not ended."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return self._process.exitcode is None

    def told(self) -> str:
        """What it has written on stderr so far."""
        return self._said[1].read_text(errors="replace") if self._said[1].exists() else ""

    def wait(self, limit: float = LIMIT) -> Ended:
        """Returns how it ended; kills it where it has not after so many seconds."""
        hung = False
        if isinstance(self._process, subprocess.Popen):
            try:
                code = self._process.wait(limit)
            except subprocess.TimeoutExpired:
                hung = True
                self._process.kill()
                code = self._process.wait()
        else:
            self._process.join(limit)
            if hung := self._process.exitcode is None:
                self._process.kill()
                self._process.join()
            code = self._process.exitcode or 0
        seconds = time.monotonic() - self._start
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in self._said)
        for path in self._said:
            path.unlink(missing_ok=True)
        return Ended(code, out, err, seconds, hung)


def preload() -> None:
    """Imports what the commands import, so that forks have it."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "CUDA_VISIBLE_DEVICES": ""}
    import matplotlib.pyplot
    import pyarrow.parquet
    import torch._dynamo  # torch's optimisers import it at their first step  # noqa: F401

    import flax_impl.effects
    import flax_impl.parity
    import flax_impl.serving
    import torch_ref
    from flax_impl.commands import export, parity, predict, train

    loaded = (matplotlib.pyplot, pyarrow.parquet, flax_impl.parity, flax_impl.serving, flax_impl.effects.EffectModel)
    loaded += (torch_ref.fit, flax_impl.fit, export, parity, predict, train)
    assert all(loaded)
    # A Ctrl-C reaches a fork in its command, or not at all.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _run(arguments: list[str], folder: Path, said: list[Path], before: Callable[[], None] | None) -> None:
    """Runs a command in a fork, and ends it with its exit code."""
    from flax_impl.commands.main import main

    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in zip((1, 2), said, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    if before is not None:
        before()
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["twohead", *arguments]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        code = main()
    finally:
        with suppress(OSError):  # a fork ends without Python's end
            sys.stdout.flush()
    sys.exit(code)
