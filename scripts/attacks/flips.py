"""Flipped bits, by the thousand: a fork reads each file again and again."""

import json
import multiprocessing
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.commands import SINGLES
from attacks.damage import flip_bit
from attacks.lab import Lab
from attacks.processes import LIMIT
from attacks.record import Record
from torch_ref.common.files.array_file import read_arrays
from torch_ref.common.files.checkpoint_folder import read_checkpoint
from torch_ref.common.trace import load_trace

_FORKS = multiprocessing.get_context("fork")


def flipped_bits(lab: Lab) -> Record:
    """One flipped bit in a model, a trace or a checkpoint, by the readers: each has to be noticed."""
    record = Record()
    with lab.new() as folder:
        lab.run(SINGLES[1], folder)
        path = sorted((folder / SINGLES[1].checkpoints).glob("step-*"))[-1]
        readers: dict[Path, Callable[[], Any]] = {
            path / "manifest.json": lambda: read_checkpoint(path),
            path / "state.safetensors": lambda: read_checkpoint(path),
            folder / "model.safetensors": lambda: read_arrays(folder / "model.safetensors"),
            folder / "out" / "model.safetensors": lambda: read_arrays(folder / "out" / "model.safetensors"),
            folder / "trace.safetensors": lambda: load_trace(folder / "trace.safetensors"),
        }
        for file, read in readers.items():
            flips = len(lab.blows(1000, 50))
            process = _FORKS.Process(target=_flip, args=(file, read, flips, lab.random.randrange(10**9)))
            process.start()
            process.join(LIMIT)
            record.tried += flips
            if process.exitcode is None:
                process.kill()
                record.bad("hangs", f"{file.name}: {flips} flips not read after {LIMIT:.0f} s")
                continue
            told = file.with_name("told.json")
            if process.exitcode or not told.exists():
                record.bad("tracebacks", f"{file.name}: exit code {process.exitcode}")
                continue
            for kind, note in json.loads(told.read_text()):
                record.bad(kind, f"{file.name}: {note}")
            told.unlink()
    return record


def _flip(file: Path, read: Callable[[], Any], flips: int, seed: int) -> None:
    """Flips bits one by one, and writes down what went wrong."""
    draw, found = random.Random(seed), []
    whole = file.with_name("whole")
    shutil.copy(file, whole)
    for _ in range(flips):
        flip_bit(file, draw)
        try:
            read()
        except ValueError:
            pass
        except Exception:  # all others are what is looked for
            found.append(("tracebacks", traceback.format_exc()[-300:]))
        else:
            held, was = file.read_bytes(), whole.read_bytes()
            at = next(i for i in range(len(held)) if held[i] != was[i])
            found.append(("wrong", f"not noticed at byte {at}: {was[at - 20 : at + 5]!r} is {held[at]:#x}"))
        shutil.copy(whole, file)
    file.with_name("told.json").write_text(json.dumps(found))
    whole.unlink()
