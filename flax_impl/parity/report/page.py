"""Shows comparisons as one HTML page that needs nothing else: no script, no network."""

import html
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from .entries import GROUPS, Entry
from .frame import framed, verdict_of
from .report import Report, largest_entry, out_of_bounds, title
from .text import counted, described, number, plain, ratio, worst_entry

_ROWS = 100  # a map of more rows has one for each module first, however deep that may be
_DEPTH = 12
_COLUMNS = 100  # a map of more steps has a column for several
_NARROW = 12  # a map of so many steps at most leaves room beside it
_FIRST = 10
_PHASES = list(GROUPS)  # in the order in which they happen
_TREE = {
    "weights": ("param",),
    "forward": ("input", "module_input", "activation", "output", "buffer", "loss"),
    "backward": ("cotangent", "grad"),
    "optimiser": ("state", "update"),
}
_LEGEND = (
    ("e0", "=", "equal in every bit"),
    ("e1", "&minus;5", "below a ten-thousandth of the bound"),
    ("e3", "&minus;3", "below a hundredth of the bound"),
    ("e5", "&minus;1", "within the bound, by less than a factor of ten"),
    ("f1", "+1", "out of bounds, up to ten times the bound"),
    ("f2", "+3", "up to a thousand times the bound"),
    ("f3", "+6", "up to a million times the bound"),
    ("f4", "∞", "beyond; NaN or infinity in other places, an array missing or of another shape"),
    ("n", "(+1)", "shown only: does not count"),
)
_HELP = (
    "An error is the largest difference as a share of the reference's largest value. The number in a cell is the "
    "power of ten by which it lies below (&minus;) or above (+) its bound, rounded away from 0. Point at a cell for "
    "more: the bound, where the error is largest, how many numbers are outside, and the root of the mean squared "
    "difference (rms)."
)


def html_page(reports: Sequence[Report]) -> str:
    """Returns the page for any number of reports: text of one file, in UTF-8.

    Args:
        reports: of any pairs of trainings.

    Returns:
        The page; write it with `Path.write_text(page, encoding="utf-8")`.

    Example:
        >>> entry = Entry(step=0, phase="loss", name="y", error=0.0, bound=1e-12)
        >>> page = html_page([Report("Line", "float64", "SGD", steps=1, calls=(), entries=(entry,))])
        >>> "<h1>The port agrees with its reference</h1>" in page
        True
    """
    sections = [_section(i, report, alone=len(reports) == 1) for i, report in enumerate(reports, 1)]
    overview = [_overview(reports)] if len(reports) > 1 else []
    legend = [_legend()] if reports else []
    return framed(verdict_of([report.passed for report in reports]), [*overview, *sections, *legend])


def _overview(reports: Sequence[Report]) -> str:
    rows = []
    for i, report in enumerate(reports, 1):
        first, entry = report.first_divergence, largest_entry(report)
        rows.append(
            [
                f'<a href="#pair-{i}">{_wrappable(report.model)}</a>',
                _outcome(report),
                _text(report.dtype),
                _wrappable(report.optimizer),
                str(report.steps),
                "&ndash;" if entry is None else number(entry.error),
                "&ndash;" if entry is None else number(entry.bound),
                "" if first is None else _prose(str(first)),
            ]
        )
    head = ["model", "outcome", "dtype", "optimizer", "steps", "largest scaled error", "its bound", "first divergence"]
    width = len(head) - all(report.passed for report in reports)
    table = _table("The pairs that were compared", head[:width], [row[:width] for row in rows], (4, 5, 6))
    return f"<section>\n<h2>All pairs</h2>\n{table}\n</section>"


def _section(index: int, report: Report, *, alone: bool) -> str:
    parts = [
        f'<section id="pair-{index}">\n<h2>{_text(title(report))}</h2>',
        _summary(report),
        *([] if report.passed else [_diagnosis(report), _operations(report), _outside(report)]),
    ]
    # Of many pairs, those that agree stay folded and short.
    whole = alone or not report.passed
    shown = " open" if whole else ""
    parts += [f"<details{shown}>\n<summary><h3>Modules</h3></summary>", _tree(report), "</details>"]
    parts += [
        f"<details{shown}>\n<summary><h3>Every step</h3></summary>",
        _maps(report, report.entries, "entry", whole=whole),
    ]
    if report.free:
        parts.append("<h4>The free-running training, from the first weights only</h4>")
        parts.append(_maps(report, report.free, "entry of the free-running training", whole=whole))
    parts.append("</details>")
    if report.unmatched:
        names = "\n".join(f"<li>{_code(name)}</li>" for name in report.unmatched)
        count = counted(len(report.unmatched), "entry", "entries")
        parts += [
            f"<details>\n<summary><h3>Not compared: {count}</h3></summary>",
            f"<p>Only one side has them.</p>\n<ul>\n{names}\n</ul>\n</details>",
        ]
    if report.weight_map:
        lines = "\n".join(map(_text, report.weight_map.splitlines()))
        table = _scrolled(f"<pre>{lines}</pre>", "Which weight is which")
        parts.append(f"<details>\n<summary><h3>Which weight is which</h3></summary>\n{table}\n</details>")
    return "\n".join([*parts, "</section>"])


