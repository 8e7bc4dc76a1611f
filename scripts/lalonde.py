"""LaLonde's test: a job training whose effect on earnings is known, since it was drawn by lot who got it.

On the trial's own rows every method should hold the difference of its means. Then the trial's untreated are replaced by
15,992 people of a survey, who are unlike the trained, and each method says what the training did for these. Needs
pip install '.[peers]'.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from average_coverage import Estimate, forests, nets, nets_and_trees
from flax_impl.commands.backends import run_command
from flax_impl.effects import AverageEffect, average_effects
from torch_ref.common.files.array_file import replacing

METHODS: dict[str, Estimate] = {
    "AIPW with forests": forests, "ours, nets": nets, "ours, nets and trees": nets_and_trees,
}  # fmt: skip
_FEATURES = ("age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75")


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the table")
    return parser.parse_args()


def load() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns features, treatment and outcome of the trial, and of its treated rows beside the survey's."""
    try:
        from causaldata import cps_mixtape, nsw_mixtape  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("LaLonde's rows need causaldata: pip install 'twohead[peers]'") from error
    trial, survey = (source.load_pandas().data for source in (nsw_mixtape, cps_mixtape))

    def columns(frame: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            frame[list(_FEATURES)].to_numpy(np.float64), frame["treat"].to_numpy(int), frame["re78"].to_numpy(float)
        )  # fmt: skip

    own, others = columns(trial), columns(survey)
    treated = own[1] == 1
    x, t, y = (np.concatenate([of_trial[treated], more]) for of_trial, more in zip(own, others, strict=True))
    return {"the trial": own, "its treated, and the survey": (x, t, y)}


def measure(x: np.ndarray, t: np.ndarray, y: np.ndarray, say: Callable[[str], None]) -> None:
    """Says what each method finds in a table: on all rows and on the treated."""
    one, other = y[t == 1], y[t == 0]
    error = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    difference = one.mean() - other.mean()
    say(f"{'difference of means':<24}{difference:>10.0f} {_between(difference, error):>18}")
    for name, estimate in METHODS.items():
        mu0, mu1, score = estimate(x, t, y)
        found = average_effects(t, y, mu0, mu1, score)
        say(f"{name:<24}{_cell(found.ate)}{_cell(found.att)}")


def _cell(found: AverageEffect) -> str:
    return f"{found.value:>10.0f} {_between(found.value, found.standard_error):>18}"


def _between(value: float, error: float) -> str:
    return f"({value - 1.96 * error:.0f} to {value + 1.96 * error:.0f})"


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes it; returns 0."""
    warnings.simplefilter("ignore", UserWarning)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for name, (x, t, y) in load().items():
        say(f"{name}: {len(y)} rows, {t.sum()} treated; effect in dollars a year, and its 95% interval")
        say(f"{'':<24}{'all rows':>10}{'':19}{'the treated':>11}")
        measure(x, t, y, say)
        say("")
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text("\n".join(lines).strip() + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
