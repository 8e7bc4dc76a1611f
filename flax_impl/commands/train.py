"""Trains a model in one of the frameworks, and writes what it found: `twohead train`."""

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from torch_ref.common.data.load import load_curves, load_data
from torch_ref.common.data.tables import write_csv
from torch_ref.common.data.treatment_data import count
from torch_ref.common.files.array_file import replacing
from torch_ref.common.settings.optimizers import Optimizer, make_optimizer
from torch_ref.common.settings.schedules import make_schedule

from ..effects import EffectReport, ate_error, effect_figures, sqrt_pehe
from ..effects.effect_model import EffectModel
from ..effects.overlap import examine_overlap
from ..effects.prepare import check_every_arm
from ..effects.settings import EffectSettings
from .backends import import_backend, join_processes, run_command
from .pictures import loss_curves
from .sides import SIDES
from .torch_effects import fit_net
from .train_options import check, given, parse


def optimizer_of(args: argparse.Namespace) -> Optimizer:
    """Returns the settings of the optimiser."""
    schedule = make_schedule(args.schedule, **given(args, "step_size", "gamma", "T_max", "eta_min"))
    chosen = {"schedule": schedule, **given(args, "lr", "weight_decay", "momentum", "clip_norm")}
    if args.optimizer is None and args.model == "two-head":
        chosen = vars(EffectSettings().optimizer) | chosen
    name = args.optimizer or {"two-head": "adamw", "two-in-two-out": "adam"}[args.model]
    return make_optimizer(name, **chosen)


def train_two_head(args: argparse.Namespace, package: ModuleType, shared: dict[str, Any], writes: bool) -> list[Path]:
    """Trains the two-head model, reports the effects, and returns the files it wrote."""
    named = given(
        args, "treatment", "control", "outcome", "weight", "groups", "features", "ignore", "categories", "replication"
    )
    data = load_data(args.data, missing="drop" if args.drop_missing else "error", **named)
    try:
        check_every_arm(data)
    except ValueError as error:
        raise ValueError(f"{args.data}: {error}") from error
    if args.final_activation != "identity":
        raise ValueError(f"--final-activation: expected identity, as effects want it, got {args.final_activation}")
    say(writes, f"{args.data}: {count(data)}")
    if writes:
        args.out.mkdir(parents=True, exist_ok=True)
    one = args.backend == "torch"
    intervals = args.intervals is None and not one
    members = args.members if args.members is not None else 1 if one else 20 if intervals else 5
    chosen = given(
        args, "representation_features", "head_features", "activation", "reduction", "cfr_weights", "balance",
        "balance_weight", "epochs", "steps", "validation_share", "patience", "learners", "bins", "targeted",
    )  # fmt: skip
    settings = EffectSettings(
        binary=bool(args.binary) or args.criterion == "sigmoid_binary_cross_entropy",
        optimizer=optimizer_of(args), members=members, bootstrap=intervals,
        calibrate=intervals and members > 1 and not args.bootstrap, batch_size=args.batch_size,
        seed=args.seed, precision=args.precision, dtype=args.dtype, **chosen,
    )  # fmt: skip
    start = time.perf_counter()
    model = (fit_net if one else package.effects.fit_effects)(data, settings, **shared)
    seconds = time.perf_counter() - start
    steps = sum(int(np.isfinite(losses[:, 0]).sum()) for losses in (model.training.losses if model.training else ()))
    nets = "1 net" if members == 1 else f"{members} nets"
    say(writes, f"{steps} steps of {nets} in {seconds:.1f} s with {args.backend}, compile time included")
    if not writes:
        return []
    report = EffectReport.of(model, data, trim=args.trim)
    if report.score is not None:
        for sentence in examine_overlap(report.score):
            warnings.warn(sentence, stacklevel=1)
    print(f"\n{report}\n")
    if data.mu0 is not None and data.mu1 is not None:
        (y0, y1), known = report.outcomes[:, :, None], (data.mu0, data.mu1)
        print(f"known effects: sqrt PEHE {sqrt_pehe(y0, y1, *known):.4g}, ATE error {ate_error(y0, y1, *known):.4g}")
    kept = np.setdiff1d(np.arange(len(data) + len(data.dropped)), data.dropped)
    written = write_effects(args, model, report, kept.tolist())  # first: what follows may fail
    if args.report:
        named = {"outcome": args.outcome or "y", "treatment": args.treatment or "t", "seed": args.seed}
        page = package.effects.effect_page(model, data, report, **named, less_is_better=bool(args.less_is_better))
        page.save(args.report)
        written.append(args.report)
    return written


