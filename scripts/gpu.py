"""A thousand trainings of IHDP's size on a GPU, in float32 and TF32, and the parity suite: for the day there is one.

What is done is written at once, and again after each round, so that a time limit loses little: DIR/parity.txt,
DIR/gpu.json and DIR/gpu.txt. With --replicas and --steps small it runs on any machine.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import thousand
from bench.contestants import Task, flax_contestants
from bench.program import BANDWIDTH, PEAKS, loop_body
from flax_impl.commands.backends import run_command
from torch_ref.common.files.array_file import replacing

PRECISIONS = ("float32", "tf32")


def parity(folder: Path) -> int:
    """Runs the parity suite in a process of its own, which leaves the GPU free; returns its exit code."""
    command = [sys.executable, str(Path(__file__).with_name("parity.py")), "--json", str(folder / "parity.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _write(folder / "parity.txt", done.stdout + done.stderr)
    print(done.stdout + done.stderr, end="", flush=True)
    return done.returncode


def _rates(task: Task, precision: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Returns the seconds of each round, and what they come to per step of all replicas and per second."""
    body = loop_body(task, precision, replicas=True)
    flops, moved = task.flops * task.replicas, body.bytes_of_products + task.adam_bytes * task.replicas
    step = median(seconds) / task.steps
    return {
        "precision": precision,
        "seconds": list(seconds),
        "ms_per_step": 1e3 * step,
        "flops_per_second": flops / step,
        "share_of_flops": flops / step / PEAKS[precision],
        "bytes_per_second": moved / step,
        "share_of_bytes": moved / step / BANDWIDTH,
    }


def table(result: Mapping[str, Any]) -> str:
    """Returns the result as a text."""
    task = Task(**result["task"])
    what = f"{task.replicas} trainings, {task.rows} rows, {task.steps} steps"
    lines = [f"{result['device']}, jax {result['jax']}", f"{what:44}" + "".join(f"{p:>12}" for p in PRECISIONS)]
    for words, name, factor in (
        ("ms per step of all", "ms_per_step", 1),
        ("TFLOP/s in products", "flops_per_second", 1e-12),
        ("% of an H200's data sheet", "share_of_flops", 100),
        ("TB/s moved by products and Adam", "bytes_per_second", 1e-12),
        ("% of an H200's data sheet", "share_of_bytes", 100),
    ):
        lines.append(f"{words:44}" + "".join(f"{factor * of[name]:12.3f}" for of in result["trainings"]))
    for words, pick in (("seconds, median", median), ("seconds, least", min), ("seconds, most", max)):
        lines.append(f"{words:44}" + "".join(f"{pick(of['seconds']):12.3f}" for of in result["trainings"]))
    lines.append(f"{'seconds in which the host draws their rows':44}{result['row_orders']:12.3f}")
    lines.append(f"{'ms per step of one training':44}" + "".join(f"{1e3 * found:12.3f}" for found in result["alone"]))
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Runs everything, and writes it; returns 0, or the parity suite's exit code."""
    args.folder.mkdir(parents=True, exist_ok=True)
    code = 0 if args.no_parity else parity(args.folder)
    import jax  # after the suite: this process takes the GPU's memory

    task = replace(thousand.THOUSAND, replicas=args.replicas, steps=args.steps)
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "task": asdict(task)}
    result["row_orders"] = thousand.row_orders(task)
    one = flax_contestants(replace(task, replicas=1))
    names = ("flax_fit", "flax_tf32")
    for name in names:
        one[name]()  # compiles
    result["alone"] = [one[name]() for name in names]
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(args.rounds):
        for precision, found in seconds.items():
            found.append(thousand.trainings(task, precision))
        result["trainings"] = [_rates(task, precision, found) for precision, found in seconds.items()]
        _write(args.folder / "gpu.json", json.dumps(result, indent=1) + "\n")
        _write(args.folder / "gpu.txt", table(result) + "\n")
    print(table(result))
    return code


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures; returns 0, the parity suite's exit code, or 2 for arguments that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="for the results")
    parser.add_argument("--replicas", type=int, default=1000, help="trainings at once (default: 1000)")
    parser.add_argument("--steps", type=int, default=3000, help="of each (default: 3000)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--no-parity", action="store_true", help="leave the parity suite out")
    args = parser.parse_args(arguments)
    for name in ("replicas", "steps", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected a whole number of at least 1, got {getattr(args, name)}")
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
