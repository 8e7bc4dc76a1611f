"""Measures the effects on benchmarks: IHDP from a folder, or ACIC 2016, all replications trained at once."""

import argparse
import importlib.util
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torch_ref.common.checks.arguments import check_integer, check_row_numbers
from torch_ref.common.data.design import finite_tables
from torch_ref.common.data.tables import read_npz
from torch_ref.common.data.treatment_data import Scales, TreatmentData
from torch_ref.common.files.array_file import replacing

from ..data import load_data
from ..effects import EffectSettings, ate_error, sqrt_pehe
from .backends import Parser, import_backend, run_command
from .pictures import effect_errors

MEASURES = ("sqrt_pehe_in", "sqrt_pehe_out", "ate_error_in", "ate_error_out", "seconds")
# Mean errors on test rows, and where they stand. CausalPFN: arXiv 2506.07918, tables 1 and 3.
_MANY, _TABLE = "published, 1000 replications", "published, CausalPFN's table"
_HUNDRED = f"{_TABLE}, 100 replications"
PUBLISHED = {
    "ihdp": (("CausalPFN", 0.58, _HUNDRED), ("CFR Wasserstein", 0.76, _MANY), ("TARNet", 0.95, _MANY),
             ("TabPFN v2", 0.95, _HUNDRED)),
    "acic2016": tuple((name, value, _TABLE) for name, value in (
        ("TabPFN v2, fine-tuned", 0.47), ("TabPFN v2, as it is", 0.54), ("BART", 0.68), ("X-learner, tuned", 0.85),
        ("CausalPFN", 0.92), ("T-learner, tuned", 1.03), ("causal forest, tuned", 1.32), ("DragonNet, tuned", 2.11),
        ("TARNet, tuned", 2.20))),
}  # fmt: skip
OURS = {"single": "ours, one net", "ensemble": "ours, nets", "learners": "ours, nets and trees"}
_JUDGES = ("ensemble", "learners")  # it is counted how often these are better
_HELD_OUT = 0.2  # of the rows, where no file says which
_ACIC_TRAIN, _ACIC_SEED = 4321, 42  # rows to train on and the first seed, as CausalPFN draws them

Split = tuple[TreatmentData, TreatmentData]  # the rows to train on, and the test rows
Result = dict[str, list[float]]  # by measure, one for each replication


class Peer(NamedTuple):
    """Another package that estimates effects.

    Attributes:
        package: its name among the installed ones.
        words: what the table calls it.
        estimate: takes features, treatment and outcome, and a list of features; returns the effects of each of these.
    """

    package: str
    words: str
    estimate: Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[np.ndarray]], list[np.ndarray]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser("ihdp", __doc__, "DIR ")
    add = parser.add_argument
    add("source", metavar="DIR", help="a folder with ihdp_npci_N.csv, or an .npz file in the usual layout, and "
        "perhaps test_rows.json; or acic2016")  # fmt: skip
    add("--replications", default="", metavar="1-10", help="which (default: all there are)")
    add("--members", type=int, default=5, help="nets in an ensemble (default: 5)")
    add("--no-trees", action="store_true", help="leaves out the nets with trees beside them, which need CatBoost")
    add("--no-peers", action="store_true", help="leaves the peers out that are installed")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="where to write the results")
    add("--plot", type=Path, metavar="FILE", help="where to draw them")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, peers: Mapping[str, Peer] = {}) -> int:
    """Measures; returns 0, 2 for arguments or files that cannot be used, 1 for a training that diverged.

    Args:
        arguments: of the command line; None takes the process's.
        peers: others to measure on the same rows, by the name that the JSON report gives them.
    """
    args = parse(arguments)
    return run_command(lambda: run(args, {} if args.no_peers else peers))


