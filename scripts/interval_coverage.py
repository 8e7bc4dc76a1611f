"""How often 95% intervals hold the true effects: tables drawn with known effects, a fit and fresh rows for each."""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from flax_impl.commands.backends import import_backend, run_command
from flax_impl.data import synthetic
from flax_impl.effects import EffectSettings
from torch_ref.common.files.array_file import replacing

_FRESH = 1000  # rows that no net saw


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[500, 1000, 2000], help="of a table (default: 500 1000 2000)")
    add("--tables", type=int, default=8, help="how many of each (default: 8)")
    add("--members", type=int, default=20, help="nets in an ensemble (default: 20)")
    add("--json", type=Path, metavar="FILE", help="where to write the results")
    return parser.parse_args()


def measure(package: Any, rows: int, tables: int, members: int) -> dict[str, Any]:
    """Returns the share of true effects of fresh rows that the intervals hold, and of true averages."""
    data = [synthetic(rows, seed=seed) for seed in range(tables)]
    fresh = [synthetic(_FRESH, seed=1000 + seed) for seed in range(tables)]
    held, averages, widths, errors = [], [], [], []
    for number, (drawn, new) in enumerate(zip(data, fresh, strict=True)):
        settings = EffectSettings(members=members, bootstrap=True, seed=100 * number)
        model = package.effects.fit_effects(drawn, settings, progress=False)
        assert new.mu0 is not None
        assert new.mu1 is not None
        true = (new.mu1 - new.mu0)[:, 0]
        low, high = model.effect_interval(new.x)
        held.append(float(np.mean((low <= true) & (true <= high))))
        low_ate, high_ate = model.ate_interval(new.x)
        averages.append(bool(low_ate <= true.mean() <= high_ate))
        widths.append(float(np.mean(high - low)))
        errors.append(float(np.sqrt(np.mean((model.effect(new.x) - true) ** 2))))
    return {
        "rows": rows,
        "tables": tables,
        "coverage": float(np.mean(held)),
        "least": min(held),
        "most": max(held),
        "ate_coverage": float(np.mean(averages)),
        "width": float(np.mean(widths)),
        "sqrt_pehe": float(np.mean(errors)),
    }


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the results; returns 0."""
    package = import_backend("flax")
    warnings.simplefilter("ignore", UserWarning)
    print(f"{'rows':>6}{'effects held':>14}{'least':>8}{'most':>8}{'ATEs held':>11}{'width':>8}{'sqrt PEHE':>11}")
    results = []
    for rows in args.rows:
        found = measure(package, rows, args.tables, args.members)
        results.append(found)
        print(f"{rows:>6}{found['coverage']:>14.1%}{found['least']:>8.1%}{found['most']:>8.1%}"
              f"{found['ate_coverage']:>11.0%}{found['width']:>8.2f}{found['sqrt_pehe']:>11.3f}")  # fmt: skip
    overall = float(np.mean([found["coverage"] for found in results]))
    print(f"overall the 95% intervals hold {overall:.1%} of the effects")
    if args.json:
        with replacing(args.json) as beside:
            beside.write_text(json.dumps({"coverage": overall, "settings": results}, indent=1) + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
