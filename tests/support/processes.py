"""Processes that train together, for tests."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, NamedTuple

import pytest


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Running:
    """Processes that run side by side; whatever happens to the test, none outlives it.

    Args:
        commands: what follows `python`.
        folder: where they run, and where their output goes, since a pipe that nobody reads would stop them.
    """

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path) -> None:
        self.folder, self._stack = folder, ExitStack()
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self.processes = [
            subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=environment, stdout=self._file(f"said{i}"),
                stderr=self._file(f"err{i}"),
            )
            for i, command in enumerate(commands)
        ]  # fmt: skip

    def _file(self, name: str) -> IO[str]:
        return self._stack.enter_context((self.folder / name).open("w"))

    def err(self, number: int) -> str:
        return (self.folder / f"err{number}").read_text()

    def wait(self, number: int, seconds: float) -> Ended:
        try:
            code = self.processes[number].wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"process {number} has not ended after {seconds:.0f} s: {self.err(number)}")
        return Ended(code, (self.folder / f"said{number}").read_text(), self.err(number))

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
        self._stack.close()


def free_port() -> int:
    """Returns a port below those that the system gives away, which might be gone before process 0 has started."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def run(commands: Sequence[Sequence[str]], folder: Path, seconds: float = 120) -> list[Ended]:
    """Returns how each process ended, which is well."""
    with Running(commands, folder) as running:
        ended = [running.wait(number, seconds) for number in range(len(commands))]
    assert {one.code for one in ended} == {0}, "\n".join(f"process {i}: {one}" for i, one in enumerate(ended))
    return ended
