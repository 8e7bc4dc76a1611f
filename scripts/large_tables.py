"""Trains on a folder of Parquet files that is larger than the memory allowed, and compares the speed with memory's.

A seeded folder of `--gigabytes` is made, and deleted at the end. One epoch over it runs in a process that may hold
`--memory` gigabytes of address space (RLIMIT_AS), and whose memory is sampled. Beside it, a part that fits memory is
trained on in both ways, in turns. Prints a table and writes docs/benchmark/large_tables.txt.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_impl.commands.sides import SIDES
from torch_ref.common.files.array_file import replacing
from torch_ref.data import ParquetTable

OUT = Path(__file__).parents[1] / "docs" / "benchmark" / "large_tables.txt"
FEATURES, GROUP, GROUPS = 25, 100_000, 10  # columns; rows in a group; groups in a file
NET = {"in_features": FEATURES, "representation_features": [200] * 3, "head_features": [100] * 2}
GIGABYTE = 10**9


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the folder, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gigabytes", type=float, default=20, help="size of the folder (default: 20)")
    add("--memory", type=float, default=4, help="gigabytes that the training may hold (default: 4)")
    add("--batch-size", type=int, default=1000, help="rows in a batch (default: 1000)")
    add("--steps", type=int, help="steps on the whole folder (default: an epoch)")
    add("--part", type=int, default=400_000, help="rows of the part that fits memory (default: 400000)")
    add("--rounds", type=int, default=5, help="turns on that part (default: 5)")
    add("--backends", nargs="+", choices=list(SIDES), default=["flax"], help="that train on the folder (default: flax)")
    add("--note", default="", help="what is worth knowing of the machine; goes into the file")
    add("--folder", type=Path, help="where the files go (default: a temporary folder)")
    add("--train", choices=list(SIDES), help="train in this process, on --folder, and print it as JSON")
    arguments = parser.parse_args(argv)
    if arguments.train:
        print(json.dumps(train(arguments)))
        return 0
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        made = make(folder / "rows", arguments.gigabytes)
        make(folder / "part", rows=arguments.part)
        text = table(arguments, made, folder)
    finally:
        shutil.rmtree(folder)
    print(text)
    with replacing(OUT) as path:
        path.write_text(text + "\n")
    return 0


def make(folder: Path, gigabytes: float = 0.0, rows: int = 0) -> tuple[int, int]:
    """Writes a folder of about so many gigabytes, or of so many rows; returns its rows and bytes.

    Args:
        folder: where the files go.
        gigabytes: of the files together.
        rows: of the files together, where no size is given.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    folder.mkdir(parents=True)
    done = size = 0
    while size < gigabytes * GIGABYTE or done < rows:
        draw = np.random.default_rng([0, done])
        count = GROUP * GROUPS if not rows else min(rows - done, GROUP * GROUPS)
        x = draw.standard_normal((FEATURES, count), np.float32)
        t = draw.integers(0, 2, count, np.int8)
        y = x[0] + t * x[1] + draw.standard_normal(count, np.float32)
        path = folder / f"part-{done:012d}.parquet"
        columns = {f"x{i}": column for i, column in enumerate(x)} | {"t": t, "y": y}
        write_table(pyarrow.table(columns), path, row_group_size=GROUP)
        done, size = done + count, size + path.stat().st_size
    return done, size


def opened(folder: Path) -> ParquetTable:
    """Returns the table of a folder."""
    return ParquetTable(folder, {"x": [f"x{i}" for i in range(FEATURES)], "t": "t", "y": "y"})


def train(arguments: argparse.Namespace) -> dict[str, float]:
    """Trains on the folder, in the memory allowed; returns steps, seconds and rows."""
    limit = int(arguments.memory * GIGABYTE)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    data: Any = opened(arguments.folder)
    length: dict[str, int] = {"epochs": 1} if arguments.steps is None else {"steps": arguments.steps}
    side = SIDES[arguments.train]("TwoHead", NET, seed=0)
    started = time.perf_counter()
    losses = side.fit(data, batch_size=arguments.batch_size, progress=False, **length)
    seconds = time.perf_counter() - started
    rows = min(len(data), len(losses) * arguments.batch_size)
    return {"steps": len(losses), "seconds": seconds, "rows": rows, "loss": float(losses[-100:].sum(1).mean())}