def write_effects(
    args: argparse.Namespace, model: EffectModel, report: EffectReport, rows: Sequence[int]
) -> list[Path]:
    """Writes effects, nets, losses, summary and pictures, and returns the files; `rows` are numbers in the source."""
    paths = {name: args.out / name for name in ("effects.csv", "model.safetensors", "losses.csv", "summary.txt")}
    columns = report.columns()
    write_csv(paths["effects.csv"], ("row", *columns), zip(*columns.values(), strict=True), rows)
    model.save(paths["model.safetensors"])
    parts = [*(f"loss of head {arm}" for arm in range(len(report.arms))), *(["balance"] if args.balance else [])]
    parts += ["propensity", "targeted"] if args.targeted else []
    parts += ["loss on held-out rows"] if report.training.held_out is not None else []
    taken = [
        (net, step, *row)
        for net, losses in enumerate(report.training.losses)
        for step, row in enumerate(losses[np.isfinite(losses[:, 0])].tolist(), 1)
    ]
    write_csv(paths["losses.csv"], ("row", "net", "step", *parts), taken)
    with replacing(paths["summary.txt"]) as beside:
        beside.write_text(f"{report}\n")
    try:
        figures = effect_figures(report)
    except ImportError as error:
        print(f"no pictures: {error}")
        return list(paths.values())
    for name, figure in figures.items():
        paths[name] = args.out / f"{name}.png"
        with replacing(paths[name]) as beside:
            figure.savefig(beside)
    return list(paths.values())


def train_two_in_two_out(
    args: argparse.Namespace, package: ModuleType, shared: dict[str, Any], writes: bool
) -> list[Path]:
    """Trains the two-input/two-output model on inputs and outputs as they are, and returns the files it wrote."""
    data = load_curves(args.data)
    chosen = given(args, "hidden_features", "activation", "final_activation")
    config = {"in_features": data["x1"].shape[1], "out_features": data["y1"].shape[1], **chosen}
    side = SIDES[args.backend]("TwoInTwoOut", config, seed=args.seed, dtype=args.dtype)
    say(writes, f"{args.data}: {len(data['x1'])} rows, {data['x1'].shape[1]} features in each input")
    settings = {"optimizer": optimizer_of(args), "batch_size": args.batch_size, "seed": args.seed}
    settings |= {"loss": package.JointLoss(args.criterion), "precision": args.precision}
    settings |= given(args, "epochs", "steps") or {"epochs": 100}
    if writes:
        args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    losses = side.fit(data, **settings, **shared)
    seconds = time.perf_counter() - start
    say(writes, f"{len(losses)} steps in {seconds:.1f} s with {args.backend}, compile time included")
    say(writes, f"loss {losses[0].sum():.4g} at the first step, {losses[-1].sum():.4g} at the last")
    if not writes:
        return []
    outputs = ("loss of output 1", "loss of output 2")
    model, table, picture = (args.out / name for name in ("model.safetensors", "losses.csv", "losses.png"))
    side.save(model)
    write_csv(table, ("step", *outputs), losses.tolist())
    try:
        figure = loss_curves({args.backend: losses}, outputs, f"{args.model} on {args.data}")
    except ImportError as error:
        print(f"no picture of the losses: {error}")
        return [model, table]
    with replacing(picture) as beside:
        figure.savefig(beside)
    return [model, table, picture]


def say(writes: bool, line: str) -> None:
    """Prints a line in the process that writes the files."""
    if writes:
        print(line)


def run(args: argparse.Namespace) -> int:
    """Trains and writes; returns 0."""
    check(args)
    package = import_backend(args.backend, args.dtype)
    if args.compile_cache:
        package.training.cache_compilations(args.compile_cache)
    shared, writes = given(args, "checkpoint", "every"), True
    if args.distributed:
        processes, writes = join_processes(package, args.coordinator, args.processes, args.process_id)
        shared |= processes
    train = {"two-head": train_two_head, "two-in-two-out": train_two_in_two_out}[args.model]
    if written := train(args, package, shared, writes):
        print(f"written: {', '.join(map(str, written))}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; returns 0, 2 for arguments or data that cannot be used, 1 for a training that diverged."""
    args = parse(arguments)
    return run_command(lambda: run(args), at_once=args.distributed)
