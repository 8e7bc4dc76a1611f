"""Proves that the port computes what its reference computes, step by step; or says where, and why, they part.

--reference and --port hold a port of your own against its reference: two files, each with a function that returns its
side as a tuple. That is (model, batch, loss) of torch, and (model, loss) or (model, loss, params) of JAX; with an
optimizer as a dict's entry in both, a training is compared, else one step, operation by operation. It goes the other
way, too: (model, batch, loss, params) of JAX, and (model, loss) of torch, which is given the reference's weights.

Without arguments: both models of this project with SGD, Adam and AdamW, in float64 and in float32, over 20 steps.
--record writes what the reference does to a file, with torch alone; --check holds the port against such a file, with
JAX alone. Exits with 0 where the two agree, 1 where they diverge, 2 for unusable arguments.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from torch_ref.common.files.array_file import replacing, write_arrays
from torch_ref.common.trace import Trace, load_trace

from ..parity import html_page, step_page, text_table
from .backends import Parser, import_backend, run_command
from .own.pair import Side, check_own, converted, record_own
from .own.watched import told, watch
from .recipes import MODELS, OPTIMIZERS, Recipe, arms_config, check, reference

DEFAULT_OPTIMIZERS = ("sgd", "adam", "adamw")
SHORT = """usage: twohead parity [OPTIONS]

Says where and why a port in JAX parts from its reference in PyTorch, or a
port in PyTorch from its reference in JAX. Exits with 0 where the two agree, 1
where they diverge, 2 for unusable arguments.

a port of your own:
  --reference FILE.py:FUNCTION  returns (model, batch, loss) of torch
  --port FILE.py:FUNCTION       returns (model, loss) or (model, loss, params)
                                the other way round: (model, batch, loss,
                                params) of JAX, and (model, loss) of torch
  --watch                       check again whenever a file is saved
  --convert FILE                write the port's weights, .safetensors

