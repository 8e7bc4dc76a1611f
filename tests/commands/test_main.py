"""The console command `twohead`."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from flax_impl.commands import export, ihdp, parity, predict, train
from flax_impl.commands.main import COMMANDS, main
from tests.support.commands import SCRIPTS, call


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"twohead {importlib.metadata.version('twohead')}\n"


def test_help_fits_a_screen_and_has_an_example_of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for command in COMMANDS:
        assert any(line.startswith(f"  twohead {command} ") for line in lines)


@pytest.mark.parametrize("command", [train, predict, export, parity, ihdp])
def test_the_help_of_a_command_fits_a_screen(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(command.main, "--help", folder=tmp_path) == 0  # pyright: ignore[reportAttributeAccessIssue]
    assert len(capsys.readouterr().out.splitlines()) <= 24


def test_train_lists_all_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train.main, "--help-all", folder=tmp_path) == 0
    assert "--eta-min" in capsys.readouterr().out


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: twohead COMMAND")


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    expected = "error: expected one of train, predict, export, parity, ihdp, got nonsense; see twohead --help\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [command, "--nonsense", *{"predict": ["--data", "a"], "ihdp": ["."]}.get(command, [])]
    assert call(main, *given, folder=tmp_path) == 2
    expected = f"error: unrecognized arguments: --nonsense; twohead {command} --help lists the options\n"
    assert capsys.readouterr() == ("", expected)


def test_each_script_is_its_command() -> None:
    modules = {"train": train, "predict": predict, "export": export, "parity": parity, "ihdp": ihdp}
    for command, module in modules.items():
        assert module.__name__ == f"flax_impl.commands.{command}"
        assert f"flax_impl.commands.{command} import main" in (SCRIPTS / f"{command}.py").read_text() or (
            "from flax_impl.commands import parity" in (SCRIPTS / f"{command}.py").read_text()
        )


def test_the_wheel_alone_trains_in_an_empty_folder(tmp_path: Path) -> None:
    """Its content, without the clone and without JAX."""
    root, work = SCRIPTS.parent, tmp_path / "work"
    work.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    entry = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["twohead"]
    module, _, function = entry.partition(":")
    (tmp_path / "installed" / "jax.py").write_text("raise ImportError('No module named jax')\n")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    given = ["train", "--model", "two-in-two-out", "--backend", "torch", "--steps", "3"]
    done = subprocess.run(
        [sys.executable, "-c", program, *given],
        cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (work / "out" / "train" / "model.safetensors").is_file()
