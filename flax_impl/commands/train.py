"""Trains a model in one of the frameworks, and writes what it found: `twohead train`."""

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from torch_ref.common.data.load import load_curves, load_data
from torch_ref.common.data.tables import write_csv
from torch_ref.common.data.treatment_data import count, count_rows
from torch_ref.common.files.array_file import replacing
from torch_ref.common.stream.curves import stream_curves

from ..effects import EffectReport, ate_error, effect_figures, sqrt_pehe
from ..effects.effect_model import EffectModel
from ..effects.learners.training_record import TrainingRecord
from ..effects.prepare import check_every_arm
from ..effects.streams.outcomes import write_effects as write_streamed_effects
from ..effects.streams.prepare import IN_MEMORY, prepare_streamed
from .backends import import_backend, join_processes, run_command
from .pictures import loss_curves
from .sides import SIDES
from .streams.source import streamed_source
from .torch_effects import fit_net, train_streamed_net
from .train_options import check, check_final_activation, check_streamed, given, optimizer_of, parse, settings_of


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
    check_final_activation(args)
    say(writes, f"{args.data}: {count(data)}")
    if writes:
        make_folder(args.out)
    one = args.backend == "torch"
    intervals = args.intervals is None and not one
    settings = settings_of(args, 20 if intervals else 5, intervals)
    start = time.perf_counter()
    model = (fit_net if one else package.effects.fit_effects)(data, settings, **shared)
    seconds = time.perf_counter() - start
    say(writes, steps_line(args, model, seconds))
    if not writes:
        return []
    report = EffectReport.of(model, data, trim=args.trim)
    for sentence in report.doubts():
        warnings.warn(sentence, stacklevel=1)
    print(f"\n{report}\n")
    if data.mu0 is not None and data.mu1 is not None:
        (y0, y1), known = report.outcomes[:, :, None], (data.mu0, data.mu1)
        errors = sqrt_pehe(y0, y1, *known, data.w), ate_error(y0, y1, *known, data.w)
        print("known effects: sqrt PEHE {:.4g}, ATE error {:.4g}".format(*errors))
    kept = np.setdiff1d(np.arange(len(data) + len(data.dropped)), data.dropped)
    written = write_effects(args, model, report, kept.tolist())  # first: what follows may fail
    if args.report:
        named = {"outcome": args.outcome or "y", "treatment": args.treatment or "t", "seed": args.seed}
        page = package.effects.effect_page(model, data, report, **named, less_is_better=bool(args.less_is_better))
        page.save(args.report)
        written.append(args.report)
    return written


def make_folder(path: Path) -> None:
    """Makes the folder of `--out` before a training, which would be lost where it cannot be written."""
    why = ""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            why = "Permission denied"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise OSError(f"--out: expected a folder to write to, got {path}: {why}")


def steps_line(args: argparse.Namespace, model: EffectModel, seconds: float) -> str:
    """Says how many steps the nets took, and how long that was."""
    steps = sum(int(np.isfinite(losses[:, 0]).sum()) for losses in (model.training.losses if model.training else ()))
    nets = "1 net" if model.members == 1 else f"{model.members} nets"
    return f"{steps} steps of {nets} in {seconds:.1f} s with {args.backend}, compile time included"


def train_streamed_two_head(
    args: argparse.Namespace, package: ModuleType, shared: dict[str, Any], writes: bool, source: str
) -> list[Path]:
    """Trains the two-head model on a table that is read in parts, and returns the files it wrote."""
    check_streamed(args)
    settings = settings_of(args, 5, intervals=False)
    named = given(args, "treatment", "control", "outcome", "weight", "features", "ignore", "categories", "sample")
    prepared = prepare_streamed(source, settings, progress=writes, **named)
    columns, counts = prepared.measured.columns, prepared.measured.counts.tolist()
    about = f"{args.data}: {count_rows(counts, prepared.arms, len(columns), columns)}"
    say(writes, about)
    say(writes, f"{args.data}: read in parts, so there are no intervals, pictures or averages with errors; {IN_MEMORY}")
    if writes:
        make_folder(args.out)
    start = time.perf_counter()
    model = trainer_of(args.backend)(prepared, settings, **shared)
    say(writes, steps_line(args, model, time.perf_counter() - start))
    if not writes:
        return []
    assert model.training is not None
    names = ("effects.parquet", "model.safetensors", "losses.csv", "summary.txt")
    effects, weights, losses, summary = (args.out / name for name in names)
    model.save(weights)  # first: what follows may fail
    write_losses(losses, args, model.arms, model.training)
    written = write_streamed_effects(model, source, effects)
    text = "\n".join([about, *written.lines(model.arms)])  # no seconds: the same bytes for the same training
    with replacing(summary) as beside:
        beside.write_text(f"{text}\n")
    print("\n".join(["", *written.lines(model.arms), ""]))
    return [effects, weights, losses, summary]


