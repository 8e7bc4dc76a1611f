"""Signals at random moments: kill -9, SIGTERM and Ctrl-C."""

import os
import signal
import time
from pathlib import Path

from attacks.commands import CONVERSIONS, TRAININGS, Command
from attacks.lab import Lab, digests_of, last_good
from attacks.processes import Running
from attacks.record import Record

_OLD = b"an old file\n"


def kill_9_in_training(lab: Lab) -> Record:
    """Sends SIGKILL at random moments of a training with checkpoints, which then goes on to its end."""
    return _interrupt_trainings(lab, signal.SIGKILL, (-signal.SIGKILL,))


def sigterm_in_training(lab: Lab) -> Record:
    """Sends SIGTERM at random moments of a training with checkpoints, which then goes on to its end."""
    return _interrupt_trainings(lab, signal.SIGTERM, (-signal.SIGTERM,))


def ctrl_c_in_training(lab: Lab) -> Record:
    """Presses Ctrl-C at random moments of a training with checkpoints, which then goes on to its end."""
    return _interrupt_trainings(lab, signal.SIGINT, ())


def kill_9_in_writing(lab: Lab) -> Record:
    """Sends SIGKILL at random moments of predict, export, parity, over an old file."""
    return _interrupt_conversions(lab, signal.SIGKILL)


def ctrl_c_in_writing(lab: Lab) -> Record:
    """Presses Ctrl-C at random moments of predict, export, parity, over an old file."""
    return _interrupt_conversions(lab, signal.SIGINT)


def _interrupt_trainings(lab: Lab, number: signal.Signals, more: tuple[int, ...]) -> Record:
    record, command = Record(), lab.next_of(number.name, TRAININGS)
    seconds = lab.whole(command).seconds
    with lab.new() as folder:
        put_old(command, folder)
        for i in lab.blows(5, 2):
            what = f"{command.name}, {number.name} {i + 1}"
            before = last_good(folder / command.checkpoints)
            running = Running(command.line.split(), folder, fresh=_fresh(lab))
            _strike(lab, running, folder, seconds, number)
            record.tried += 1
            record.judge(running.wait(), what, (0, 130, *more))
            after = last_good(folder / command.checkpoints)
            if after < before:
                record.bad("lost", f"{what}: the last good checkpoint was of step {before}, and is of {after}")
            check_old_or_new(record, lab, command, folder, what)
        finish(record, lab, command, folder, f"{command.name}, after {number.name}")
    return record


def _interrupt_conversions(lab: Lab, number: signal.Signals) -> Record:
    record, command = Record(), lab.next_of(f"{number.name}, writing", CONVERSIONS)
    what = f"{command.name}, {number.name}"
    for _ in lab.blows(4, 2):
        with lab.new() as folder:
            put_old(command, folder)
            running = Running(command.line.split(), folder, fresh=_fresh(lab))
            _strike(lab, running, folder, lab.whole(command).seconds, number)
            record.tried += 1
            record.judge(running.wait(), what, (0, -number) if number == signal.SIGKILL else (0, 130))
            check_old_or_new(record, lab, command, folder, what)
    return record


def check_old_or_new(record: Record, lab: Lab, command: Command, folder: Path, what: str) -> None:
    """Counts what a command writes that is neither the old file nor the new one."""
    new = lab.whole(command).digests
    for name, found in digests_of(command, folder).items():
        if found != new[name] and (folder / name).is_file() and (folder / name).read_bytes() == _OLD:
            continue
        if found != new[name]:
            record.bad("lost", f"{what}: {name} is neither the old file nor the new one")


def finish(record: Record, lab: Lab, command: Command, folder: Path, what: str) -> None:
    """Lets a training go on to its end, and counts files that are not those of one that nobody interrupted."""
    ended = lab.run(command, folder)
    if record.judge(ended, f"{what}: going on", (0,)) and digests_of(command, folder) != lab.whole(command).digests:
        record.bad("wrong", f"{what}: other files than those of a training that nobody interrupted")


def put_old(command: Command, folder: Path) -> None:
    """Puts an old file in each place that a command writes to."""
    for name in command.writes.split():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(_OLD)


def _fresh(lab: Lab) -> bool:
    """Whether to start Python anew: imports are struck as well, but each takes seconds."""
    return lab.random.random() < 0.2


def _strike(lab: Lab, running: Running, folder: Path, seconds: float, number: signal.Signals) -> None:
    """Sends a signal at a random moment, or while a file is being written."""
    if lab.random.random() < 0.5:
        time.sleep(lab.random.uniform(0, seconds))
    else:
        until, skipped = time.monotonic() + seconds, lab.random.randrange(4)
        while running.runs() and time.monotonic() < until:
            if _writes(folder):
                skipped -= 1
                if skipped < 0:
                    break
                time.sleep(lab.random.uniform(0, seconds / 4))
        time.sleep(lab.random.uniform(0, 0.004))
    running.send(number)


def _writes(folder: Path) -> bool:
    """Whether a file that is not yet in its place lies somewhere in a folder."""
    folders = [folder, *(folder / name for name in ("out", "kept") if (folder / name).is_dir())]
    return any(entry.startswith(".") for of in folders for entry in os.listdir(of))