def run(args: argparse.Namespace, peers: Mapping[str, Peer]) -> int:
    """Measures, prints the table and writes the files; returns 0."""
    import_backend("flax")
    check_integer("members", args.members, at_least=1)  # or the single net would train before the error
    numbers = which(args.source, args.replications)
    parts = [split(args.source, number) for number in numbers]
    names = OURS | {name: peer.words for name, peer in peers.items()}
    results = dict(contestants(parts, args, peers))
    print(table(results, names, numbers, args.source))
    if args.json:
        with replacing(args.json) as beside:
            beside.write_text(json.dumps(report(results, peers, numbers, args), indent=1) + "\n")
    if args.plot:
        with replacing(args.plot) as beside:
            errors = {names[name]: of_one["sqrt_pehe_out"] for name, of_one in results.items()}
            effect_errors(errors, ours=set(OURS.values())).savefig(beside)
    return 0


def which(source: str, asked: str) -> list[int]:
    """Returns the numbers of the replications: those asked for, or all there are."""
    if source == "acic2016":
        there = list(range(1, 11))
    elif source.endswith(".npz"):
        arrays = read_npz(Path(source)) if Path(source).is_file() else {}
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


def split(source: str, number: int) -> Split:
    """Returns a replication's rows to train on and its test rows: those of test_rows.json, or a fifth, drawn.

    ACIC 2016 is split as CausalPFN's table splits it, so that the two can be compared.
    """
    if source == "acic2016":
        data = load_data(f"acic2016:{number}")
        order = np.random.default_rng(_ACIC_SEED + number - 1).permutation(len(data))
        return data.take(order[:_ACIC_TRAIN]), data.take(order[_ACIC_TRAIN:])
    if source.endswith(".npz"):
        data, folder = load_data(source, replication=number), Path(source).parent
    else:
        data, folder = load_data(Path(source) / f"ihdp_npci_{number}.csv"), Path(source)
    if data.mu0 is None or data.mu1 is None:
        raise ValueError(f"{source}: expected the expected outcomes mu0 and mu1, got none")
    path = folder / "test_rows.json"
    if not path.is_file():
        return data.split(_HELD_OUT, seed=number)
    try:
        rows = np.asarray(json.loads(path.read_text())[str(number)])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the row numbers of replication {number}, got {error!r}") from error
    rows = check_row_numbers(f"{path}, replication {number}", rows, len(data))
    return data.take(np.setdiff1d(np.arange(len(data)), rows)), data.take(rows)


