"""Effects on the benchmarks that people know: IHDP from a folder, or ACIC 2016, all replications trained at once.

The peers that are installed join on the same rows: CATENets, causalml and EconML.
"""

import argparse
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench import effect_peers
from plots import effect_errors

from .sides import import_backend

MEASURES = ("sqrt_pehe_in", "sqrt_pehe_out", "ate_error_in", "ate_error_out", "seconds")
# Means over the 1000 replications that the literature reports on.
PUBLISHED = {"TARNet, published": 0.95, "CFR Wasserstein, published": 0.76}
_HELD_OUT = 0.2  # of the rows, where no file says which


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="DIR", help="a folder with ihdp_npci_N.csv, or an .npz file in the usual layout, and "
        "perhaps test_rows.json; or acic2016")  # fmt: skip
    add("--replications", default="", metavar="1-10", help="which (default: all there are)")
    add("--members", type=int, default=5, help="nets in an ensemble (default: 5)")
    add("--no-peers", action="store_true", help="leaves the peers out that are installed")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="where to write the results")
    add("--plot", type=Path, metavar="FILE", help="where to draw them")
    return parser.parse_args()


def main() -> int:
    """Measures; returns 0, or 2 for arguments or files that cannot be used, or 1 for a training that diverged."""
    args = parse()
    try:
        package = import_backend("flax")
        numbers = which(args.source, args.replications)
        parts = [split(package, args.source, number) for number in numbers]
        results = dict(contestants(package, parts, args))
        print(table(results, numbers, args.source))
        if args.json:
            report(package, args.json, results, numbers, args)
        if args.plot:
            with package.hub.files.replacing(args.plot) as beside:
                effect_errors({NAMES[n]: r["sqrt_pehe_out"] for n, r in results.items()}, numbers).savefig(beside)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def which(source: str, asked: str) -> list[int]:
    """Returns the numbers of the replications: those asked for, or all there are."""
    if source == "acic2016":
        there = list(range(1, 11))
    elif source.endswith(".npz"):
        tables = import_module("flax_impl.hub.tables")
        arrays = tables.read_npz(Path(source)) if Path(source).is_file() else {}
        if "x" not in arrays or arrays["x"].ndim != 3:
            raise ValueError(f"{source}: expected an .npz file with x [rows, features, replications], got none")
        there = list(range(1, arrays["x"].shape[2] + 1))
    else:
        names = os.listdir(source)
        there = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"ihdp_npci_(\d+)\.csv", name)))
    if not there:
        raise ValueError(f"{source}: expected files ihdp_npci_1.csv, ihdp_npci_2.csv, …, got none")
    if not asked:
        return there
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", asked)
    chosen = list(range(int(match[1]), int(match[2] or match[1]) + 1)) if match else []
    if not chosen or not set(chosen) <= set(there):
        raise ValueError(f"--replications: expected some of {there[0]}-{there[-1]}, got {asked}")
    return chosen


def split(package: Any, source: str, number: int) -> tuple[Any, Any]:
    """Returns a replication's rows to train on and its test rows: those of test_rows.json, or a fifth, drawn."""
    if source == "acic2016":
        return package.data.load_data(f"acic2016:{number}").split(_HELD_OUT, seed=number)
    if source.endswith(".npz"):
        data, folder = package.data.load_data(source, replication=number), Path(source).parent
    else:
        data, folder = package.data.load_data(Path(source) / f"ihdp_npci_{number}.csv"), Path(source)
    if data.mu0 is None or data.mu1 is None:
        raise ValueError(f"{source}: expected the expected outcomes mu0 and mu1, got none")
    path = folder / "test_rows.json"
    if not path.is_file():
        return data.split(_HELD_OUT, seed=number)
    try:
        rows = np.asarray(json.loads(path.read_text())[str(number)])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the row numbers of replication {number}, got {error!r}") from error
    rows = package.hub.checks.check_row_numbers(f"{path}, replication {number}", rows, len(data))
    return data.take(np.setdiff1d(np.arange(len(data)), rows)), data.take(rows)


NAMES = {"ensemble": "ours", "single": "ours, single nets"}
NAMES |= {name: words for name, (_, words, _) in effect_peers.PEERS.items()}


