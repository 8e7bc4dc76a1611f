"""What `twohead train` can be told, and which of it goes together."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_ref.common.settings.optimizers import Optimizer, make_optimizer
from torch_ref.common.settings.schedules import make_schedule

from ..effects.plots import figure as empty_figure
from ..effects.settings import EffectSettings
from ..effects.streams.prepare import IN_MEMORY
from .backends import BACKENDS, Parser

# What `--help-all` begins with.
ABOUT = """Trains a model in one of the frameworks: on made-up data, on ACIC 2016, or on a table of your own.

The two-head model estimates effects: a summary, each row's outcomes and effect, the weights and pictures. With the
flax backend an ensemble of nets also gives intervals; torch trains a single net. The two-input/two-output model writes
its weights, its losses and a picture of them.
"""
HELP = """usage: twohead train [OPTIONS]

Trains a two-head model on a table and estimates the effect of a treatment:
a summary, each row's outcomes and effect, the weights, and pictures.

  --data SOURCE       a .csv, .parquet or .npz file, a folder, or acic2016:1
  --stream            reads a large file in parts, as folders always are
  --treatment COLUMN  each row's arm (default: t); --control LABEL comes first
  --outcome COLUMN    what came out (default: y); --binary where it is 0 or 1
  --features COLUMN ...  only these are features; --ignore COLUMN ... not these
  --drop-missing      leaves out rows without treatment or outcome
  --out DIR           where to write (default: out/train)
  --report FILE       an HTML page that shows it all, to send on
  --learners nets trees  boosted trees beside the nets, weighed by rows not seen
  --members N         nets (default: 20); --no-intervals for 5 and no intervals
  --backend NAME      flax, or torch for a single net of the reference
  --model NAME        two-head, or two-in-two-out
  --checkpoint DIR    keeps the training there, to go on after an interruption
  --help-all          all options: model, loss, optimiser, devices

