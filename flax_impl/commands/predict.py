"""Applies a model that train.py saved to new rows: writes each row's outcomes and effect, with its interval."""

import argparse
import sys
from pathlib import Path

from .sides import BACKENDS, import_backend


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--model", type=Path, default=Path("out/train/model.safetensors"), help="(default: out/train/model.safetensors)"
    )
    add("--data", required=True, metavar="FILE", help=".csv, .parquet or .npz with the columns of the training")
    add("--out", type=Path, default=Path("out/effects.csv"), help="file to write (default: out/effects.csv)")
    add("--alpha", type=float, default=0.05, help="probability that an interval misses (default: 0.05)")
    add("--backend", choices=tuple(BACKENDS), default="flax", help="the framework (default: flax)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="that the model was trained in")
    return parser.parse_args()


def main() -> int:
    """Predicts; returns 0, or 2 for arguments or files that cannot be used, or 1 for outcomes that are not finite."""
    args = parse()
    try:
        package = import_backend(args.backend, args.dtype)
        model = package.effects.load_effect_model(args.model)
        x = package.data.load_features(args.data, model.feature_names)
        members = model.member_outcomes(x)
        y0, y1 = (outcomes.mean(axis=0) for outcomes in members)
        columns = {"y0": y0, "y1": y1, "effect": y1 - y0}
        if model.ensemble.bootstrap and model.members > 1:
            columns["low"], columns["high"] = model.interval(members[1] - members[0], args.alpha)
        rows = zip(*(array.tolist() for array in columns.values()), strict=True)
        package.hub.tables.write_csv(args.out, ("row", *columns), rows)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 2
    print(f"{args.data}: {len(x)} rows, average treatment effect {(y1 - y0).mean():.4g}")
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
