"""Where attacks take place: folders with whole files, and what each command makes of them when nobody attacks."""

import hashlib
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL, get_errno
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from attacks.commands import Command
from attacks.material import write_tables
from attacks.processes import Ended, Running
from torch_ref.common.files.checkpoint_folder import checkpoints_in, read_checkpoint

_MODEL = "train --backend torch --data table.csv --ignore row --head-features 4 --steps 9 --out made"
_TRACE = "parity --record trace.safetensors --model two-head --steps 2"
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


class Whole(NamedTuple):
    """What a command makes of whole files.

    Args:
        digests: the sha256 of each file that it writes.
        seconds: how long it takes.
    """

    digests: dict[str, str]
    seconds: float


class Lab:
    """Makes folders, and runs commands in them.

    Args:
        folder: everything happens in it.
        seed: of all choices.
        short: a few blows of each attack only.

    Attributes:
        random: draws all choices.
        tables: a folder with tables.
        pairs: what two processes make together, by backend: the sha256 of the model, and the seconds.
        mounts: why this machine lets nobody mount a file system, or empty where it does.
    """

    def __init__(self, folder: Path, seed: int, short: bool) -> None:
        self.folder, self.random, self.short = folder, random.Random(seed), short
        self.mounts = _own_mounts()
        self.pairs: dict[str, tuple[str, float]] = {}
        self._made = 0
        self._turns: dict[str, int] = {}
        self._whole: dict[Command, Whole] = {}
        self.tables = folder / "tables"
        self.tables.mkdir()
        write_tables(self.tables)

    @cached_property
    def good(self) -> Path:
        """A folder with the tables, a model and a trace."""
        good = self.folder / "good"
        shutil.copytree(self.tables, good)
        for line in (_MODEL, _TRACE):
            ended = Running(line.split(), good).wait()
            if ended.code:
                raise RuntimeError(f"expected {line} to make the files to attack, got {ended.err}")
        shutil.move(good / "made" / "model.safetensors", good)
        shutil.rmtree(good / "made")
        return good

    def next_of(self, name: str, commands: Sequence[Command]) -> Command:
        """Returns the command whose turn it is in this round of an attack; the seed says whose is the first."""
        turn = self._turns.setdefault(name, self.random.randrange(len(commands)))
        self._turns[name] += 1
        return commands[turn % len(commands)]

    def blows(self, many: int, few: int) -> range:
        """Returns how many blows a round deals."""
        return range(few if self.short else many)

    @contextmanager
    def new(self, source: Path | None = None) -> Iterator[Path]:
        """Yields a new folder with the whole files, or a copy of another, and deletes it."""
        self._made += 1
        folder = self.folder / f"try{self._made}"
        shutil.copytree(source or self.good, folder, symlinks=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def run(self, command: Command, folder: Path, before: Callable[[], None] | None = None) -> Ended:
        """Runs a command to its end."""
        return Running(command.line.split(), folder, before=before).wait()

    def whole(self, command: Command) -> Whole:
        """Returns what a command makes of whole files.

        Raises:
            RuntimeError: it fails.
        """
        if command not in self._whole:
            with self.new() as folder:
                ended, digests = self.run(command, folder), digests_of(command, folder)
            if ended.code or ended.hung or not all(digests.values()):
                raise RuntimeError(f"expected {command.line} to write its files, got {ended.last}, {digests}")
            self._whole[command] = Whole(digests, ended.seconds)
        return self._whole[command]


def digests_of(command: Command, folder: Path) -> dict[str, str]:
    """Returns the sha256 of the files that a command writes; empty for one that is not there."""
    files = {name: folder / name for name in command.writes.split()}
    return {name: digest(path) if path.is_file() else "" for name, path in files.items()}


def digest(path: Path) -> str:
    """Returns the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last_good(folder: Path) -> int:
    """Returns the step of the last checkpoint in a folder that is whole, those of all stages added; 0 without one."""
    stages = {path.parent for path in folder.rglob("step-*")}
    return sum(_last_step(stage) for stage in stages)


def _last_step(stage: Path) -> int:
    for path in checkpoints_in(stage):
        try:
            return read_checkpoint(path).step
        except ValueError:
            continue
    return 0


def _own_mounts() -> str:
    """Gives this process and its children mounts of their own, which are gone when they are; or returns why not."""
    try:
        if CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
            return f"unshare: error {get_errno()}"
        subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        return str(error)
    return ""


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mounts something at a folder, which only this process and its children see."""
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def remount(folder: Path, options: str) -> None:
    """Changes the options of what is mounted at a folder."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)
