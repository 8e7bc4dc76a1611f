"""Measures the known differences between torch and JAX, and compares them with the committed table.

Exits with 0 where all rows are as committed, and with 1 where some are not; it names them. --write writes the table
anew: docs/differences.json, docs/differences.md and the tables in docs/porting.md.
"""

import argparse
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from facts import FACTS, Measured, measure
from torch_ref.common.files.array_file import replacing

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, TABLE, GUIDE = DOCS / "differences.json", DOCS / "differences.md", DOCS / "porting.md"
PACKAGES = ("torch", "jax", "flax", "optax", "numpy")
# In the order of the guide.
SECTIONS = {
    "modules": "Modules and names",
    "weights": "Weights and layouts",
    "layers": "Layers and their defaults",
    "initialisation": "First weights",
    "masking": "Splitting or masking",
    "losses": "Losses and reductions",
    "optimizers": "Optimisers, decay, clipping, schedules",
    "randomness": "Randomness and dropout",
    "loops": "Training loops",
    "precision": "Precision",
    "devices": "Devices",
    "checkpoints": "Checkpoints",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and compares or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--section", choices=SECTIONS, help="compare the rows of one section only")
    arguments = parser.parse_args(argv)
    if arguments.write and arguments.section:
        parser.error("--section: expected without --write, which writes all")
    keys = [key for key, fact in FACTS.items() if arguments.section in (None, fact.section)]
    rows = [measure(FACTS[key]) for key in tqdm(keys, unit="row", disable=not sys.stderr.isatty(), leave=False)]
    if arguments.write:
        write(rows)
        print(f"wrote {len(rows)} rows to {RESULTS.name}, {TABLE.name} and {GUIDE.name}")
        return 0
    committed = json.loads(RESULTS.read_text())
    changed = changes(rows, {row["key"]: row for row in committed["rows"]}, whole=arguments.section is None)
    for line in changed:
        print(line)
    if committed["versions"] != versions():
        print(f"committed with {listed(committed['versions'])}; measured with {listed(versions())}")
    if not changed:
        print(f"{len(rows)} rows are as committed")
    return int(bool(changed))


def changes(rows: Iterable[Measured], committed: dict[str, dict[str, str]], whole: bool = True) -> list[str]:
    """Returns a line for each row that is not as committed, which begins with its key."""
    found = {row.key: asdict(row) for row in rows}
    lines = []
    for key, row in found.items():
        if key not in committed:
            lines.append(f"{key}: expected in the committed table, found none")
            continue
        for column, value in row.items():
            if value != committed[key].get(column):
                lines.append(f"{key}: {column}: expected {committed[key].get(column)!r}, got {value!r}")
    gone = [key for key in committed if whole and key not in found]
    return lines + [f"{key}: expected no such row, found one in the committed table" for key in gone]


def write(rows: Sequence[Measured]) -> None:
    """Writes the results, the table of all, and the guide's tables."""
    results = {"versions": versions(), "rows": [asdict(row) for row in rows]}
    guide = GUIDE.read_text()
    for section in SECTIONS:
        guide = with_table(guide, section, table([row for row in rows if row.section == section]))
    for path, text in (
        (RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n"),
        (TABLE, page(rows, versions())),
        (GUIDE, guide),
    ):
        with replacing(path) as fresh:
            fresh.write_text(text)


def page(rows: Sequence[Measured], measured_with: dict[str, str]) -> str:
    """Returns the page of all differences."""
    head = f"""# The table of differences

{len(rows)} things that people meet when they port a PyTorch model, measured with {listed(measured_with)};
in float64 unless a row says otherwise.

- *Apart* is the largest difference as a share of torch's largest value, where the port is written as it first comes to
  mind. *Then* is what is left with the words before it. *Same* is at most 1e-12, in float32 a few roundings.
- Each row is a measurement in `scripts/facts/`, and a test: `pytest tests/scripts/test_differences.py -k KEY`.
- `python scripts/differences.py` measures all of them again and names the rows that changed, as they may with the next
  release of either side; with `--write` it writes this page.

[The guide](porting.md) says more on each section.
"""
    parts = [f"## {title}\n\n{table([row for row in rows if row.section == name])}" for name, title in SECTIONS.items()]
    return "\n".join([head, *parts])


def table(rows: Sequence[Measured]) -> str:
    """Returns rows as a table in markdown."""
    lines = [
        "| | torch | Flax, optax, JAX | apart | for torch's result | then | key |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.what, row.torch, row.jax, row.apart, row.use, row.then, f"`{row.key}`")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def with_table(guide: str, section: str, table: str) -> str:
    """Returns the guide with another table between the marks of a section."""
    start, end = f"<!-- differences: {section} -->\n", "<!-- end -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(guide):
        raise ValueError(f"{GUIDE.name}: expected the mark {start.strip()}, found none")
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", guide)


def versions() -> dict[str, str]:
    """Returns the versions of what is measured; torch's without the kind of its build."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}


def listed(found: dict[str, str]) -> str:
    """Returns versions in words."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


if __name__ == "__main__":
    sys.exit(main())