def contestants(
    parts: Sequence[Split], args: argparse.Namespace, peers: Mapping[str, Peer]
) -> Iterator[tuple[str, Result]]:
    """Yields each contestant's name and its measures."""
    from ..effects import fit_effects_each

    trains = [train for train, _ in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the covariates are what they are
        for name, settings in settings_of_ours(args).items():
            start = time.perf_counter()
            models = fit_effects_each(trains, settings)
            seconds = (time.perf_counter() - start) / len(parts)
            effects = [[model.effect(rows.x) for rows in both] for model, both in zip(models, parts, strict=True)]
            yield name, measures(parts, effects, [seconds] * len(parts))
    for name, peer in peers.items():
        effects, taken = [], []
        for number, (train, test) in enumerate((finite_tables(*both) for both in parts), 1):
            x, y, asked, unit = train.x, train.y[:, 0], [train.x, test.x], 1.0
            if args.source == "acic2016":  # as they lie, CATENets and causalml end in NaN on all ten
                scales = Scales.of(train)
                x, *asked = map(scales.features, (x, *asked))
                y, unit = (y - scales.y_mean) / scales.y_std, float(scales.y_std[0])
            start = time.perf_counter()
            effects.append([unit * effect for effect in peer.estimate(x, train.t, y, asked)])
            taken.append(time.perf_counter() - start)
            print(f"{peer.words}: {number} of {len(parts)}", file=sys.stderr, flush=True)
        yield name, measures(parts, effects, taken)


def settings_of_ours(args: argparse.Namespace) -> dict[str, EffectSettings]:
    """Returns the settings of each of our contestants; trees are one where CatBoost is there."""
    settings = {
        "single": EffectSettings(members=1, seed=args.seed),
        "ensemble": EffectSettings(members=args.members, seed=args.seed),
    }
    if not args.no_trees and importlib.util.find_spec("catboost") is not None:
        settings["learners"] = replace(settings["ensemble"], learners=("nets", "trees"))
    return settings


def measures(parts: Sequence[Split], effects: Sequence[Sequence[np.ndarray]], seconds: list[float]) -> Result:
    """Returns the errors in the training rows and in the test rows, by replication."""
    found: Result = {name: [] for name in MEASURES}
    for both, of_both in zip(parts, effects, strict=True):
        for where, rows, effect in zip(("in", "out"), both, of_both, strict=True):
            assert rows.mu0 is not None  # split has seen to it
            assert rows.mu1 is not None
            outcomes = np.zeros((len(effect), 1)), effect[:, None], rows.mu0, rows.mu1
            found[f"sqrt_pehe_{where}"].append(float(sqrt_pehe(*outcomes)))
            found[f"ate_error_{where}"].append(float(ate_error(*outcomes)))
    return found | {"seconds": seconds}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, median and standard error of the values that are finite, and how many are not."""
    kept = np.array([value for value in values if np.isfinite(value)])
    return {
        "mean": float(kept.mean()) if len(kept) else None,
        "median": float(np.median(kept)) if len(kept) else None,
        "standard_error": float(kept.std(ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else None,
        "failed": len(values) - len(kept),
    }


def table(results: Mapping[str, Result], names: Mapping[str, str], numbers: Sequence[int], source: str) -> str:
    """Returns the results as a text: a line for each contestant, and the figures that others published."""
    judges = {name: np.array(results[name]["sqrt_pehe_out"]) for name in _JUDGES if name in results}
    lines = [f"{'sqrt PEHE':28}{'in: mean':>10}{'median':>9}{'out: mean':>11}{'+- se':>8}{'median':>9}"
             f"{'ATE error':>11}{'seconds':>9}{'ours wins':>11}"]  # fmt: skip
    for name, of_one in results.items():
        inside, outside, ate = (summary(of_one[m]) for m in ("sqrt_pehe_in", "sqrt_pehe_out", "ate_error_out"))
        cells = (inside["mean"], inside["median"], outside["mean"], outside["standard_error"], outside["median"],
                 ate["mean"], sum(of_one["seconds"]))  # fmt: skip
        shown = ["-" if cell is None else f"{cell:.{1 if i == 6 else 3}f}" for i, cell in enumerate(cells)]
        theirs = np.nan_to_num(np.array(of_one["sqrt_pehe_out"]), nan=np.inf)
        shown.append(", ".join("-" if name == j else str((ours < theirs).sum()) for j, ours in judges.items()))
        line = f"{names[name]:28}" + "".join(
            f"{s:>{w}}" for s, w in zip(shown, (10, 9, 11, 8, 9, 11, 9, 11), strict=True)
        )
        lines.append(line + (f"  NaN on {outside['failed']} of {len(numbers)}, left out" if outside["failed"] else ""))
    published = PUBLISHED["acic2016" if source == "acic2016" else "ihdp"]
    lines += [f"{name:28}{'':19}{value:>10.2f}   ({where})" for name, value, where in published]
    judged = ", then ".join(f'"{names[name]}"' for name in judges)
    lines.append(f"ours wins: on how many of {len(numbers)} the error on test rows is smaller by {judged}")
    return "\n".join(lines)


def report(
    results: Mapping[str, Result], peers: Mapping[str, Peer], numbers: Sequence[int], args: argparse.Namespace
) -> dict[str, Any]:
    """Returns the results for a file: ours as `replications` and `summary`, and all of them under `contestants`."""
    contestants = {}
    for name, of_one in results.items():
        rows = zip(*(of_one[measure] for measure in MEASURES), strict=True)
        replications = [
            {"replication": number} | {m: v if np.isfinite(v) else None for m, v in zip(MEASURES, values, strict=True)}
            for number, values in zip(numbers, rows, strict=True)
        ]
        summed = {measure: summary(of_one[measure]) for measure in MEASURES}
        contestants[name] = {"replications": replications, "summary": summed}
    return {
        "source": "acic2016" if args.source == "acic2016" else "ihdp",
        "members": args.members,
        **contestants["ensemble"],
        "contestants": contestants,
        "versions": {package: version(package) for package in [*(peer.package for peer in peers.values()), "jax"]},
    }
