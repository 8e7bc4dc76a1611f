"""How fast the two-head model trains: torch, JAX, what else there is, and the floor that no training goes below.

All contestants train the same net on the same data, in interleaved rounds, since machines are shared and noisy; the
table shows medians, ranges, and ratios to `fit`. Then, each in a process of its own: cold starts, and how time and
memory grow with rows, width, batch and replicas. Peers (CATENets, causalml) join where they are installed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from bench import growth, operations, peers, thousand
from bench.contestants import Task, flax_contestants, limits, torch_contestants
from bench.plots import growth_curves, speed_bars
from flax_impl.commands.backends import import_backend, run_command
from torch_ref.common.cores import count_cores
from torch_ref.common.files.array_file import replacing

# What a new process does to its first step; then the same fit again and again, which compiles nothing.
_START = """
import time
import flax_impl as package
if {cache!r}:
    package.training.cache_compilations({cache!r})
data = package.data.synthetic(rows=1000, features=25).arrays()
model = package.TwoHead(25, final_activation="identity")
params = model.init_params()
def fit(seed):
    began = time.perf_counter()
    package.fit(model, params, data, steps=1, batch_size=100, seed=seed)
    return time.perf_counter() - began
first = fit(0)
print("stepped", flush=True)
again = sorted(fit(seed) for seed in range(1, 12))[5]
print(first - again, again)
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the table and the growth there")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="measure nothing: show what an earlier --json wrote")
    parser.add_argument("--full", action="store_true", help="more rounds, and growth to the end: some ten minutes")
    parser.add_argument("--rounds", type=int, help="interleaved rounds of the table (default: 7, with --full 15)")
    parser.add_argument("--steps", type=int, default=1000, help="of each contestant in a round (default: 1000)")
    parser.add_argument("--no-growth", action="store_true", help="the table only")
    parsed = parser.parse_args(arguments)
    parsed.rounds = (15 if parsed.full else 7) if parsed.rounds is None else parsed.rounds
    for name in ("rounds", "steps"):
        if not 1 <= getattr(parsed, name) <= 100_000:
            parser.error(f"--{name}: expected a whole number from 1 to 100000, got {getattr(parsed, name)}")
    return parsed


