"""Measures how time and memory of recording and checking a step grow with the size of a model: GPT-2, random weights.

Each size runs in a process of its own: torch's GPT2LMHeadModel is recorded, and transformers' own Flax model is checked
against it as a plain function, whose weights are found by their values. Writes docs/parity/growth.json and
docs/parity/growth.png. Needs pip install '.[pairs]' and matplotlib.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corpus.pair import stir
from flax_impl.effects.plots import figure
from torch_ref.common.files.array_file import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[1] / "docs" / "parity"
# Width, layers and heads; the last two are GPT-2 small and GPT-2 medium.
SIZES = {"tenth": (192, 4, 3), "third": (432, 8, 6), "small": (768, 12, 12), "medium": (1024, 24, 16)}
BATCH, TOKENS = 2, 64
GIGABYTE = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    parser.add_argument("--one", choices=SIZES, help="measure one size in this process, and print it as JSON")
    parser.add_argument("--note", default="", help="what is worth knowing of the machine; goes into the file")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")  # of the libraries that the models come from
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return 0
    points = [in_process(size) for size in arguments.sizes]
    report = {"batch": [BATCH, TOKENS], "cores": os.cpu_count(), "note": arguments.note, "points": points}
    with replacing(FOLDER / "growth.json") as path:
        path.write_text(json.dumps(report, indent=1) + "\n")
    if len(points) > 1:
        with replacing(FOLDER / "growth.png") as path:
            picture(points).savefig(path, dpi=120, format="png")
    return 0


def in_process(size: str) -> dict[str, Any]:
    """Returns what a size takes in a process of its own.

    Args:
        size: one of `SIZES`.

    Raises:
        RuntimeError: the process failed, as where memory does not suffice.
    """
    command = [sys.executable, __file__, "--one", size]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{size}: ended with {done.returncode}")
    point = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(point), flush=True)
    return point


def measure(size: str) -> dict[str, Any]:
    """Returns the seconds of each part, and the gigabytes that the process held at most.

    Args:
        size: one of `SIZES`.
    """
    import jax
    import jax.numpy as jnp
    import torch

    from corpus.huggingface import mend
    from flax_impl.parity import check_step
    from torch_ref.recording import record_tape

    mend()
    transformers = importlib.import_module("transformers")
    width, layers, heads = SIZES[size]
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, **rates)
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(config).eval()
    stir(reference, 0)
    port = transformers.FlaxGPT2LMHeadModel(config, _do_init=False)
    batch = {"input_ids": np.random.default_rng(0).integers(0, config.vocab_size, (BATCH, TOKENS))}

    def run(params: Any, **arrays: Any) -> Any:
        return port(params=params, **arrays)

    def loss(model: Any, input_ids: Any) -> Any:
        logs = torch.log_softmax(model(input_ids=input_ids)[0][:, :-1], -1)
        return -logs.gather(-1, input_ids[:, 1:, None]).mean()

    def port_loss(model: Any, input_ids: Any) -> Any:
        logs = jax.nn.log_softmax(model(input_ids=input_ids)[0][:, :-1], -1)
        return -jnp.take_along_axis(logs, input_ids[:, 1:, None], -1).mean()

    parts: dict[str, dict[str, float]] = {"before": {"gigabytes": _peak()}}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        start, used = time.perf_counter(), time.process_time()
        found = function()
        seconds, busy = time.perf_counter() - start, time.process_time() - used
        parts[name] = {"seconds": seconds, "seconds of processors": busy, "gigabytes": _peak()}
        return found

    tape = timed("record", lambda: record_tape(reference, batch, loss))
    report = timed("check", lambda: check_step(tape, run, batch, port_loss, shapes=port.params_shape_tree))
    return {
        "size": size,
        "parameters": sum(parameter.numel() for parameter in reference.parameters()),
        "operations": [len(tape.operations), len(report.partners.port.operations)],
        "passed": report.passed,
        "parts": parts,
    }


def picture(points: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draws seconds and gigabytes by the number of parameters.

    Args:
        points: as `measure` returns them.
    """
    drawn = figure(10, 4)
    millions = [point["parameters"] / 1e6 for point in points]
    of_time, of_memory = drawn.subplots(1, 2)
    colours = {"record": "#f0a030", "check": "#104080"}
    for axis, what, label in (
        (of_time, "seconds of processors", "seconds of processors"),
        (of_memory, "gigabytes", "GB at the peak, in all"),
    ):
        for name, colour in colours.items():
            heights = [point["parts"][name][what] for point in points]
            axis.plot(millions, heights, "o-", color=colour, label=f"{name}, {'torch' if name == 'record' else 'JAX'}")
        axis.set(xlabel="million parameters", ylabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    sums = [sum(point["parts"][name]["seconds of processors"] for name in colours) for point in points]
    of_time.plot(millions, sums, "o--", color="#555555", label="both")
    weights = [4 * point["parameters"] / GIGABYTE for point in points]
    of_memory.plot(millions, weights, ":", color="#555555", label="the weights alone, float32")
    for point, total, x in zip(points, sums, millions, strict=True):
        of_time.annotate(f" {point['size']}", (x, total), va="top", ha="left")
    of_time.set_ylim(0, 1.1 * max(sums))
    of_time.set_xlim(0, 1.2 * max(millions))
    of_time.legend(frameon=False)
    of_memory.legend(frameon=False)
    drawn.suptitle(f"GPT-2, batch {BATCH}, {TOKENS} tokens: record a step and check it")
    return drawn


def _peak() -> float:
    """Returns the most gigabytes that this process held since the last call (Linux)."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(peak.split()[1]) / GIGABYTE


if __name__ == "__main__":
    sys.exit(main())
