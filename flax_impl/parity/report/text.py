"""A comparison as text for a terminal: a line for each pair, and more only where one diverges."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from .entries import Entry, Report

_WIDTH = 100
_FIRST = 5
_HEAD = ("model", "dtype", "optimizer", "steps", "largest error", "bound", "")


def text_table(reports: Sequence[Report]) -> str:
    """Returns an aligned line for each report, and below them what is known of those that diverge.

    Args:
        reports: of any pairs of trainings.

    Returns:
        The text, without a line break at its end.

    Example:
        >>> entry = Entry(step=0, phase="loss", name="y", error=0.0, bound=1e-12)
        >>> print(text_table([Report("Line", "float64", "SGD", steps=1, calls=(), entries=(entry,))]))
        model  dtype    optimizer  steps  largest error  bound
        Line   float64  SGD            1              0  1e-12  agrees
    """
    lines = _aligned([_HEAD, *map(_line, reports)], right=(3, 4, 5))
    for report in reports:
        if not report.passed:
            lines += ["", *_block(report)]
    return "\n".join(lines)


def out_of_bounds(report: Report) -> list[Entry]:
    """Returns what counts and is out of bounds: the first divergence, then the others in the report's order."""
    first = report.first_divergence
    others = [entry for entry in report.free if not entry.passed] if first is not None and first.free else []
    others += [entry for entry in report.entries if not entry.passed]
    return others if first is None else [first.entry, *(entry for entry in others if entry != first.entry)]


def worst_entry(entries: Iterable[Entry]) -> Entry | None:
    """Returns the entry with the largest error for its bound; one that counts before any that does not."""
    return max(entries, key=lambda entry: (not entry.passed, entry.counts, ratio(entry)), default=None)


def largest_entry(report: Report) -> Entry | None:
    """Returns the entry that `Report.max_scaled_error` is of."""
    entries = [entry for entry in report.entries if entry.counts]
    return max(entries, key=lambda entry: math.inf if math.isnan(entry.error) else entry.error, default=None)


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


def title(report: Report) -> str:
    """Returns which pair a report is of."""
    return plain(f"{report.model}, {report.dtype}, {report.optimizer}, {counted(report.steps, 'step', 'steps')}")


def plain(text: str) -> str:
    """Returns text in which no character steers a terminal or turns the direction of reading."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _line(report: Report) -> tuple[str, ...]:
    entry = largest_entry(report)
    error, bound = ("-", "-") if entry is None else (number(entry.error), number(entry.bound))
    outcome = "agrees" if report.passed else "diverges"
    return (
        _short(report.model, 30), report.dtype, _short(report.optimizer, 16), str(report.steps), error, bound, outcome
    )  # fmt: skip


def _block(report: Report) -> list[str]:
    first = report.first_divergence
    assert first is not None
    wrong = out_of_bounds(report)
    head = ("step", "phase", "entry", "error", "bound", "worst at", "outside")
    rows = [
        (
            str(entry.step),
            entry.phase,
            _short(entry.name, 36),
            number(entry.error),
            number(entry.bound),
            str(list(entry.worst)) if entry.worst else "",
            _short(entry.note, 20) or f"{entry.outside} of {entry.size}",
        )
        for entry in wrong[:_FIRST]
    ]
    lines = _wrapped(title(report), "")
    lines += _wrapped(f"first divergence at {first}", "  ")
    lines += _wrapped(
        f"{first.entry.phase} `{first.entry.name}`: {plain(first.entry.note) or described(first.entry)}", "  "
    )
    lines += ["", *(f"  {_short(line, _WIDTH - 2)}" for line in _aligned([head, *rows], right=(0, 3, 4)))]
    if len(wrong) > _FIRST:
        lines.append(f"  and {len(wrong) - _FIRST} more out of bounds")
    lines += ["", "  diagnosis:"]
    for finding in report.diagnosis:
        lines += _wrapped(str(finding), "  - ")
    return lines if report.diagnosis else [*lines[:-1], "  diagnosis: no known difference explains it"]


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{'>' if i in right else '<'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(plain(text), _WIDTH, initial_indent=start, subsequent_indent=" " * max(len(start), 2))


def _short(text: str, width: int) -> str:
    """Returns the text, its middle left out where it is too long: both ends of a name tell most."""
    text = plain(text)
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - half]}…{text[-half:]}"