examples:
  twohead train --data my.csv --treatment drug --outcome days --out out/mine
  twohead train --data acic2016:1 --no-intervals --epochs 50
  twohead train --model two-in-two-out --data synthetic --steps 5000"""
# Options that only one of the models has a use for.
_ONLY = {
    "two-head": (
        "treatment", "control", "outcome", "binary", "weight", "groups", "features", "ignore", "categories",
        "drop_missing", "replication", "report", "less_is_better", "sample",
        "learners", "bins", "trim", "bootstrap", "representation_features", "head_features",
        "reduction", "cfr_weights", "balance", "balance_weight", "targeted", "members",
        "intervals", "validation_share", "patience",
    ),
    "two-in-two-out": ("hidden_features",),
}  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments; those that were not given are None."""
    parser = Parser("train", ABOUT, short=HELP)
    add = parser.add_argument
    add("--model", choices=tuple(_ONLY), default="two-head")
    add("--backend", choices=tuple(BACKENDS), default="flax", help="the framework (default: flax)")
    add("--data", metavar="SOURCE", default="synthetic", help="synthetic, acic2016:1 to acic2016:10, a file: .csv, "
        ".parquet, .npz; or a folder of .parquet files, a pattern or a URL, read in parts")  # fmt: skip
    add("--report", type=Path, metavar="FILE", help="write an HTML page that shows it all: effects, who gains, "
        "overlap, balance, sensitivity; two-head with flax")  # fmt: skip
    add("--less-is-better", action="store_true", default=None, help="a smaller outcome is the better one: whom the "
        "report says to treat")  # fmt: skip
    add("--out", type=Path, default=Path("out/train"), help="folder for what is written (default: out/train)")
    add("--seed", type=int, default=0, help="of the first weights and of the batches")
    add("--dtype", choices=("float32", "float64"), default="float32")

    table = parser.add_argument_group("the table, two-head only")
    add = table.add_argument
    add("--treatment", metavar="COLUMN", help="column with each row's arm, of any label (default: t)")
    add("--control", metavar="LABEL", help="the arm to compare with (default: the first in order)")
    add("--outcome", metavar="COLUMN", help="column with the outcome (default: y)")
    add("--binary", action="store_true", default=None, help="the outcome is 0 or 1")
    add("--weight", metavar="COLUMN", help="column with the rows' weights in the loss")
    add("--groups", metavar="COLUMN", help="column with the rows' clusters: numbers or texts")
    add("--features", nargs="+", metavar="COLUMN", help="columns that are features (default: all others)")
    add("--ignore", nargs="+", metavar="COLUMN", help="columns that are no features")
    add("--categories", nargs="+", metavar="COLUMN", help="features that are categories, though they look like numbers")
    add("--drop-missing", action="store_true", default=None, help="leave out rows without treatment or outcome")
    add("--stream", action="store_true", help="read a .parquet or .csv file in parts, so that it may be larger than "
        "memory; a folder of .parquet files, a pattern and a URL always are")  # fmt: skip
    add("--sample", type=int, metavar="N", help="rows drawn from a table that is read in parts: they say what "
        "levels and pieces features have, and which rows are held out (default: 100000)")  # fmt: skip
    add("--replication", type=int, help="which replication of an .npz file (default: 1)")

    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--representation-features", type=int, nargs="*", metavar="N", help="widths of the representation, two-head")
    add("--head-features", type=int, nargs="*", metavar="N", help="hidden widths of each head, two-head")
    add("--hidden-features", type=int, nargs="*", metavar="N", help="hidden widths, two-in-two-out")
    add("--activation", help="of the hidden layers")
    add("--final-activation", help="of the outputs (default: identity)", default="identity")

    ensemble = parser.add_argument_group("the ensemble, two-head only")
    add = ensemble.add_argument
    add("--members", type=int, metavar="N", help="nets (default: 20, or 5 with --no-intervals, or 1 with torch)")
    add("--no-intervals", action="store_false", default=None, dest="intervals", help="fewer nets, and no second "
        "ensemble that says how wide intervals have to be")  # fmt: skip
    add("--learners", nargs="+", choices=("nets", "trees"), help="nets, or nets and trees: boosted trees beside the "
        "nets, each weighed by what it does on rows not seen (default: nets)")  # fmt: skip
    add("--bins", type=int, metavar="N", help="pieces of each feature (default: 8); 0 takes features as they are")
    add("--trim", type=float, metavar="P", help="leave rows out of the average effects whose propensity is below P or "
        "above 1 - P")  # fmt: skip
    add("--bootstrap", action="store_true", default=None, help="intervals from the nets' spread alone, without the "
        "second ensemble that calibrates them")  # fmt: skip
    add("--validation-share", type=float, metavar="S", help="of each arm, held out to stop by (default: 0.2)")
    add("--patience", type=int, metavar="N", help="epochs without a better loss, after which a net stops (default: 20, "
        "or as many as 500 steps make, but at least 12)")  # fmt: skip

    training = parser.add_argument_group("the training")
    add = training.add_argument
    add("--epochs", type=int, help="how often every row is seen, at most (default: two-head 300, otherwise 100)")
    add("--steps", type=int, help="how many steps to take, at most, instead of --epochs")
    add("--batch-size", type=int, default=100, help="rows in a batch (default: 100)")
    add("--criterion", default="squared_error", help="squared_error or sigmoid_binary_cross_entropy (--binary)")
    add("--reduction", help="batch (CFR's, the default) or per_head (the article's), two-head")
    add("--cfr-weights", action="store_true", default=None, help="weigh the arms alike, as CFR does, two-head")
    add("--balance", help="penalty on how far the arms lie apart, two-head: linear_mmd, rbf_mmd or wasserstein")
    add("--targeted", action="store_true", default=None, help="a propensity head and targeted regularisation "
        "(DragonNet), two-head")  # fmt: skip
    add("--balance-weight", type=float, help="its factor (default: 1)")
    add("--optimizer", help="adam, adamw, rmsprop or sgd (default: two-head adamw with a decay of 0.5, otherwise adam)")
    add("--lr", type=float, help="learning rate (default: the optimiser's own)")
    add("--weight-decay", type=float)
    add("--momentum", type=float)
    add("--clip-norm", type=float, help="largest norm of the gradients")
    add("--schedule", default="constant", help="constant, step, exponential or cosine (default: constant)")
    add("--step-size", type=int, help="steps between two falls of the step schedule")
    add("--gamma", type=float, help="factor of the step and exponential schedules")
    add("--T-max", type=int, help="steps from top to bottom of the cosine schedule")
    add("--eta-min", type=float, help="bottom of the cosine schedule")

    machine = parser.add_argument_group("the machine")
    add = machine.add_argument
    add("--precision", default="float32", help="of the products: float32, tf32 or bfloat16 (default: float32)")
    add("--checkpoint", type=Path, metavar="DIR", help="keep checkpoints there; the same command goes on from "
        "the last")  # fmt: skip
    add("--every", type=int, metavar="N", help="steps between two checkpoints (default: about 10 seconds)")
    add("--compile-cache", type=Path, metavar="DIR", help="keep compiled programs there for the next run, flax")
    add("--distributed", action="store_true", help="share the training with the other processes that run this command "
        "with the same arguments; process 0 writes the files")  # fmt: skip
    add("--coordinator", metavar="HOST:PORT", help="of process 0 (default: what the cluster, or torchrun, says)")
    add("--processes", type=int, metavar="N", help="how many there are (likewise)")
    add("--process-id", type=int, metavar="I", help="which this is, from 0 (likewise)")
    return parser.parse_args(arguments)


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns those of the arguments that the user gave a value."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def optimizer_of(args: argparse.Namespace) -> Optimizer:
    """Returns the settings of the optimiser."""
    schedule = make_schedule(args.schedule, **given(args, "step_size", "gamma", "T_max", "eta_min"))
    chosen = {"schedule": schedule, **given(args, "lr", "weight_decay", "momentum", "clip_norm")}
    if args.optimizer is None and args.model == "two-head":
        chosen = vars(EffectSettings().optimizer) | chosen
    name = args.optimizer or {"two-head": "adamw", "two-in-two-out": "adam"}[args.model]
    return make_optimizer(name, **chosen)


