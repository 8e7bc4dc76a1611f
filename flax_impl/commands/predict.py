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
    x = load_features(args.data, model.feature_names)
    y0, y1 = model.potential_outcomes(x)
    columns = {"y0": y0, "y1": y1, "effect": y1 - y0}
    if model.has_intervals:
        columns["low"], columns["high"] = model.effect_interval(x, args.alpha)
    write_csv(args.out, ("row", *columns), zip(*(array.tolist() for array in columns.values()), strict=True))
    print(f"{args.data}: {len(x)} rows, average treatment effect {(y1 - y0).mean():.4g}")
    print(f"written: {args.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts; returns 0, 2 for arguments or files that cannot be used, 1 for outcomes that are not finite."""
    args = parse(arguments)
    return run_command(lambda: run(args))
