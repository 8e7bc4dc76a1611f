"""How commands end: by Ctrl-C, wherever it falls, and where what they say cannot be written."""

import importlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import pytest

from flax_impl.commands.backends import run_command
from flax_impl.commands.main import main


def press() -> int:
    signal.raise_signal(signal.SIGINT)
    return 0


def turned_into_another_error() -> int:
    try:
        return press()
    except KeyboardInterrupt as error:
        raise ValueError("Invalid bounding box") from error


class Callback:
    """Is pressed in a place whose exceptions Python drops."""

    def __del__(self) -> None:
        press()


def dropped() -> int:
    made = Callback()
    del made
    for _ in range(1000):
        time.sleep(0.01)
    return 0


@pytest.mark.parametrize("command", [press, turned_into_another_error, dropped])
def test_it_ends_the_command(command: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert run_command(command) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_it_may_fall_into_the_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_other_errors_are_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> NoReturn:
        raise OSError(28, "No space left on device")


def test_an_error_that_nobody_can_hear_keeps_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise ValueError("x")

    monkeypatch.setattr(sys, "stderr", Full())
    assert run_command(fail) == 2


def test_output_that_cannot_be_written_is_an_error() -> None:
    """In one line, also where Python keeps what is printed until it ends."""
    command = [sys.executable, "-c", "import sys; from flax_impl.commands.main import main; sys.exit(main())", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device\n")
