"""How often 95% intervals hold the true effects: tables drawn with known effects, a fit and fresh rows for each."""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from flax_impl.commands.backends import import_backend, run_command
from flax_impl.data import TreatmentData, synthetic
from flax_impl.effects import EffectModel, EffectSettings
from torch_ref.common.data.simulation import outcome_noise
from torch_ref.common.files.array_file import replacing

_FRESH = 1000  # rows that no net saw
_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "poor-overlap": {"overlap": "poor"},
    "heavy-tails": {"noise": "heavy"},
}
_CASES = ("plain:500", "plain:1000", "plain:2000", "plain:5000", "poor-overlap:1000", "heavy-tails:1000")
_METHODS = ("bootstrap", "calibrated", "any", "independent")


def _case(text: str) -> tuple[str, int]:
    """Returns the kind and the rows of a case such as plain:500."""
    kind, _, rows = text.partition(":")
    if kind not in _KINDS or not rows.isdigit():
        raise argparse.ArgumentTypeError(f"expected such as plain:500, got {text}")
    return kind, int(rows)


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cases", nargs="+", type=_case, default=list(map(_case, _CASES)), metavar="KIND:ROWS",
        help=f"kinds are {', '.join(_KINDS)} (default: {' '.join(_CASES)})")  # fmt: skip
    add("--tables", type=int, default=3, help="how many of each (default: 3)")
    add("--members", type=int, default=20, help="nets in an ensemble (default: 20)")
    add("--json", type=Path, metavar="FILE", help="where to write the results")
    return parser.parse_args()


def intervals(
    package: Any, data: TreatmentData, new: TreatmentData, settings: EffectSettings
) -> tuple[EffectModel, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Returns the ensemble of a table, and the ends of new rows' intervals by each method."""
    model = package.effects.fit_effects(data, settings, progress=False)
    effects = np.subtract(*reversed(model.joint_outcomes(new.x)))
    found = {"bootstrap": model.interval(effects), "calibrated": model.effect_interval(new.x)}
    for name in ("any", "independent"):
        found[name] = model.difference_interval(data, new.x, joint=name)
    return model, found


def measure(package: Any, kind: str, rows: int, tables: int, members: int) -> dict[str, Any]:
    """Returns the share of true effects of fresh rows that the intervals hold, and of true averages.

    Conformal intervals are held against drawn differences of outcomes, whose noises are independent.
    """
    drawn: list[dict[str, float]] = []
    for number in range(tables):
        data, new = (
            synthetic(rows_of, seed=seed, **_KINDS[kind]) for rows_of, seed in ((rows, number), (_FRESH, 1000 + number))
        )
        settings = EffectSettings(members=members, bootstrap=True, calibrate=True, seed=100 * number)
        model, found = intervals(package, data, new, settings)
        assert new.mu0 is not None
        assert new.mu1 is not None
        true = (new.mu1 - new.mu0)[:, 0]
        generator, noise = np.random.default_rng(2000 + number), _KINDS[kind].get("noise", "normal")
        own = true + outcome_noise(_FRESH, noise, generator) - outcome_noise(_FRESH, noise, generator)
        low_ate, high_ate = model.ate_interval(new.x)
        of_table = {
            "ate_coverage": float(low_ate <= true.mean() <= high_ate),
            "sqrt_pehe": float(np.sqrt(np.mean((model.effect(new.x) - true) ** 2))),
        }
        for name, (low, high) in found.items():
            sought = own if name in ("any", "independent") else true
            of_table[f"{name}_coverage"] = float(np.mean((low <= sought) & (sought <= high)))
            finite = np.isfinite(high - low)
            of_table[f"{name}_width"] = float(np.mean((high - low)[finite])) if finite.any() else float("inf")
            of_table[f"{name}_finite"] = float(finite.mean())
        drawn.append(of_table)
    means = {name: float(np.mean([of_table[name] for of_table in drawn])) for name in drawn[0]}
    return {"kind": kind, "rows": rows, "tables": tables, **means, "each": drawn}


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the results; returns 0."""
    package = import_backend("flax")
    warnings.simplefilter("ignore", UserWarning)
    heads = "".join(f"{name:>17}" for name in _METHODS)
    print(f"{'table':<13}{'rows':>6}{heads}{'finite':>8}{'ATEs held':>11}{'sqrt PEHE':>11}")
    results = []
    for kind, rows in args.cases:
        found = measure(package, kind, rows, args.tables, args.members)
        results.append(found)
        cells = "".join(f"{found[f'{name}_coverage']:>10.1%}{found[f'{name}_width']:>7.2f}" for name in _METHODS)
        print(f"{kind:<13}{rows:>6}{cells}{found['any_finite']:>8.1%}"
              f"{found['ate_coverage']:>11.0%}{found['sqrt_pehe']:>11.3f}", flush=True)  # fmt: skip
    coverage = {name: float(np.mean([found[f"{name}_coverage"] for found in results])) for name in _METHODS}
    print("each column: held, and the mean width; any, independent: conformal, of a row's own difference")
    if args.json:
        with replacing(args.json) as beside:
            held = {"coverage": coverage["calibrated"], "by_method": coverage, "settings": results}
            beside.write_text(json.dumps(held, indent=1) + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