def trainer_of(backend: str) -> Any:
    """Returns what trains nets on a table that is read in parts; of flax it needs JAX, which torch must not."""
    if backend == "torch":
        return train_streamed_net
    from ..effects.streams.fit import train_streamed

    return train_streamed


def write_effects(
    args: argparse.Namespace, model: EffectModel, report: EffectReport, rows: Sequence[int]
) -> list[Path]:
    """Writes effects, nets, losses, summary and pictures, and returns the files; `rows` are numbers in the source."""
    paths = {name: args.out / name for name in ("effects.csv", "model.safetensors", "losses.csv", "summary.txt")}
    columns = report.columns()
    write_csv(paths["effects.csv"], ("row", *columns), zip(*columns.values(), strict=True), rows)
    model.save(paths["model.safetensors"])
    write_losses(paths["losses.csv"], args, report.arms, report.training)
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


def write_losses(path: Path, args: argparse.Namespace, arms: Sequence[Any], training: TrainingRecord) -> None:
    """Writes the losses of each step of each net."""
    parts = [*(f"loss of head {arm}" for arm in range(len(arms))), *(["balance"] if args.balance else [])]
    parts += ["propensity", "targeted"] if args.targeted else []
    parts += ["loss on held-out rows"] if training.held_out is not None else []
    taken = [
        (net, step, *row)
        for net, losses in enumerate(training.losses)
        for step, row in enumerate(losses[np.isfinite(losses[:, 0])].tolist(), 1)
    ]
    write_csv(path, ("row", "net", "step", *parts), taken)


def train_two_in_two_out(
    args: argparse.Namespace, package: ModuleType, shared: dict[str, Any], writes: bool, source: str | None = None
) -> list[Path]:
    """Trains the two-input/two-output model on inputs and outputs as they are, and returns the files it wrote."""
    if source is None:
        data: Any = load_curves(args.data)
        rows, features, outputs = len(data["x1"]), data["x1"].shape[1], data["y1"].shape[1]
    else:
        data = stream_curves(source)
        rows, features, outputs = len(data), len(data.columns["x1"]), len(data.columns["y1"])
    chosen = given(args, "hidden_features", "activation", "final_activation")
    config = {"in_features": features, "out_features": outputs, **chosen}
    side = SIDES[args.backend]("TwoInTwoOut", config, seed=args.seed, dtype=args.dtype)
    say(writes, f"{args.data}: {rows} rows, {features} features in each input")
    settings = {"optimizer": optimizer_of(args), "batch_size": args.batch_size, "seed": args.seed}
    settings |= {"loss": package.JointLoss(args.criterion), "precision": args.precision}
    settings |= given(args, "epochs", "steps") or {"epochs": 100}
    if writes:
        make_folder(args.out)
    start = time.perf_counter()
    losses = side.fit(data, **settings, **shared)
    seconds = time.perf_counter() - start
    say(writes, f"{len(losses)} steps in {seconds:.1f} s with {args.backend}, compile time included")
    say(writes, f"loss {losses[0].sum():.4g} at the first step, {losses[-1].sum():.4g} at the last")
    if not writes:
        return []
    parts = ("loss of output 1", "loss of output 2")
    model, table, picture = (args.out / name for name in ("model.safetensors", "losses.csv", "losses.png"))
    side.save(model)
    write_csv(table, ("step", *parts), losses.tolist())
    try:
        figure = loss_curves({args.backend: losses}, parts, f"{args.model} on {args.data}")
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
    source = streamed_source(args.data, args.stream)
    if source is None and args.sample is not None:
        raise ValueError(f"--sample: expected with a table that is read in parts (--stream), got {args.sample}")
    package = import_backend(args.backend, args.dtype)
    if args.compile_cache:
        package.training.cache_compilations(args.compile_cache)
    shared, writes = given(args, "checkpoint", "every"), True
    if args.distributed:
        processes, writes = join_processes(package, args.coordinator, args.processes, args.process_id)
        shared |= processes
    train: Any = {"two-head": train_two_head, "two-in-two-out": train_two_in_two_out}[args.model]
    if source is not None:
        streamed = {"two-head": train_streamed_two_head, "two-in-two-out": train_two_in_two_out}[args.model]
        train = partial(streamed, source=source)
    if written := train(args, package, shared, writes):
        print(f"written: {', '.join(map(str, written))}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; returns 0, 2 for arguments or data that cannot be used, 1 for a training that diverged."""
    args = parse(arguments)
    return run_command(lambda: run(args), at_once=args.distributed)
