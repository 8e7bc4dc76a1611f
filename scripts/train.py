"""Trains one of the models, in one of the frameworks, on made-up data, on ACIC 2016, or on a table of your own.

Writes the weights, the losses and a picture of them, and for the two-head model every row's outcomes and effect.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plots import loss_curves
from sides import BACKENDS, SIDES, Side, import_backend


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=("two-head", "two-in-two-out"), default="two-head")
    add("--backend", choices=tuple(BACKENDS), default="flax", help="the framework (default: flax)")
    add("--data", metavar="SOURCE", default="synthetic", help="synthetic, acic2016:1 to acic2016:10, or a file: .csv, "
        ".parquet, .npz")  # fmt: skip
    add("--out", type=Path, default=Path("out/train"), help="folder for what is written (default: out/train)")
    add("--seed", type=int, default=0, help="of the first weights and of the batches")
    add("--dtype", choices=("float32", "float64"), default="float32")

    table = parser.add_argument_group("the table")
    add = table.add_argument
    add("--treatment", default="t", metavar="COLUMN", help="column that is 0 or 1 (default: t)")
    add("--outcome", default="y", metavar="COLUMN", help="column with the outcome (default: y)")
    add("--weight", metavar="COLUMN", help="column with the rows' weights in the loss")
    add("--replication", type=int, default=1, help="which replication of an .npz file (default: 1)")

    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--representation-features", type=int, nargs="*", metavar="N", help="widths of the representation")
    add("--head-features", type=int, nargs="*", metavar="N", help="hidden widths of each head")
    add("--hidden-features", type=int, nargs="*", metavar="N", help="hidden widths, two-in-two-out")
    add("--activation", help="of the hidden layers")
    add("--final-activation", help="of the outputs (default: identity)", default="identity")

    training = parser.add_argument_group("the training")
    add = training.add_argument
    add("--epochs", type=int, help="how often every row is seen (default: 100)")
    add("--steps", type=int, help="how many steps to take, instead of --epochs")
    add("--batch-size", type=int, default=100, help="rows in a batch (default: 100)")
    add("--criterion", default="squared_error", help="squared_error or sigmoid_binary_cross_entropy")
    add("--reduction", default="per_head", help="per_head (the article's) or batch (CFR's)")
    add("--cfr-weights", action="store_true", help="weigh the arms alike, as CFR does")
    add("--optimizer", default="adam", help="adam, adamw, rmsprop or sgd (default: adam)")
    add("--lr", type=float, help="learning rate (default: the optimiser's own)")
    add("--weight-decay", type=float)
    add("--momentum", type=float)
    add("--clip-norm", type=float, help="largest norm of a gradient")
    add("--schedule", default="constant", help="constant, step, exponential or cosine (default: constant)")
    add("--step-size", type=int, help="steps between two falls of the step schedule")
    add("--gamma", type=float, help="factor of the step and exponential schedules")
    add("--T-max", type=int, help="steps from top to bottom of the cosine schedule")
    add("--eta-min", type=float, help="bottom of the cosine schedule")
    return parser.parse_args(arguments)


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns those of the arguments that the user gave a value."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def training_settings(args: argparse.Namespace, package: Any) -> dict[str, Any]:
    """Returns what both models' `fit` is called with, but for the loss."""
    schedule = package.make_schedule(args.schedule, **given(args, "step_size", "gamma", "T_max", "eta_min"))
    chosen = given(args, "lr", "weight_decay", "momentum", "clip_norm")
    length = given(args, "epochs", "steps") or {"epochs": 100}
    return {
        "optimizer": package.make_optimizer(args.optimizer, schedule=schedule, **chosen),
        "batch_size": args.batch_size,
        "seed": args.seed,
        **length,
    }


