"""The console command `twohead`, which hands over to the module of the command that is asked for."""

import importlib
import importlib.metadata
import signal
import sys
from collections.abc import Sequence

from .backends import run_command

COMMANDS = ("train", "predict", "export", "parity", "ihdp")
HELP = """usage: twohead COMMAND [OPTIONS]

Trains a two-head model on a table and estimates treatment effects; proves that
the Flax port computes what its PyTorch reference computes.

commands:
  train      train a model on a table; write effects, weights and pictures
  predict    estimate the effects of new rows with a trained model
  export     write a trained model for processes without this package
  parity     compare the port with its reference, step by step
  ihdp       measure the errors of the effects on IHDP or ACIC 2016

options:
  -h, --help  show this help; twohead COMMAND --help lists a command's options
  --version   show the version

examples:
  twohead train --data my.csv --treatment treated --outcome income --out out
  twohead predict --model out/model.safetensors --data new.csv --out told.csv
  twohead export --model out/model.safetensors --format onnx --out model.onnx
  twohead parity --model two-head --dtype float64
  twohead ihdp path/to/ihdp --json ihdp.json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit code; 2 for a command that there is not."""
    first, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        return run_command(lambda: _run(first, rest))  # its import takes seconds, in which a user may press Ctrl-C
    finally:
        if arguments is None:  # all is written; a Ctrl-C could only disturb Python's own end
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(first: str, rest: list[str]) -> int:
    if first in COMMANDS:
        return importlib.import_module(f"{__package__}.{first}").main(rest)
    if first == "--version":
        print(f"twohead {importlib.metadata.version('twohead')}")
        return 0
    if first in ("-h", "--help"):
        print(HELP)
        return 0
    if first:
        print(f"error: expected one of {', '.join(COMMANDS)}, got {first}; see twohead --help", file=sys.stderr)
    else:
        print(HELP, file=sys.stderr)
    return 2
