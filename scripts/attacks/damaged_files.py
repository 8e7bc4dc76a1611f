"""Files that are damaged: those that the package writes itself, where it notices all, and tables, where it cannot."""

import shutil
from pathlib import Path

from attacks.commands import CONVERSIONS, READERS, SINGLES, Command
from attacks.damage import DAMAGES, dangling_link, endless_link, make_folder, random_bytes, remove
from attacks.kills import put_old
from attacks.lab import Lab, digests_of
from attacks.record import Record

_TABLES = (".csv", ".parquet", ".npz", ".py")
_NEVER_A_TABLE = (remove, make_folder, dangling_link, endless_link, random_bytes)


def damaged_files(lab: Lab) -> Record:
    """Flipped bits, cuts, zeros, folders, dangling links and other files in place of one of our own."""
    commands = [command for command in CONVERSIONS if ".safetensors" in command.reads]
    return _damage(lab, lab.next_of("damaged files", commands), own=True)


def damaged_tables(lab: Lab) -> Record:
    """The same of .csv, .parquet and .npz: what cannot be noticed may pass, in numbers that are finite."""
    return _damage(lab, lab.next_of("damaged tables", [*READERS, *CONVERSIONS[:2]]), own=False)


def _damage(lab: Lab, command: Command, own: bool) -> Record:
    record = Record()
    for name in [name for name in command.reads.split() if (Path(name).suffix not in _TABLES) == own]:
        for _ in lab.blows(5, 3):
            damage = lab.random.choice(DAMAGES)
            what = f"{command.name}, {name}, {damage.__name__}"
            with lab.new() as folder:
                whole = (folder / name).read_bytes()
                damage(folder / name, lab.random)
                if (folder / name).is_file() and (folder / name).read_bytes() == whole:
                    continue
                put_old(command, folder)
                before = digests_of(command, folder)
                record.tried += 1
                ended = lab.run(command, folder)
                record.judge(ended, what, (2,) if own or damage in _NEVER_A_TABLE else (0, 1, 2))
                if ended.code and digests_of(command, folder) != before:
                    record.bad("lost", f"{what}: it failed and changed {command.writes}")
                check_effects(record, folder, what)
    return record


def check_effects(record: Record, folder: Path, what: str) -> None:
    """Counts effects that are no finite numbers."""
    for path in (*folder.rglob("effects.csv"), *folder.glob("told.csv")):
        if "nan" in path.read_text() or "inf" in path.read_text():
            record.bad("wrong", f"{what}: effects that are no finite numbers")


def damaged_checkpoints(lab: Lab) -> Record:
    """The same of files in the last checkpoint, or in all: the one before it is taken, or none, with one error."""
    record, command = Record(), lab.next_of("damaged checkpoints", SINGLES)
    with lab.new() as stopped:
        lab.run(command, stopped)
        last, *before = sorted((stopped / command.checkpoints).glob("step-*"), reverse=True)
        shutil.rmtree(last)
        shutil.rmtree(stopped / "out")
        for _ in lab.blows(5, 3):
            damage, of_all = lab.random.choice(DAMAGES), lab.random.random() < 0.3
            name = lab.random.choice(["state.safetensors", "manifest.json"])
            what = f"{command.name}, {name} of {'all' if of_all else 'the last'}, {damage.__name__}"
            with lab.new(stopped) as folder:
                for path in before if of_all else before[:1]:
                    damage(folder / command.checkpoints / path.name / name, lab.random)
                record.tried += 1
                ended = lab.run(command, folder)
                if not record.judge(ended, what, (2,) if of_all else (0,)) or of_all:
                    continue
                if digests_of(command, folder) != lab.whole(command).digests:
                    record.bad("wrong", f"{what}: other files than those of whole checkpoints")
                if before[0].name not in ended.err:
                    record.bad("wrong", f"{what}: nobody was told")
    return record
