"""Attacks the commands for minutes: kills, full disks, damaged files, dirty tables; and counts what they do wrong.

Exits with 0 where nothing was lost or wrong and every process ended in time without a traceback, 1 otherwise, 2 for
unusable arguments.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from attacks import clocks, damaged_files, dirty_tables, disks, flips, kills, peers, shared_folders  # noqa: E402
from attacks.lab import Lab  # noqa: E402
from attacks.processes import preload  # noqa: E402
from attacks.record import COUNTS, Record  # noqa: E402
from flax_impl.commands.backends import Parser, run_command  # noqa: E402
from torch_ref.common.files.array_file import replacing  # noqa: E402

ATTACKS: tuple[Callable[[Lab], Record], ...] = (
    kills.kill_9_in_training,
    kills.sigterm_in_training,
    kills.ctrl_c_in_training,
    kills.kill_9_in_writing,
    kills.ctrl_c_in_writing,
    disks.full_disk,
    disks.largest_file,
    disks.read_only_folder,
    disks.full_output,
    shared_folders.trainings_in_one_folder,
    shared_folders.writers_of_one_file,
    clocks.jumping_clocks,
    peers.peer_killed,
    peers.pair_killed,
    damaged_files.damaged_files,
    damaged_files.damaged_checkpoints,
    damaged_files.damaged_tables,
    flips.flipped_bits,
    dirty_tables.dirty_csv,
    dirty_tables.dirty_parquet,
    dirty_tables.dirty_npz,
    dirty_tables.dirty_curves,
)


class Spent(NamedTuple):
    """What an attack found, and how long it took."""

    record: Record
    seconds: float


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser("torture", __doc__)
    add = parser.add_argument
    names = [name_of(attack) for attack in ATTACKS]
    add("--minutes", type=float, default=20, help="after which no new round begins (default: 20)")
    add("--seed", type=int, default=0, help="of all choices (default: 0)")
    add("--short", action="store_true", help="a few blows of each attack, whatever the time")
    add("--only", nargs="+", choices=names, metavar="NAME", default=names, help=f"of {', '.join(names)}")
    add("--out", type=Path, metavar="FILE", help="where to write the table")
    return parser.parse_args(arguments)


def name_of(attack: Callable[[Lab], Record]) -> str:
    """Returns the name of an attack."""
    return attack.__name__.replace("_", "-")


def attack_all(lab: Lab, names: Sequence[str], minutes: float) -> dict[str, Record]:
    """Attacks, in rounds: the attack that has had the least time comes next."""
    found = {name_of(attack): Record() for attack in ATTACKS if name_of(attack) in names}
    spent = dict.fromkeys(found, 0.0)
    attacks = {name_of(attack): attack for attack in ATTACKS}
    until = time.monotonic() + 60 * minutes
    while True:
        name = min(spent, key=lambda name: spent[name])
        if spent[name] and (lab.short or time.monotonic() > until):
            return found
        start = time.monotonic()
        made = attacks[name](lab)
        found[name].add(made)
        spent[name] += time.monotonic() - start if not made.skipped else float("inf")
        for note in made.notes:
            print(f"{name}: {note}", file=sys.stderr, flush=True)


def table(found: dict[str, Record]) -> str:
    """Returns the counts of the attacks as text."""
    width = max(map(len, found))
    lines = [f"{'attack':<{width}}" + "".join(f"{name:>12}" for name in COUNTS)]
    for name, record in found.items():
        counts = "".join(f"{getattr(record, count):>12}" for count in COUNTS)
        lines.append(f"{name:<{width}}{counts}" + (f"  skipped: {record.skipped}" if record.skipped else ""))
    about = [f"{name_of(attack):<{width}}  {attack.__doc__}" for attack in ATTACKS if name_of(attack) in found]
    return "\n".join([*lines, "", *about])


def run(args: argparse.Namespace) -> int:
    """Attacks, prints the table and writes it; returns the exit code."""
    if not args.minutes > 0:
        raise ValueError(f"--minutes: expected a number above 0, got {args.minutes}")
    preload()
    with TemporaryDirectory(prefix="torture-") as folder:
        found = attack_all(Lab(Path(folder), args.seed, args.short), args.only, args.minutes)
    blows = "a few blows of each" if args.short else f"{args.minutes:g} minutes"
    text = f"{table(found)}\n\n{blows}, seed {args.seed}"
    print(text)
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text(text + "\n")
    return int(not all(record.passed for record in found.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Attacks; returns 0 where nothing bad was found, 1 otherwise, 2 for unusable arguments."""
    args = parse(arguments)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
