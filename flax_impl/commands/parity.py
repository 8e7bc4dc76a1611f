"""Proves that the port computes what its reference computes, step by step; or says where, and why, they part.

Without arguments: both models with SGD, Adam and AdamW, in float64 (gate A) and in float32 (gate B), over 20 steps.
--record writes what the reference does to a file, with torch alone; --check holds the port against such a file, with
JAX alone. Exits with 0 where the two agree, 1 where they diverge, 2 for unusable arguments.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .recipes import MODELS, OPTIMIZERS, Recipe, check, reference
from .sides import import_backend

DEFAULT_OPTIMIZERS = ("sgd", "adam", "adamw")


def main() -> int:
    """Runs the pairs that are asked for, prints the table and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, help="default: both")
    parser.add_argument("--dtype", choices=("float64", "float32"), help="default: both")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help=f"default: {', '.join(DEFAULT_OPTIMIZERS)}")
    parser.add_argument("--steps", type=int, help="of each training (default: 20)")
    parser.add_argument("--seed", type=int, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="write the reference's trace: of one pair, by default two-head, float64, adam",
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="hold the port against such a file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    parser.add_argument(
        "--kill-matrix", action="store_true", help="plant faults in copies of the port, and show which are found"
    )
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace) -> int:
    """Does what the arguments ask for, and returns the exit code."""
    given = [f"--{name.replace('_', '-')}" for name in ("record", "check", "kill_matrix") if getattr(arguments, name)]
    if len(given) > 1:
        raise ValueError(f"{given[1]}: expected without {given[0]}")
    for name in ("json", "html"):
        if arguments.record and getattr(arguments, name):
            raise ValueError(f"--{name}: expected with a comparison, got --record, which makes none")
    if arguments.kill_matrix:
        return kill_matrix(arguments)
    if arguments.record:
        recipe = recipes(arguments, one=True)[0]
        trace = reference(recipe)
        trace.save(arguments.record)
        print(f"recorded {recipe.model}, {recipe.dtype}, {recipe.optimizer}, {recipe.steps} steps: {arguments.record}")
        return 0
    if arguments.check:
        reports = [check(*recorded(arguments))]
    else:
        reports = []
        for recipe in tqdm(recipes(arguments), unit="pair", disable=not sys.stderr.isatty(), leave=False):
            reports.append(check(recipe, reference(recipe)))
    return show(reports, arguments)


def recipes(arguments: argparse.Namespace, one: bool = False) -> list[Recipe]:
    """Returns the pairs that the arguments choose; where `one`, the first stands for all."""
    models = [arguments.model] if arguments.model else list(MODELS)
    dtypes = [arguments.dtype] if arguments.dtype else ["float64", "float32"]
    optimizers = [arguments.optimizer] if arguments.optimizer else list(DEFAULT_OPTIMIZERS)
    if one and not arguments.optimizer:
        optimizers = ["adam"]
    numbers = {"steps": (arguments.steps, 20, 1), "seed": (arguments.seed, 0, 0)}
    chosen = {}
    for name, (value, default, least) in numbers.items():
        chosen[name] = default if value is None else value
        if not least <= chosen[name] <= 10_000:
            raise ValueError(f"--{name}: expected a whole number from {least} to 10000, got {value}")
    found = [
        Recipe(model, dtype, optimizer, **chosen) for model, dtype, optimizer in product(models, dtypes, optimizers)
    ]
    return found[:1] if one else found


def recorded(arguments: argparse.Namespace) -> tuple[Recipe, Any]:
    """Returns the recipe and the trace in a file.

    Raises:
        ValueError: it is damaged, or of another pair than the arguments ask for.
    """
    trace = import_backend("flax").load_trace(arguments.check)
    made = trace.metadata["recipe"]
    names = {field.name for field in fields(Recipe)}
    if made.keys() != names:
        raise ValueError(
            f"{arguments.check}: expected a trace that this command recorded; for a model of your own, "
            "see flax_impl.check_parity"
        )
    try:
        recipe = Recipe(**{**made, "schedule": tuple(made["schedule"])})
        if (recipe.dtype, recipe.steps) != (trace.dtype, trace.steps):
            raise ValueError("its recipe is of another dtype or number of steps than its arrays")
        port = import_backend("flax")
        for make in (recipe.build, recipe.make, recipe.batches):
            make(port)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{arguments.check}: expected a trace that this command recorded, got {error}") from error
    for name in ("model", "dtype", "optimizer", "steps", "seed"):
        asked, got = getattr(arguments, name), getattr(recipe, name)
        if asked is not None and asked != got:
            raise ValueError(f"--{name}: expected {got}, as {arguments.check} has it, got {asked}")
    return recipe, trace


def show(reports: Sequence[Any], arguments: argparse.Namespace) -> int:
    """Prints the table, writes the files, and returns 0 where all agree."""
    from flax_impl.parity import html_page, text_table
    from torch_ref.common.files.array_file import replacing

    print(text_table(reports))
    passed = all(report.passed for report in reports)
    if arguments.json:
        content = {"passed": passed, "pairs": [report.to_json() for report in reports]}
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    if arguments.html:
        with replacing(arguments.html) as path:
            path.write_text(html_page(reports))
    return int(not passed)


def kill_matrix(arguments: argparse.Namespace) -> int:
    """Plants every fault, and prints which were caught, localised and named."""
    from flax_impl.parity import html_page
    from tests.support.faults import kill, load_faults, matrix_table
    from torch_ref.common.files.array_file import replacing

    kills = [kill(fault) for fault in tqdm(load_faults(), unit="fault", disable=not sys.stderr.isatty(), leave=False)]
    rows = [found.to_json() for found in kills]
    print(matrix_table(rows))
    if arguments.json:
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.html:
        with replacing(arguments.html) as path:
            path.write_text(html_page([found.report for found in kills]))
    return int(not all(row["caught"] and row["localised"] and not row["misnamed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
