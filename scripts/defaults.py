"""Compares settings of the nets without looking at a known effect: by losses on training rows that no net saw.

For each candidate, on the training rows of a benchmark: the loss of the outcomes, the R-loss and the DR-loss of the
effects, all on rows held out. The last two compare with what boosted trees and a logistic propensity say, the same for
all.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_impl.commands.backends import run_command
from flax_impl.commands.ihdp import split
from flax_impl.data import TreatmentData
from flax_impl.effects import EffectSettings, fit_effects
from flax_impl.effects.judging.fresh_rows import score_effects
from torch_ref.common.files.array_file import replacing
from torch_ref.common.settings.optimizers import AdamW

_PLAIN = AdamW(lr=1e-3, weight_decay=2.0)
_LESS = AdamW(lr=2e-3, weight_decay=0.5)
# From the plain TARNet of the last release, a step at a time, to the defaults.
CANDIDATES = {
    "plain features": EffectSettings(bins=0, gates=False, optimizer=_PLAIN),
    "in pieces": EffectSettings(gates=False, optimizer=_PLAIN),
    "and less decay": EffectSettings(gates=False, optimizer=_LESS),
    "and gates": EffectSettings(optimizer=_LESS),
    "and the average (default)": EffectSettings(),
    "the same, 16 pieces": EffectSettings(bins=16),
    "the same, half the decay": EffectSettings(optimizer=AdamW(lr=2e-3, weight_decay=0.25, average=0.99)),
    "the same, twice the decay": EffectSettings(optimizer=AdamW(lr=2e-3, weight_decay=1.0, average=0.99)),
}


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source", default="acic2016", help="acic2016, or a folder as ihdp.py takes it (default: acic2016)")
    add("--replications", type=int, nargs="+", default=[2, 5, 7], help="which of its tables (default: 2 5 7)")
    add("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), metavar="NAME",
        help=f"which of: {'; '.join(CANDIDATES)} (default: all)")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="where to write the table")
    return parser.parse_args()


def losses(data: TreatmentData, settings: EffectSettings) -> tuple[float, float, float]:
    """Returns the losses of a candidate on rows held out, as shares of the outcome's variance.

    They are the squared error of the outcomes, the R-loss and the DR-loss of the effects.
    """
    found = fit_effects(data, settings, progress=False).cross_fit(data)
    rows = data.take(found.rows)
    factual = np.where(rows.t == 1, found.mu[1], found.mu[0])
    effects = (-score_effects(found.contrast().effect[None], rows, loss) for loss in ("r_loss", "dr_loss"))
    each = (float(np.mean((rows.y[:, 0] - factual) ** 2)), *effects)
    outcome, r, dr = (loss / float(rows.y.var()) for loss in each)
    return outcome, r, dr


def table(tables: Sequence[TreatmentData], candidates: Sequence[str]) -> list[str]:
    """Returns a line for each candidate: the means over all tables."""
    lines = [f"{'':<28}{'outcome':>10}{'R-loss':>10}{'DR-loss':>10}"]
    for name in candidates:
        means = np.mean([losses(data, CANDIDATES[name]) for data in tables], axis=0)
        lines.append(f"{name:<28}" + "".join(f"{mean:>10.4f}" for mean in means))
        print(lines[-1], flush=True)
    return lines


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes it; returns 0."""
    warnings.simplefilter("ignore", UserWarning)
    tables = [split(args.source, number)[0] for number in args.replications]
    source = "ACIC 2016" if args.source == "acic2016" else "IHDP"
    numbers = ", ".join(map(str, args.replications))
    lines = [
        f"{source}, {numbers}: losses on training rows held out, as shares of the outcome's variance",
        *table(tables, args.candidates),
    ]
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text("\n".join(lines) + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
