"""Estimates the outcomes and the effect of new rows, with intervals, by a model that `twohead train` wrote."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch_ref.common.data.load import load_features
from torch_ref.common.data.tables import write_csv

from .backends import BACKENDS, Parser, import_backend, run_command
from .torch_effects import load_nets


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser("predict", __doc__, "--data FILE ")
    add = parser.add_argument
    default = Path("out/train/model.safetensors")
    add("--model", type=Path, metavar="FILE", default=default, help=f"model file (default: {default})")
    add("--data", required=True, metavar="FILE", help=".csv, .parquet or .npz with the columns of the training")
    add("--out", type=Path, metavar="FILE", default=Path("out/effects.csv"), help="file to write (default: "
        "out/effects.csv)")  # fmt: skip
    add("--alpha", type=float, default=0.05, help="probability that an interval misses (default: 0.05)")
    add("--backend", choices=tuple(BACKENDS), default="flax", help="the framework (default: flax)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="that the model was trained in")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Predicts and writes; returns 0."""
    package = import_backend(args.backend, args.dtype)
    model = load_nets(args.model) if args.backend == "torch" else package.effects.load_effect_model(args.model)
    x = load_features(args.data, model.columns or model.feature_names)
    two, (first, *others) = len(model.arms) == 2, model.arms
    outcomes = dict(zip(model.arms, model.potential_outcomes(x), strict=True))
    columns = {f"y{arm}" if two else f"y_{label}": outcomes[label] for arm, label in enumerate(outcomes)}
    for label in others:
        end = "" if two else f"_{label}"
        columns[f"effect{end}"] = outcomes[label] - outcomes[first]
        if model.has_intervals:
            ends = model.effect_interval(x, args.alpha, control=first, treatment=label)
            columns[f"low{end}"], columns[f"high{end}"] = ends
    write_csv(args.out, ("row", *columns), zip(*(array.tolist() for array in columns.values()), strict=True))
    for label in others:
        of = "" if two else f" of {label} against {first}"
        average = (outcomes[label] - outcomes[first]).mean()
        print(f"{args.data}: {len(x)} rows, mean of the rows' effects{of} {average:.4g}")
    print(f"written: {args.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts; returns 0, 2 for arguments or files that cannot be used, 1 for outcomes that are not finite."""
    args = parse(arguments)
    return run_command(lambda: run(args))