def train_two_head(args: argparse.Namespace, package: Any) -> None:
    """Trains the two-head model and reports the effects."""
    data = package.load_data(
        args.data, treatment=args.treatment, outcome=args.outcome, weight=args.weight, replication=args.replication
    )
    binary = args.criterion == "sigmoid_binary_cross_entropy"
    if binary:
        package.hub.checks.check_binary("outcome", data.y)
    if args.cfr_weights:
        ones = np.ones(len(data)) if data.w is None else data.w
        data = replace(data, w=ones * package.treatment_weights(data.t))
    scales = package.Scales.of(data, binary=binary)
    chosen = given(args, "representation_features", "head_features", "activation", "final_activation")
    config = {"in_features": data.x.shape[1], "out_features": data.y.shape[1], **chosen}
    side = SIDES[args.backend]("TwoHead", config, seed=args.seed, dtype=args.dtype)
    loss = package.FactualLoss(args.criterion, args.reduction)
    treated = int(data.t.sum())
    print(f"{args.data}: {len(data)} rows, {treated} treated, {data.x.shape[1]} features")
    scaled = scales.standardize(data)
    train(args, side, scaled.arrays(), ("loss of head 0", "loss of head 1"), loss=loss)
    y0, y1 = (scales.outcome(y) for y in side.predict(scaled.x))
    write_rows(package, args.out / "effects.csv", ("row", "y0", "y1", "effect"), np.hstack([y0, y1, y1 - y0]).tolist())
    print(f"average treatment effect {np.mean(y1 - y0):.4f}")
    if data.mu0 is not None and data.mu1 is not None:
        print(f"known effects: sqrt PEHE {package.sqrt_pehe(y0, y1, data.mu0, data.mu1):.4f}, "
              f"ATE error {package.ate_error(y0, y1, data.mu0, data.mu1):.4f}")  # fmt: skip


def train_two_in_two_out(args: argparse.Namespace, package: Any) -> None:
    """Trains the two-input/two-output model, on the inputs and outputs as they are."""
    data = package.load_curves(args.data)
    chosen = given(args, "hidden_features", "activation", "final_activation")
    config = {"in_features": data["x1"].shape[1], "out_features": data["y1"].shape[1], **chosen}
    side = SIDES[args.backend]("TwoInTwoOut", config, seed=args.seed, dtype=args.dtype)
    print(f"{args.data}: {len(data['x1'])} rows, {data['x1'].shape[1]} features in each input")
    train(args, side, data, ("loss of output 1", "loss of output 2"), loss=package.JointLoss(args.criterion))


def train(
    args: argparse.Namespace, side: Side, data: dict[str, np.ndarray], outputs: tuple[str, str], **more: Any
) -> None:
    """Trains, and writes the weights, the losses and a picture of them."""
    start = time.perf_counter()
    losses = side.fit(data, **training_settings(args, side.package), **more)
    seconds = time.perf_counter() - start
    print(f"{len(losses)} steps in {seconds:.1f} s with {side.backend}, compile time included")
    print(f"loss {losses[0].sum():.4f} at the first step, {losses[-1].sum():.4f} at the last")
    side.save(args.out / "model.safetensors")
    write_rows(side.package, args.out / "losses.csv", ("step", *outputs), losses.tolist())
    try:
        figure = loss_curves({side.backend: losses}, outputs, f"{args.model} on {args.data}")
    except ImportError as error:
        print(f"no picture of the losses: {error}")
    else:
        with side.package.hub.files.replacing(args.out / "losses.png") as path:
            figure.savefig(path)


def write_rows(package: Any, path: Path, header: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    """Writes numbered rows of numbers to a .csv file."""
    with package.hub.files.replacing(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([number, *row] for number, row in enumerate(rows))


def main() -> int:
    """Trains; returns 0, or 2 for arguments or data that cannot be used, or 1 for a training that diverged."""
    args = parse()
    try:
        package = import_backend(args.backend, args.dtype)
        {"two-head": train_two_head, "two-in-two-out": train_two_in_two_out}[args.model](args, package)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