def contestants(
    package: Any, parts: Sequence[tuple[Any, Any]], args: argparse.Namespace
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Yields each contestant's name and its measures by replication."""
    trains = [train for train, _ in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the covariates are what they are
        for name, members in (("single", 1), ("ensemble", args.members)):
            start = time.perf_counter()
            models = package.effects.fit_effects_each(trains, members=members, seed=args.seed)
            seconds = (time.perf_counter() - start) / len(parts)
            effects = [[model.effect(rows.x) for rows in both] for model, both in zip(models, parts, strict=True)]
            yield name, measures(package, parts, effects, [seconds] * len(parts))
    for name in [] if args.no_peers else effect_peers.installed():
        effects, seconds = [], []
        for number, (train, test) in enumerate(parts, 1):
            x, y, asked, unit = train.x, train.y[:, 0], [train.x, test.x], 1.0
            if args.source == "acic2016":  # as they lie, CATENets and causalml end in NaN on all ten
                scales = package.data.Scales.of(train)
                x, *asked = map(scales.features, (x, *asked))
                y, unit = (y - scales.y_mean) / scales.y_std, float(scales.y_std[0])
            start = time.perf_counter()
            effects.append([unit * effect for effect in effect_peers.estimate(name, x, train.t, y, asked)])
            seconds.append(time.perf_counter() - start)
            print(f"{NAMES[name]}: {number} of {len(parts)}", file=sys.stderr, flush=True)
        yield name, measures(package, parts, effects, seconds)


def measures(
    package: Any, parts: Sequence[tuple[Any, Any]], effects: Sequence[Sequence[np.ndarray]], seconds: list[float]
) -> dict[str, list[float]]:
    """Returns the errors in the training rows and in the test rows, by replication."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for both, of_both in zip(parts, effects, strict=True):
        for where, rows, effect in zip(("in", "out"), both, of_both, strict=True):
            zero, one = np.zeros((len(effect), 1)), effect[:, None]
            found[f"sqrt_pehe_{where}"].append(float(package.effects.sqrt_pehe(zero, one, rows.mu0, rows.mu1)))
            found[f"ate_error_{where}"].append(float(package.effects.ate_error(zero, one, rows.mu0, rows.mu1)))
    return found | {"seconds": seconds}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, median and standard error of the values that are finite, and how many are not."""
    kept = np.array([value for value in values if np.isfinite(value)])
    error = float(kept.std(ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else None
    some = len(kept) > 0
    return {
        "mean": float(kept.mean()) if some else None,
        "median": float(np.median(kept)) if some else None,
        "standard_error": error,
        "failed": len(values) - len(kept),
    }


def table(results: dict[str, dict[str, list[float]]], numbers: Sequence[int], source: str) -> str:
    """Returns the results as a text."""
    lines = [f"{'sqrt PEHE':28}{'in: mean':>10}{'median':>9}{'out: mean':>11}{'+- se':>8}{'median':>9}"
             f"{'ATE error':>11}{'seconds':>9}"]  # fmt: skip
    for name, of_one in results.items():
        inside, outside, ate = (summary(of_one[m]) for m in ("sqrt_pehe_in", "sqrt_pehe_out", "ate_error_out"))
        cells = (inside["mean"], inside["median"], outside["mean"], outside["standard_error"], outside["median"],
                 ate["mean"], sum(of_one["seconds"]))  # fmt: skip
        shown = ["-" if cell is None else f"{cell:.{1 if i == 6 else 3}f}" for i, cell in enumerate(cells)]
        line = f"{NAMES[name]:28}" + "".join(f"{s:>{w}}" for s, w in zip(shown, (10, 9, 11, 8, 9, 11, 9), strict=True))
        lines.append(line + (f"  NaN on {outside['failed']} of {len(numbers)}" if outside["failed"] else ""))
    if source != "acic2016":
        lines += [f"{name:28}{'':19}{value:>11.3f}  (1000 replications)" for name, value in PUBLISHED.items()]
    ours = np.array(results["ensemble"]["sqrt_pehe_out"])
    for name, of_one in results.items():
        if name != "ensemble":
            theirs = np.nan_to_num(np.array(of_one["sqrt_pehe_out"]), nan=np.inf)
            lines.append(f"ours is better than {NAMES[name]} on {(ours < theirs).sum()} of {len(numbers)}")
    return "\n".join(lines)


def report(package: Any, path: Path, results: dict[str, Any], numbers: Sequence[int], args: argparse.Namespace) -> None:
    """Writes the results: ours as `replications` and `summary`, and all of them under `contestants`."""

    def listed(of_one: dict[str, list[float]]) -> list[dict[str, Any]]:
        rows = zip(*(of_one[measure] for measure in MEASURES), strict=True)
        return [
            {"replication": number} | {m: v if np.isfinite(v) else None for m, v in zip(MEASURES, values, strict=True)}
            for number, values in zip(numbers, rows, strict=True)
        ]

    def summed(of_one: dict[str, list[float]]) -> dict[str, Any]:
        return {measure: summary(of_one[measure]) for measure in MEASURES}

    content = {
        "source": "acic2016" if args.source == "acic2016" else "ihdp",
        "members": args.members,
        "replications": listed(results["ensemble"]),
        "summary": summed(results["ensemble"]),
        "contestants": {name: {"replications": listed(r), "summary": summed(r)} for name, r in results.items()},
        "versions": effect_peers.versions() | {"jax": import_module("jax").__version__},
    }
    with package.hub.files.replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