def in_little_memory(backend: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains in a process of its own, and samples the memory that it holds (Linux).

    Args:
        backend: flax or torch.
        folder: of the files.
        arguments: of the command.

    Raises:
        RuntimeError: the process failed, as where memory does not suffice.
    """
    command = [sys.executable, __file__, "--train", backend, "--folder", str(folder)]
    command += ["--memory", str(arguments.memory), "--batch-size", str(arguments.batch_size)]
    command += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    held: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.25):
            held.append(_resident(process.pid))

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    out, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{backend}: the training ended with {process.returncode}")
    quarter = max(1, len(held) // 4)
    found = json.loads(out.splitlines()[-1])
    return found | {"peak": max(held), "before": max(held[quarter : 2 * quarter]), "after": max(held[-quarter:])}


def compare(backend: str, folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Returns rows per second on a part that fits memory, in memory and streamed, round by round.

    Args:
        backend: flax or torch.
        folder: of the part.
        arguments: of the command.
    """
    data = opened(folder)
    arrays = data.arrays("float32")
    side = SIDES[backend]("TwoHead", NET, seed=0)
    ways: dict[str, Any] = {"memory": arrays, "files": data}
    for way in ways.values():  # compiles
        side.fit(way, batch_size=arguments.batch_size, steps=20, progress=False)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds):
        for name in [*ways][:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            side.fit(ways[name], batch_size=arguments.batch_size, epochs=1, progress=False)
            rates[name].append(len(data) / (time.perf_counter() - started))
    return rates


def table(arguments: argparse.Namespace, made: tuple[int, int], folder: Path) -> str:
    """Measures all, and returns the table.

    Args:
        arguments: of the command.
        made: rows and bytes of the folder.
        folder: with the folders `rows` and `part`.
    """
    rows, size = made
    lines = [
        f"{size / GIGABYTE:.1f} GB of Parquet, {rows} rows of {FEATURES + 2} columns in groups of {GROUP}; TwoHead "
        f"3x200, 2x100+1, batch {arguments.batch_size}, float32",
        f"address space limited to {arguments.memory:g} GB; {os.cpu_count()} cores"
        + (f"; {arguments.note}" if arguments.note else ""),
        "",
        f"{'':8}{'rows/s':>10}{'steps':>9}{'seconds':>9}{'peak GB':>9}{'GB early':>10}{'GB late':>9}",
    ]
    for backend in arguments.backends:
        found = in_little_memory(backend, folder / "rows", arguments)
        memory = [found[name] / GIGABYTE for name in ("peak", "before", "after")]
        rate = found["rows"] / found["seconds"]
        lines.append(
            f"{backend:8}{rate:10.0f}{found['steps']:9}{found['seconds']:9.0f}{memory[0]:9.2f}{memory[1]:10.2f}"
            f"{memory[2]:9.2f}"
        )
    lines += [
        "",
        f"{arguments.part} rows, which fit memory: rows/s, median of {arguments.rounds} turns",
        f"{'':8}{'memory':>10}{'files':>9}{'share':>9}{'range':>16}",
    ]
    for backend in SIDES:
        rates = compare(backend, folder / "part", arguments)
        in_memory, files = (statistics.median(rates[name]) for name in ("memory", "files"))
        shares = [one / other for one, other in zip(rates["files"], rates["memory"], strict=True)]
        between = f"{min(shares):.0%} to {max(shares):.0%}"
        lines.append(f"{backend:8}{in_memory:10.0f}{files:9.0f}{files / in_memory:9.0%}{between:>16}")
    return "\n".join(lines)


def _resident(pid: int) -> int:
    """Returns the bytes that a process holds in memory, or 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