def settings_of(args: argparse.Namespace, members: int, intervals: bool) -> EffectSettings:
    """Returns the settings of the ensemble.

    Args:
        args: the command line's.
        members: nets, unless the user says so; torch trains one.
        intervals: whether effects get intervals.
    """
    chosen = given(
        args, "representation_features", "head_features", "activation", "reduction", "cfr_weights", "balance",
        "balance_weight", "epochs", "steps", "validation_share", "patience", "learners", "bins", "targeted",
    )  # fmt: skip
    members = args.members if args.members is not None else 1 if args.backend == "torch" else members
    return EffectSettings(
        binary=bool(args.binary) or args.criterion == "sigmoid_binary_cross_entropy",
        optimizer=optimizer_of(args), members=members, bootstrap=intervals,
        calibrate=intervals and members > 1 and not args.bootstrap, batch_size=args.batch_size,
        seed=args.seed, precision=args.precision, dtype=args.dtype, **chosen,
    )  # fmt: skip


def check_streamed(args: argparse.Namespace) -> None:
    """Raises ValueError for what a table that is read in parts has no answer to."""
    for name, value in given(args, "groups", "drop_missing", "replication", "report", "trim", "bootstrap").items():
        option, got = f"--{name.replace('_', '-')}", "it" if value is True else value
        raise ValueError(f"{option}: expected none with a table that is read in parts, got {got}; {IN_MEMORY}")
    if args.learners == ["nets", "trees"]:
        raise ValueError(f"--learners: expected nets with a table that is read in parts, got nets trees; {IN_MEMORY}")
    check_final_activation(args)


def check_final_activation(args: argparse.Namespace) -> None:
    """Raises ValueError for a final activation that effects cannot have."""
    if args.final_activation != "identity":
        raise ValueError(f"--final-activation: expected identity, as effects want it, got {args.final_activation}")


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that the model or the backend has no use for."""
    for model, options in _ONLY.items():
        for name in given(args, *options):
            if model != args.model:
                raise ValueError(f"--{name.replace('_', '-')}: expected with --model {model}, got {args.model}")
    for name in given(args, "coordinator", "processes", "process_id"):
        if not args.distributed:
            raise ValueError(f"--{name.replace('_', '-')}: expected with --distributed, got it alone")
    if args.compile_cache and args.backend != "flax":
        raise ValueError(f"--compile-cache: expected with --backend flax, got {args.backend}, which compiles nothing")
    if args.less_is_better and not args.report:
        raise ValueError("--less-is-better: expected with --report, got it alone")
    if args.report and args.backend != "flax":
        raise ValueError(
            f"--report: expected with --backend flax, got {args.backend}, whose single net has no averages"
        )
    if args.report:
        empty_figure(1, 1)  # raises at once where matplotlib is missing, not after the training
    if args.backend == "torch" and args.learners == ["nets", "trees"]:
        raise ValueError("--learners: expected nets with --backend torch, got nets trees")
    if args.backend == "torch" and args.members not in (None, 1):
        raise ValueError(f"--members: expected 1 with --backend torch, which trains a single net, got {args.members}")
    if args.final_activation != "identity" and args.criterion == "sigmoid_binary_cross_entropy":
        raise ValueError(f"--final-activation: expected identity, as {args.criterion} takes logits, "
                         f"got {args.final_activation}")  # fmt: skip
