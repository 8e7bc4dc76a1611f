"""Writes a model that `twohead train` wrote for processes without this package: as ONNX, or as StableHLO for jax."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .backends import Parser, import_backend, run_command

_SUFFIXES = {"onnx": "onnx", "stablehlo": "zip"}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser("export", __doc__)
    add = parser.add_argument
    default = Path("out/train/model.safetensors")
    add("--model", type=Path, metavar="FILE", default=default, help=f"model file (default: {default})")
    add("--format", choices=tuple(_SUFFIXES), default="onnx", help="of the file to write (default: onnx)")
    add("--out", type=Path, metavar="FILE", help="file to write (default: out/model.onnx, or out/model.zip with "
        "stablehlo)")  # fmt: skip
    add("--alpha", type=float, default=0.05, help="probability that an interval misses (default: 0.05)")
    args = parser.parse_args(arguments)
    args.out = args.out or Path(f"out/model.{_SUFFIXES[args.format]}")
    return args


def run(args: argparse.Namespace) -> int:
    """Exports; returns 0."""
    package = import_backend("flax")
    import jax

    with jax.enable_x64(True):  # so that it reads weights of either dtype
        model = package.effects.load_effect_model(args.model)
        package.serving.export_model(model, args.out, format=args.format, alpha=args.alpha)
    print(f"{args.model}: {len(model.feature_names)} columns, {model.members} nets"
          f"{' and trees' if model.ensemble.blend is not None else ''}")  # fmt: skip
    print(f"written: {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports; returns 0, or 2 for arguments or files that cannot be used."""
    args = parse(arguments)
    return run_command(lambda: run(args))
