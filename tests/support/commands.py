"""Runs commands as users run them: in a process of their own, or in this one."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *arguments: str, folder: Path, blocked: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a script in a folder; a framework that is blocked looks as if it were not installed."""
    environment = dict(os.environ)
    if blocked:
        (folder / "blocked").mkdir(exist_ok=True)
        (folder / "blocked" / f"{blocked}.py").write_text("raise ImportError(f'No module named {__name__}')\n")
        environment["PYTHONPATH"] = os.pathsep.join((str(folder / "blocked"), str(SCRIPTS.parent)))
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def call(main: Callable[..., int], *arguments: str, folder: Path) -> int | str | None:
    """Runs a command's `main` in this process, which saves the seconds that a fresh one starts in.

    Returns:
        The exit code, also where the parser ends the process.
    """
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")  # as users have them
        patch.chdir(folder)
        try:
            return main(list(arguments))
        except SystemExit as ended:
            return ended.code


def fails(
    main: Callable[..., int],
    arguments: list[str],
    folder: Path,
    message: str,
    capsys: pytest.CaptureFixture[str],
    code: int = 2,
) -> None:
    """Runs a command in this process, and sees it fail: its last line on stderr is the only error, and no traceback."""
    returned = call(main, *arguments, folder=folder)
    err = capsys.readouterr().err
    assert returned == code, err
    *before, last = err.splitlines()
    assert message in last
    assert last.startswith("error: ")
    assert all(line.startswith(("warning: ", "step ")) for line in before), err