def measurement(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Returns median and range of what was measured in the rounds."""
    return {"median": median(values), "min": min(values), "max": max(values), "unit": unit, "rounds": len(values)}


def rounds(task: Task, count: int) -> dict[str, dict[str, Any]]:
    """Returns the speed of all contestants, measured in turns."""
    contestants = {**torch_contestants(task), **flax_contestants(task), **limits()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    others = peers.installed()
    refits: dict[str, list[float]] = {name: [] for name in others}
    for run in _shown(list(contestants.values()), "compiling"):
        run()
    for number in _shown(range(count), "rounds"):
        for name, run in contestants.items():
            seconds[name].append(run())
        if number % 3 == 0:  # they compile in every fit, and a third of the rounds has to do
            for name, peer in others.items():
                found = peer(*(task.data[key] for key in ("x", "t", "y")), task.steps, task.batch_size)
                seconds.setdefault(name, []).append(found.per_step)
                refits[name].append(found.refit)
    measured = {
        name: measurement([1e3 * value for value in values], "ms per step")
        for name, values in seconds.items() if not name.endswith("_rate")
    }  # fmt: skip
    for name, unit in (("matrix_rate", "GFLOP/s"), ("memory_rate", "GB/s")):
        measured[name] = measurement([1e-9 / value for value in seconds[name]], unit)
    apart = [
        1 - without / shown for without, shown in zip(seconds["flax_fit"], seconds["flax_fit_progress"], strict=True)
    ]
    measured["progress"] = measurement([100 * share for share in apart], "% of a fit")
    return measured | {f"{name}_refit": measurement(values, "s") for name, values in refits.items()}


def starts(count: int, cache: Path) -> dict[str, dict[str, Any]]:
    """Returns what new processes take to their first step, without and with compiled programs from the last one."""
    found: dict[str, list[float]] = {}
    _start(str(cache))  # fills the cache
    for _ in _shown(range(count), "cold starts"):
        for name, folder in (("", ""), ("_cached", str(cache))):
            for what, value in zip(("cold_start", "compile", "refit_overhead"), _start(folder), strict=True):
                if what != "refit_overhead" or not folder:
                    found.setdefault(what + name, []).append(value)
    return {name: measurement(values, "s") for name, values in found.items()}


def _start(cache: str) -> tuple[float, float, float]:
    """Returns the seconds from a process's start to its first step, of compiling, and of a fit of one step after it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", _START.format(cache=cache)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stepped = time.perf_counter() - began
        compiling, again = map(float, process.stdout.readline().split())
    return stepped, compiling, again


def grown(full: bool) -> dict[str, list[dict[str, Any]]]:
    """Returns the points of all sweeps."""
    wanted = [
        (sweep, value)
        for sweep, (_, short, long) in growth.SWEEPS.items()
        for value in (*short, *(long if full else ()))
    ]
    found: dict[str, list[dict[str, Any]]] = {sweep: [] for sweep in growth.SWEEPS}
    for sweep, value in _shown(wanted, "growth"):
        found[sweep].append(growth.measure(sweep, value))
    return found


def summary(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns what the growth comes to, and what of it can be counted by hand."""
    slopes = {
        f"{what} by {sweep}": growth.slope(points, sweep, what, above=1e5 if sweep == "rows" else 0)
        for sweep, points in found.items()
        for what in ("seconds", "added" if sweep == "rows" else "memory")
    }
    *_, before, last = found["replicas"]
    more = last["replicas"] - before["replicas"]
    # The parameters at the start, those at the end, and the losses of both heads.
    by_hand = 2 * last["model"] + 8 * last["steps"]
    beyond = max(point["added"] - point["data"] - 4 * point["model"] for point in found["rows"])
    return {
        "slopes": slopes,
        "memory_per_replica": (last["memory"] - before["memory"]) / more,
        "memory_per_replica_by_hand": by_hand,
        "memory_beyond_data_and_model": beyond,
    }


def machine() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    import jax

    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "processor": model or platform.processor(),
        "cores": count_cores(),
        "system": platform.system(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "optax", "torch", "numpy")},
            **peers.versions(),
        },
    }


# The table's lines, and what each is in words.
LINES = {
    "torch_split": "torch, split on the treatment",
    "torch_where": "torch, where",
    "torch_fused": "torch, where, fused Adam",
    "torch_compile": "torch, where, fused Adam, torch.compile",
    "catenets_jax": "CATENets, JAX TARNet",
    "causalml_jax": "causalml, JAX DragonNet",
    "flax_step_loop": "ours, jitted step in a Python loop",
    "flax_fit": "ours, fit",
    "flax_pieces": "ours, fit, as for effects",
    "flax_tf32": "ours, fit, tf32",
    "flax_bfloat16": "ours, fit, bfloat16",
    "flax_replicas": "ours, fit_replicas, per replica",
    "floor": "the matrix products alone",
}


def table(result: Mapping[str, Any]) -> str:
    """Returns what was measured as a text."""
    measured, task = result["measurements"], Task(**result["settings"]["task"])
    lines = [f"{'ms per step':42} median     min     max  takes, to fit's 1"]
    fit = measured["flax_fit"]["median"]
    for name, words in LINES.items():
        if name in measured:
            lines.append(f"{_line(words, measured[name])}  {measured[name]['median'] / fit:6.2f}")
        else:
            lines.append(f"{words:42} not installed")
    rate, memory = measured["matrix_rate"]["median"], measured["memory_rate"]["median"]
    for name in ("flax_fit", "flax_replicas"):
        seconds = measured[name]["median"] / 1e3
        products, traffic = task.flops / seconds / 1e9, task.adam_bytes / seconds / 1e9
        lines.append(
            f"{LINES[name]}: {products:.0f} GFLOP/s, {products / rate:.0%} of what one large product reaches; "
            f"optimiser {traffic:.1f} GB/s, {traffic / memory:.0%} of what a copy reaches"
        )
    if "operations" in result:
        total = sum(result["operations"].values())
        shares = sorted(result["operations"].items(), key=lambda item: -item[1])
        lines.append("of a step of fit: " + ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in shares))
    lines.append("")
    for name, words in {
        "cold_start": "process start to first step",
        "cold_start_cached": "the same, with the compile cache",
        "compile": "of it compiling",
        "compile_cached": "the same, with the compile cache",
        "refit_overhead": "a further fit, of one step",
        "catenets_jax_refit": "CATENets, a further fit, but for its steps",
        "causalml_jax_refit": "causalml, a further fit, but for its steps",
        "progress": "what progress costs",
        "row_orders": "row orders of 1000 trainings, 3000 steps",
        "thousand_trainings": "1000 trainings, IHDP's size, 3000 steps",
    }.items():
        if name in measured:
            lines.append(f"{_line(words, measured[name])}  {measured[name]['unit']}")
    if "growth" in result:
        lines += ["", *_growth_lines(result)]
    return "\n".join(lines)


def _line(words: str, of: Mapping[str, Any]) -> str:
    return f"{words:42} {of['median']:6.3f}  {of['min']:6.3f}  {of['max']:6.3f}"


def _growth_lines(result: Mapping[str, Any]) -> list[str]:
    found = result["summary"]
    lines = [f"slope of {name:36} {value:6.2f}" for name, value in found["slopes"].items() if value is not None]
    mega = growth.MEGABYTE
    lines.append(f"memory per replica {found['memory_per_replica'] / mega:.2f} MB, "
                 f"by hand {found['memory_per_replica_by_hand'] / mega:.2f} MB")  # fmt: skip
    beyond = found["memory_beyond_data_and_model"] / mega
    lines.append(f"memory that fit adds beyond data, parameters, moments and gradients: at most {beyond:.0f} MB")
    return lines


def _shown(items: Sequence[Any], what: str) -> Any:
    """Returns the items behind a bar on a terminal; elsewhere a line says what begins."""
    if not sys.stderr.isatty():
        print(f"{what}: {len(items)}", file=sys.stderr, flush=True)
    return tqdm(items, desc=what, leave=False, disable=not sys.stderr.isatty())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Returns everything that is measured."""
    import_backend("torch")
    task = Task(steps=args.steps)
    with tempfile.TemporaryDirectory() as cache:
        measured = rounds(task, args.rounds) | starts(7 if args.full else 3, Path(cache))
    result: dict[str, Any] = {"measurements": measured, "machine": machine()}
    measured["row_orders"] = measurement([thousand.row_orders() for _ in range(3)], "s")
    if result["machine"]["platform"] == "cpu":
        result["operations"] = operations.seconds_by_group(task)
    else:
        measured["thousand_trainings"] = measurement([thousand.trainings() for _ in range(3)], "s")
    result["settings"] = {"task": asdict(task), "rounds": args.rounds, "full": args.full}
    if not args.no_growth:
        result["growth"] = grown(args.full)
        result["summary"] = summary(result["growth"])
        last = max(result["growth"]["rows"], key=lambda point: point["rows"])
        measured["peak_memory"] = measurement([last["memory"] / growth.MEGABYTE], "MB") | {"rows": last["rows"]}
    return result


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Writes the pictures of what was measured."""
    figures = {"speed.png": speed_bars(result["measurements"], LINES)}
    if "growth" in result:
        figures["growth.png"] = growth_curves(result["growth"], result["summary"]["slopes"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        with replacing(folder / name) as path:
            figure.savefig(path)


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and writes what was asked for; returns 0."""
    import_backend("flax")
    result = json.loads(args.draw.read_text()) if args.draw else measure(args)
    try:
        print(table(result))
    except KeyError as error:
        raise ValueError(f"{args.draw}: expected what an earlier --json wrote, got no {error}") from error
    if args.json:
        with replacing(args.json) as path:
            path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    if args.plots:
        draw(result, args.plots)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures; returns 0, or 2 for arguments or files that cannot be used."""
    args = parse(arguments)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
