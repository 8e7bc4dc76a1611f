"""Plants faults in copies of the port, and shows which of them the harness catches, localises and names.

Exits with 0 where each is caught and localised and none is misnamed, 1 otherwise, 2 for unusable arguments.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from flax_impl.commands.backends import Parser, run_command
from flax_impl.parity import html_page
from torch_ref.common.files.array_file import replacing


def main(arguments: Sequence[str] | None = None) -> int:
    """Plants every fault, prints the table and writes the files; returns the exit code."""
    parser = Parser("parity --kill-matrix", __doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the reports as a page")
    args = parser.parse_args(arguments)
    return run_command(lambda: run(args.json, args.html))


def run(table: Path | None, page: Path | None) -> int:
    """Plants every fault; returns 0 where each is caught and localised and none is misnamed."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' faults
    from tests.support.faults import kill, load_faults, matrix_table

    kills = [kill(fault) for fault in tqdm(load_faults(), unit="fault", disable=not sys.stderr.isatty(), leave=False)]
    rows = [found.to_json() for found in kills]
    print(matrix_table(rows))
    if table:
        with replacing(table) as path:
            path.write_text(json.dumps(rows, indent=2) + "\n")
    if page:
        with replacing(page) as path:
            path.write_text(html_page([found.report for found in kills]))
    return int(not all(row["caught"] and row["localised"] and not row["misnamed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