def _summary(report: Report) -> str:
    entries = (*report.entries, *report.free)
    first, largest = report.first_divergence, largest_entry(report)
    closest = worst_entry(entry for entry in entries if entry.counts)
    facts = []
    if largest is not None:
        facts.append(("largest scaled error", _against(largest), _place(largest)))
    if first is not None:
        facts.append(("first out of bounds", _against(first.entry), _place(first.entry)))
    elif closest is not None:
        facts.append(("nearest to its bound", f"{number(ratio(closest))} of the bound", _place(closest)))
    counts = [f"{sum(not entry.passed for entry in entries)} out of bounds"]
    ignored = sum(not entry.counts for entry in entries)
    counts += [f"{ignored} shown only"] if ignored else []
    counts += [f"{len(report.unmatched)} not compared"] if report.unmatched else []
    facts.append(("compared", counted(len(entries), "entry", "entries"), ", ".join(counts)))
    items = [f"<div><dt>{term}</dt><dd><b>{what}</b> <span>{more}</span></dd></div>" for term, what, more in facts]
    kind = "agrees" if report.passed else "diverges"
    within = f"Every entry{' that counts' if ignored else ''} is within its bound"
    sentence = within if first is None else f"First divergence at {_prose(str(first))}"
    return "\n".join([f'<p class="verdict {kind}">{_outcome(report)}. {sentence}.</p>\n<dl>', *items, "</dl>"])


def _diagnosis(report: Report) -> str:
    items = []
    for finding in report.diagnosis:
        kind = "certain" if finding.certain else "perhaps"
        items.append(f'<li><b class="{kind}">{kind}</b> <span>{_prose(finding.text)}</span></li>')
    if not items:
        return "<h3>Diagnosis</h3>\n<p>No known difference explains it.</p>"
    return "\n".join(['<h3>Diagnosis</h3>\n<ul class="diagnosis">', *items, "</ul>"])


def _operations(report: Report) -> str:
    if report.operations is None:
        return ""
    return f"<h3>Operations</h3>\n{report.operations._repr_html_()}"


def _outside(report: Report) -> str:
    wrong = out_of_bounds(report)
    rows = [
        [
            _code(entry.name),
            str(entry.step),
            entry.phase,
            number(entry.error),
            number(entry.bound),
            _text(", ".join(map(str, entry.worst))),
            f"{entry.outside} of {entry.size}" if entry.size else "",
            number(entry.rms) if entry.size else "",
            _text(entry.note),
        ]
        for entry in wrong[:_FIRST]
    ]
    head = ["entry", "step", "phase", "error", "bound", "worst at", "outside", "rms", "note"]
    keep = [i for i in range(len(head)) if i < 5 or any(row[i] for row in rows)]
    caption = f"The first {len(rows)} of {len(wrong)}" if len(wrong) > len(rows) else f"{len(rows)} in all"
    shown = [[row[i] for i in keep] for row in rows]
    table = _table(f"{caption}, in order", [head[i] for i in keep], shown, [keep.index(i) for i in (1, 3, 4)])
    return f"<h3>Out of bounds</h3>\n{table}"


def _maps(report: Report, entries: Sequence[Entry], what: str, *, whole: bool) -> str:
    if not entries:
        return "<p>No entries.</p>"
    names = {(entry.phase, entry.name) for entry in entries}

    def full() -> str:
        return _map(f"Each {what} at each step", entries, lambda entry: entry.name)

    if len(names) <= _ROWS:
        return full()
    modules = _modules(report)
    paths = {name: _module(name, modules).split(".") for _, name in names}

    def rows(depth: int) -> int:
        return len({(phase, *paths[name][:depth]) for phase, name in names})

    depth = next((depth for depth in range(_DEPTH, 1, -1) if rows(depth) <= _ROWS), 1)
    worst = _map(f"The worst {what} of each module", entries, lambda entry: ".".join(paths[entry.name][:depth]))
    if not whole:
        return f'{worst}\n<p class="caption">A page of this pair alone has all {len(names)} entries.</p>'
    return f"{worst}\n<details>\n<summary>All {len(names)} entries</summary>\n{full()}\n</details>"


