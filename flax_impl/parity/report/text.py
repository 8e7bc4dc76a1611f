"""Turns entries and numbers into text for a terminal."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from .entries import Entry

WIDTH = 100


def worst_entry(entries: Iterable[Entry]) -> Entry | None:
    """Returns the entry with the largest error for its bound; one that counts before any that does not."""
    return max(entries, key=lambda entry: (not entry.passed, entry.counts, ratio(entry)), default=None)


def ratio(entry: Entry) -> float:
    """Returns the error as a share of its bound; infinite where there is no such number."""
    if entry.note or math.isnan(entry.error):
        return math.inf
    if entry.error == 0:
        return 0.0
    return entry.error / entry.bound if entry.bound > 0 else math.inf


def described(entry: Entry) -> str:
    """Returns all that is known of an entry's error."""
    parts = [f"error {number(entry.error)}", f"bound {number(entry.bound)}"]
    if entry.worst:
        parts.append(f"worst at {list(entry.worst)}")
    if entry.size:
        parts += [f"{entry.outside} of {entry.size} outside", f"rms {number(entry.rms)}"]
    parts += [entry.note] if entry.note else []
    return plain(", ".join(parts + ([] if entry.counts else ["does not count"])))


def number(value: float, digits: int = 3) -> str:
    """Returns a number in so many digits; NaN and infinity by name."""
    return f"{value:.{digits}g}".replace("nan", "NaN")


def counted(count: int, one: str, many: str) -> str:
    """Returns the count with its noun in the singular or the plural."""
    return f"{count} {one if count == 1 else many}"


def plain(text: str) -> str:
    """Returns text in which no character steers a terminal or turns the direction of reading."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """Returns the rows with their columns aligned, those in `right` to the right."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{'>' if i in right else '<'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def wrapped(text: str, start: str) -> list[str]:
    """Returns the lines of a text, the first after `start`."""
    return textwrap.wrap(plain(text), WIDTH, initial_indent=start, subsequent_indent=" " * max(len(start), 2))


def short(text: str, width: int) -> str:
    """Returns the text, its middle left out where it is too long: both ends of a name tell most."""
    text = plain(text)
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - half]}…{text[-half:]}"
