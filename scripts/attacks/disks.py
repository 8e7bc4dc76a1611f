"""Disks that are full and folders that nobody may write to."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from attacks.commands import CONVERSIONS, TRAININGS, Command
from attacks.kills import check_old_or_new, finish, put_old
from attacks.lab import Lab, last_good, mounted, remount
from attacks.record import Record


def full_disk(lab: Lab) -> Record:
    """A disk of a few kilobytes that is full at some moment; then there is room, and a training goes on."""
    record, command = Record(skipped=lab.mounts), lab.next_of("full disk", (*TRAININGS, *CONVERSIONS))
    for _ in lab.blows(2, 1) if not lab.mounts else ():
        size = int(2 ** lab.random.uniform(12, 19))
        what = f"{command.name}, a disk of {size} bytes"
        with lab.new() as folder, mounted(folder, "-t", "tmpfs", "-o", "size=100m", "tmpfs"):
            shutil.copytree(lab.good, folder, dirs_exist_ok=True)
            put_old(command, folder)
            remount(folder, f"size={sum(path.stat().st_blocks * 512 for path in folder.rglob('*')) + size}")
            _strike(record, lab, command, folder, what)
            remount(folder, "size=100m")
            finish(record, lab, command, folder, f"{what}, then of more")
    return record


def largest_file(lab: Lab) -> Record:
    """A limit on the size of files that one of those to be written does not keep; then there is none."""
    record, command = Record(), lab.next_of("largest file", (*TRAININGS, *CONVERSIONS))
    for _ in lab.blows(2, 1):
        size = int(2 ** lab.random.uniform(12, 19))
        what = f"{command.name}, files of at most {size} bytes"
        with lab.new() as folder:
            put_old(command, folder)
            _strike(record, lab, command, folder, what, lambda size=size: _limit(size))
            finish(record, lab, command, folder, f"{what}, then of any size")
    return record


def read_only_folder(lab: Lab) -> Record:
    """A folder that is mounted read-only, for outputs, for checkpoints, or for both."""
    record, command = Record(skipped=lab.mounts), lab.next_of("read-only", (*TRAININGS, *CONVERSIONS))
    places = [".", "out", "kept"] if command.checkpoints else ["."]
    for place in [lab.random.choice(places)] if not lab.mounts else ():
        what = f"{command.name}, {place} read-only"
        with lab.new() as folder:
            put_old(command, folder)
            (folder / place).mkdir(exist_ok=True)
            with mounted(folder / place, "--bind", str(folder / place)):
                remount(folder / place, "bind,ro")
                record.tried += 1
                record.judge(lab.run(command, folder), what, (2,))
            check_old_or_new(record, lab, command, folder, what)
            finish(record, lab, command, folder, f"{what}, then not")
    return record


def full_output(lab: Lab) -> Record:
    """A full disk, or a pipe that nobody reads, where standard output and errors go."""
    record = Record()
    command = lab.next_of("full output", (*CONVERSIONS, Command("no file", "predict --data none.csv")))
    fails = not command.writes
    for broken in (False, True):
        for places in ((1,), (2,), (1, 2)):
            with lab.new() as folder:
                put_old(command, folder)
                what = f"{command.name}, {'a broken pipe' if broken else 'a full disk'} at {places}"
                record.tried += 1
                ended = lab.run(command, folder, lambda places=places, broken=broken: _full(places, broken))
                right = (2,) if fails else (0,) if places == (2,) else (0, 2)
                record.judge(ended._replace(err=f"error: {ended.err}") if 2 in places else ended, what, right)
                if not fails:
                    check_old_or_new(record, lab, command, folder, what)
    return record


def _full(places: tuple[int, ...], broken: bool) -> None:
    """Puts something that cannot be written to in place of standard output and errors, in a fork."""
    if broken:
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open("/dev/full", os.O_WRONLY)
    for place in places:
        os.dup2(write, place)


def _limit(size: int) -> None:
    """Limits the size of files in a fork."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _strike(
    record: Record, lab: Lab, command: Command, folder: Path, what: str, before: Callable[[], None] | None = None
) -> None:
    """Runs a command that may fail in one line, and counts what is lost."""
    good = last_good(folder / command.checkpoints)
    record.tried += 1
    record.judge(lab.run(command, folder, before), what, (0, 2))
    check_old_or_new(record, lab, command, folder, what)
    if last_good(folder / command.checkpoints) < good:
        record.bad("lost", f"{what}: the last good checkpoint was of step {good}")
    if left := [path.name for path in folder.rglob(".*") if path.is_file()]:
        record.bad("wrong", f"{what}: left {left}")
