"""What can happen to a file."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def flip_bit(file: Path, draw: random.Random) -> None:
    """Flips one bit."""
    held = bytearray(file.read_bytes())
    held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
    file.write_bytes(held)


def truncate(file: Path, draw: random.Random) -> None:
    """Leaves the first bytes only."""
    os.truncate(file, draw.randrange(file.stat().st_size))


def empty(file: Path, draw: random.Random) -> None:
    """Leaves nothing in it."""
    file.write_bytes(b"")


def remove(file: Path, draw: random.Random) -> None:
    """Removes it."""
    file.unlink()


def make_folder(file: Path, draw: random.Random) -> None:
    """Puts a folder in its place."""
    file.unlink()
    file.mkdir()


def dangling_link(file: Path, draw: random.Random) -> None:
    """Puts a link in its place that leads nowhere."""
    file.unlink()
    file.symlink_to("nowhere")


def endless_link(file: Path, draw: random.Random) -> None:
    """Puts a link in its place that leads to itself."""
    file.unlink()
    file.symlink_to(file.name)


def random_bytes(file: Path, draw: random.Random) -> None:
    """Replaces it by as many random bytes."""
    file.write_bytes(draw.randbytes(file.stat().st_size))


def zeros(file: Path, draw: random.Random) -> None:
    """Overwrites a part of it by zeros, as a crash of a file system does."""
    held = bytearray(file.read_bytes())
    start = draw.randrange(len(held))
    length = min(len(held) - start, draw.randrange(1, 600))
    held[start : start + length] = bytes(length)
    file.write_bytes(held)


def more(file: Path, draw: random.Random) -> None:
    """Appends random bytes."""
    file.write_bytes(file.read_bytes() + draw.randbytes(draw.randrange(1, 40)))


def twice(file: Path, draw: random.Random) -> None:
    """Repeats its content."""
    file.write_bytes(file.read_bytes() * 2)


def swap(file: Path, draw: random.Random) -> None:
    """Replaces it by another file of the same folder, of any kind, or by that of the same name in a folder beside."""
    others = sorted({*file.parent.iterdir(), *file.parent.parent.glob(f"*/{file.name}")} - {file})
    others = [path for path in others if path.is_file()]
    shutil.copy(draw.choice(others), file) if others else empty(file, draw)


DAMAGES: tuple[Damage, ...] = (
    flip_bit, flip_bit, truncate, empty, remove, make_folder, dangling_link, endless_link, random_bytes, zeros, more,
    twice, swap,
)  # fmt: skip