def _map(caption: str, entries: Sequence[Entry], row_of: Callable[[Entry], str]) -> str:
    """Returns the steps against the entries, each cell the worst that falls into it."""
    first, last = min(entry.step for entry in entries), max(entry.step for entry in entries)
    span = math.ceil((last - first + 1) / _COLUMNS)
    steps = range(first, last + 1, span)
    cells: dict[str, dict[str, dict[int, list[Entry]]]] = {}
    for phase in _PHASES:
        for entry in (entry for entry in entries if entry.phase == phase):
            row = cells.setdefault(phase, {}).setdefault(row_of(entry), defaultdict(list))
            row[(entry.step - first) // span].append(entry)
    head = "".join(f'<th scope="col">{step}</th>' for step in steps)
    # Narrow ones stand side by side; wide ones scroll together.
    narrow = len(steps) <= _NARROW
    parts = []
    for group in [[phase] for phase in cells] if narrow else [list(cells)]:
        label = f"{caption}: {', '.join(group)}"
        table = [f'<table class="map">\n<caption class="hidden">{label}</caption>']
        table.append(f'<thead><tr><th scope="col">{f"<b>{group[0]}</b>" if narrow else "step"}</th>{head}</tr></thead>')
        for phase in group:
            heading = f'<tr><th scope="rowgroup" colspan="{len(steps) + 1}"><span>{phase}</span></th></tr>'
            table.append(f"<tbody>\n{'' if narrow else heading}")
            for name, row in cells[phase].items():
                line = "".join(_cell(row[i]) for i in range(len(steps)))
                table.append(f'<tr><th scope="row">{_code(name)}</th>{line}</tr>')
            table.append("</tbody>")
        parts.append(_scrolled("\n".join([*table, "</table>"]), label))
    several = f"; each column is {span} steps" if span > 1 else ""
    about = f'<p class="caption">{caption}{several}. {_counts(entries)}</p>'
    return "\n".join(
        [about, f'<div class="maps{" few" if narrow else ""}" style="--steps: {len(steps)}">', *parts, "</div>"]
    )


def _counts(entries: Iterable[Entry]) -> str:
    wrong = [entry for entry in entries if not entry.passed]
    return f"{len(wrong)} out of bounds, from step {min(e.step for e in wrong)} on." if wrong else "All within bounds."


def _cell(entries: Sequence[Entry]) -> str:
    entry = worst_entry(entries)
    if entry is None:
        return "<td></td>"
    mark, kind = _mark(entry)
    return f'<td class="{kind}" {_about(entry)}>{mark}</td>'


def _mark(entry: Entry) -> tuple[str, str]:
    """Returns the power of ten of an error for its bound, rounded away from 0, and its colour."""
    share = ratio(entry)
    if math.isnan(entry.error) or math.isinf(share):
        mark, kind = ("NaN" if math.isnan(entry.error) else "∞"), "f4"
    elif share == 0:
        mark, kind = "=", "e0"
    elif share <= 1:
        power = min(-1, math.floor(math.log10(share)))
        mark, kind = f"&minus;{-power}", f"e{max(1, 6 + power)}"
    else:
        power = max(1, math.ceil(math.log10(share)))
        mark, kind = f"+{power}", "f1" if power < 2 else "f2" if power < 4 else "f3" if power < 7 else "f4"
    return (mark, kind) if entry.counts else (f"({mark})", "n")


def _tree(report: Report) -> str:
    modules = _modules(report)
    found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    groups = {phase: group for group, phases in _TREE.items() for phase in phases}
    for entry in report.entries:
        module = _module(entry.name, modules)
        found[module if module in modules else "", groups[entry.phase]].append(entry)
    columns = [group for group in _TREE if any(column == group for _, column in found)]
    first = report.first_divergence
    culprit = None if first is None else _module(first.name, modules)
    before = None if first is None or not first.before else _module(first.before, modules)
    rows = []
    for name in ("", *_ordered(modules)):
        parent, _, last = name.rpartition(".")
        depth = min(name.count(".") + 1, _DEPTH) if name else 0
        hidden = f'<span class="hidden">{_text(parent)}.</span>' if parent else ""
        label = f"{hidden}{_code(last)}" if name else f"{_wrappable(report.model)}"
        if culprit is not None and (name == culprit or (not name and culprit not in modules)):
            label += ' <strong class="culprit">✗ first divergence</strong>'
        elif name and name == before:
            label += ' <strong class="culprit">its input is wrong</strong>'
        cells = [_error(worst_entry(found[name, column])) for column in columns]
        rows.append([f'<span class="node" style="--depth:{depth}">{label}</span>', *cells])
    caption = "The largest error of each module, over all steps, beside its power of ten for its bound"
    return _table(caption, ["module", *columns], rows, range(1, 5), kind="tree")


def _about(entry: Entry) -> str:
    about = plain(f"step {entry.step}, {entry.phase} {entry.name}: {described(entry)}")
    return f'title="{html.escape(about)}"'


def _error(entry: Entry | None) -> str:
    if entry is None:
        return '<span class="none">&ndash;</span>'
    mark, kind = _mark(entry)
    return f'<span {_about(entry)}>{number(entry.error, 2)} <b class="chip {kind}">{mark}</b></span>'


def _modules(report: Report) -> dict[str, int]:
    """Returns the modules and what holds them, numbered in the order in which they are first met."""
    modules: dict[str, int] = {}
    for call in report.calls:
        for prefix in _prefixes(re.sub(r"#\d+", "", call)):
            modules.setdefault(prefix, len(modules))
    modules.pop("", None)
    return modules


def _ordered(modules: dict[str, int]) -> list[str]:
    """Returns the modules as a tree is read: a parent, then its children."""
    return sorted(modules, key=lambda name: [modules.get(prefix, 0) for prefix in _prefixes(name)])


def _module(name: str, modules: dict[str, int]) -> str:
    """Returns the innermost module that an entry belongs to; the name itself where there is none."""
    called = re.sub(r"(#\d+)?(\[[^\]]*\])?$", "", name)
    return next((prefix for prefix in reversed(_prefixes(called)) if prefix in modules), name)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _legend() -> str:
    items = "\n".join(f'<li><b class="chip {kind}">{mark}</b> {text}</li>' for kind, mark, text in _LEGEND)
    return f'<footer>\n<h2>How to read it</h2>\n<p>{_HELP}</p>\n<ul class="legend">\n{items}\n</ul>\n</footer>'


def _table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], kind: str = "list"
) -> str:
    """Returns a table of cells that are HTML already; the first of a row is its heading."""
    side = ['class="number"' if i in right else "" for i in range(len(head))]
    line = "".join(f'<th {side[i]} scope="col">{name}</th>' for i, name in enumerate(head))
    parts = [
        f'<table class="{kind}">\n<caption class="hidden">{caption}</caption>\n<thead><tr>{line}</tr></thead>\n<tbody>'
    ]
    for name, *cells in rows:
        line = "".join(f"<td {side[i]}>{cell}</td>" for i, cell in enumerate(cells, 1))
        parts.append(f'<tr><th scope="row">{name}</th>{line}</tr>')
    table = "\n".join([*parts, "</tbody>\n</table>"])
    return f'<p class="caption">{caption}.</p>\n{_scrolled(table, caption)}'


def _scrolled(table: str, label: str) -> str:
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n{table}\n</div>'


def _outcome(report: Report) -> str:
    return '<b class="good">✓ agrees</b>' if report.passed else '<b class="bad">✗ diverges</b>'


def _against(entry: Entry) -> str:
    return f"{number(entry.error)}, bound {number(entry.bound)}"


def _place(entry: Entry) -> str:
    return f"step {entry.step}, {entry.phase} {_code(entry.name)}"


def _text(text: str) -> str:
    return html.escape(plain(text))


def _wrappable(name: str) -> str:
    return re.sub(r"(?<=[.\]/])", "<wbr>", _text(name))


def _code(name: str) -> str:
    return f"<code>{_wrappable(name)}</code>"


def _prose(text: str) -> str:
    """Returns a sentence, what stands in backticks as code."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(_code(part) if i % 2 else _text(part) for i, part in enumerate(parts))


# Two hues that no colour-blindness confuses; blue is within bounds, orange is not, and the further the darker.