the models of this project:
  --model two-head|two-in-two-out  --dtype float64|float32   default: both
  --optimizer NAME  --steps 20  --seed 0
  --arms 2  --embedding         of the two-head model
  --record FILE                 write what the reference does, with torch alone
  --check FILE                  hold the port against it, with JAX alone

  --json FILE  --html FILE      write the report
  -h, --help-all                show this, or all options in full"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments; those that were not given are None."""
    parser = Parser("parity", __doc__, short=SHORT)
    add = parser.add_argument
    add("--reference", metavar="FILE.py:FUNCTION", help="builds your reference (FUNCTION: build by default)")
    add("--port", metavar="FILE.py:FUNCTION", help="builds your port")
    add("--watch", action="store_true", help="check again whenever your port is saved")
    add("--convert", type=Path, metavar="FILE", help="write your port's weights, converted, to a .safetensors file")
    add("--model", choices=MODELS, help="default: both")
    add("--dtype", choices=("float64", "float32"), help="default: both")
    add("--optimizer", choices=OPTIMIZERS, help=f"default: {', '.join(DEFAULT_OPTIMIZERS)}")
    add("--steps", type=int, help="of each training (default: 20)")
    add("--seed", type=int, help="of weights and batches (default: 0)")
    add("--arms", type=int, metavar="K", help="of the two-head model (default: 2)")
    add("--embedding", action="store_true", default=None, help="gives the two-head model a categorical feature")
    add("--record", type=Path, metavar="FILE", help="write the reference's trace: of one pair, by default two-head, "
        "float64, adam")  # fmt: skip
    add("--check", type=Path, metavar="FILE", help="hold the port against such a file")
    add("--json", type=Path, metavar="FILE", help="write the report as JSON")
    add("--html", type=Path, metavar="FILE", help="write the report as a page")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Records, or compares and shows the report; returns the exit code."""
    if args.reference or args.port:
        return run_own(args)
    for name in ("watch", "convert"):
        if getattr(args, name):
            raise ValueError(f"--{name}: expected with --reference and --port")
    if args.record and args.check:
        raise ValueError("--check: expected without --record")
    for name in ("json", "html"):
        if args.record and getattr(args, name):
            raise ValueError(f"--{name}: expected with a comparison, got --record, which makes none")
    if args.record:
        recipe = recipes(args, "adam")[0]
        reference(recipe).save(args.record)
        print(f"recorded {recipe.title}, {recipe.dtype}, {recipe.optimizer}, {recipe.steps} steps: {args.record}")
        return 0
    if args.check:
        return show([check(*recorded(args))], args)
    shown = tqdm(recipes(args, *DEFAULT_OPTIMIZERS), unit="pair", disable=not sys.stderr.isatty(), leave=False)
    return show([check(recipe, reference(recipe)) for recipe in shown], args)


def run_own(args: argparse.Namespace) -> int:
    """Holds a user's port against its reference; returns the exit code.

    Raises:
        ValueError: one of the two files is not given, or an option that does not go with them.
    """
    for name in ("reference", "port"):
        if not getattr(args, name):
            raise ValueError(f"--{name}: expected a file, as the other side has one")
    for name in ("model", "dtype", "optimizer", "steps", "seed", "arms", "embedding", "record", "check"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name}: expected without --reference and --port")
    reference, port = Side.of("--reference", args.reference), Side.of("--port", args.port)

    def show_own(report: Any, seconds: float) -> None:
        print(f"{report}\n\nchecked in {seconds:.1f} s", flush=True)
        write_own(report, port, args)

    if args.watch:
        return watch(reference, port, show_own)
    start = time.perf_counter()
    try:
        report = check_own(port.build(), record_own(reference.build()))
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # of the user's files
        raise ValueError(told(error)) from error
    show_own(report, time.perf_counter() - start)
    return int(not report.passed)


def write_own(report: Any, port: Side, args: argparse.Namespace) -> None:
    """Writes the files that were asked for."""
    of_step = hasattr(report, "places")
    if args.json:
        with replacing(args.json) as path:
            path.write_text(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
    if args.html:
        page = step_page({port.path.name: report}) if of_step else html_page([report])
        with replacing(args.html) as path:
            path.write_text(page, encoding="utf-8")
    if args.convert:
        if not of_step:
            raise ValueError("--convert: expected a comparison of one step, without an optimizer")
        write_arrays(args.convert, converted(report), {"converted_from": report.partners.reference.framework})


def recipes(args: argparse.Namespace, *optimizers: str) -> list[Recipe]:
    """Returns the pairs that the arguments choose; `optimizers` are those of no choice."""
    config = arms_config(args.arms or 2, bool(args.embedding))
    if args.arms is not None and not 2 <= args.arms <= 100:
        raise ValueError(f"--arms: expected a whole number from 2 to 100, got {args.arms}")
    if config and args.model not in (None, "two-head"):
        raise ValueError(f"--{'arms' if 'arms' in config else 'embedding'}: expected with --model two-head")
    models = [args.model] if args.model else ["two-head"] if config else list(MODELS)
    dtypes = [args.dtype] if args.dtype else ["float64", "float32"]
    chosen = {}
    for name, default, least in (("steps", 20, 1), ("seed", 0, 0)):
        value = getattr(args, name)
        chosen[name] = default if value is None else value
        if not least <= chosen[name] <= 10_000:
            raise ValueError(f"--{name}: expected a whole number from {least} to 10000, got {value}")
    pairs = product(models, dtypes, [args.optimizer] if args.optimizer else optimizers)
    return [Recipe(*pair, **chosen, config=config) for pair in pairs]


def recorded(args: argparse.Namespace) -> tuple[Recipe, Trace]:
    """Returns the recipe and the trace in a file.

    Raises:
        ValueError: the file is damaged, or of another pair than the arguments ask for.
    """
    trace = load_trace(args.check)
    made = trace.metadata["recipe"]
    expected = f"{args.check}: expected a trace that this command recorded"
    if made.keys() != {field.name for field in fields(Recipe)}:
        raise ValueError(f"{expected}; for a model of your own, see flax_impl.check_parity")
    port = import_backend("flax")
    try:
        recipe = Recipe(**{**made, "schedule": tuple(made["schedule"])})
        if (recipe.dtype, recipe.steps) != (trace.dtype, trace.steps):
            raise ValueError("its recipe is of another dtype or number of steps than its arrays")
        recipe.build(port)
        recipe.make(port)
        recipe.batches()
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{expected}, got {error}") from error
    made = {name: getattr(recipe, name) for name in ("model", "dtype", "optimizer", "steps", "seed", "arms")}
    for name, got in (made | {"embedding": "embeddings" in recipe.config}).items():
        asked = getattr(args, name)
        if asked is not None and asked != got:
            raise ValueError(f"--{name}: expected {got}, as {args.check} has it, got {asked}")
    return recipe, trace


def show(reports: Sequence[Any], args: argparse.Namespace) -> int:
    """Prints the table, writes the files, and returns 0 where all agree."""
    print(text_table(reports))
    passed = all(report.passed for report in reports)
    if args.json:
        content = {"passed": passed, "pairs": [report.to_json() for report in reports]}
        with replacing(args.json) as path:
            path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    if args.html:
        with replacing(args.html) as path:
            path.write_text(html_page(reports))
    return int(not passed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares; returns 0 where the two sides agree, 1 where they diverge, 2 for unusable arguments."""
    args = parse(arguments)
    return run_command(lambda: run(args))
