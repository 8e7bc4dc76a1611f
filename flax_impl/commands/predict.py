"""Estimates the outcomes and the effect of new rows, with intervals, by a model that `twohead train` wrote."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torch_ref.common.data.load import load_features

from ..effects.overlap import examine_distance
from ..effects.streams.outcomes import WrittenEffects, effect_columns, write_effects, writer_of
from .backends import BACKENDS, Parser, import_backend, run_command
from .streams.source import streamed_source
from .torch_effects import load_nets


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser("predict", __doc__, "--data FILE ")
    add = parser.add_argument
    default = Path("out/train/model.safetensors")
    add("--model", type=Path, metavar="FILE", default=default, help=f"model file (default: {default})")
    add("--data", required=True, metavar="FILE", help=".csv, .parquet or .npz with the columns of the training; or "
        "a folder of .parquet files, a pattern or a URL, read in parts")  # fmt: skip
    add("--stream", action="store_true", help="read a .parquet or .csv file in parts, so that it may be larger than "
        "memory")  # fmt: skip
    add("--out", type=Path, metavar="FILE", default=Path("out/effects.csv"), help="file to write, .csv or .parquet "
        "(default: out/effects.csv)")  # fmt: skip
    add("--alpha", type=float, default=0.05, help="probability that an interval misses (default: 0.05)")
    add("--backend", choices=tuple(BACKENDS), default="flax", help="the framework (default: flax)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="that the model was trained in")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Predicts and writes; returns 0."""
    source = streamed_source(args.data, args.stream)
    package = import_backend(args.backend, args.dtype)
    model = load_nets(args.model) if args.backend == "torch" else package.effects.load_effect_model(args.model)
    if source is not None:
        written = write_effects(model, source, args.out, args.alpha)
    else:
        x = load_features(args.data, model.columns or model.feature_names)
        places, mean, std = model.ensemble.measured
        for sentence in examine_distance(x[:, places], mean, std, [model.feature_names[i] for i in places]):
            warnings.warn(sentence, stacklevel=1)
        columns, effects = effect_columns(model, x, args.alpha)
        writer_of(args.out)(args.out, iter([{"row": np.arange(len(x)), **columns}]))
        written = WrittenEffects(len(x), {label: float(effect.mean()) for label, effect in effects.items()})
    for line in written.lines(model.arms):
        print(f"{args.data}: {line}")
    print(f"written: {args.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts; returns 0, 2 for arguments or files that cannot be used, 1 for outcomes that are not finite."""
    args = parse(arguments)
    return run_command(lambda: run(args))
