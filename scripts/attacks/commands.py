"""The command lines under attack: one line each."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command line, run in a folder that holds the material of `material.py`.

    Args:
        name: for the table.
        line: what follows `twohead`.
        reads: the files that it reads, without checkpoints.
        writes: the files that it writes, each with the same bytes whenever it gets the same input.
    """

    name: str
    line: str
    reads: str = ""
    writes: str = ""

    @property
    def checkpoints(self) -> str:
        """The folder of its checkpoints, or empty."""
        words = self.line.split()
        return words[words.index("--checkpoint") + 1] if "--checkpoint" in words else ""


_NETS = "--ignore row --representation-features 6 --head-features 4 --batch-size 20"
_TWO_HEAD = "out/model.safetensors out/effects.csv out/losses.csv out/summary.txt"
_STREAMED = "out/model.safetensors out/effects.parquet out/losses.csv out/summary.txt"
_TWO_IN = "out/model.safetensors out/losses.csv"
SINGLES = (
    Command("two-head, torch", f"train --backend torch --data table.csv {_NETS} --steps 200 --checkpoint kept "
        "--every 3 --out out", "table.csv", _TWO_HEAD),
    Command("two-in-two-out, torch", "train --backend torch --model two-in-two-out --data curves.npz --steps 900 "
        "--checkpoint kept --every 7 --out out", "curves.npz", _TWO_IN),
    Command("two-in-two-out, flax", "train --model two-in-two-out --data curves.npz --steps 3000 --checkpoint kept "
        "--every 50 --out out", "curves.npz", _TWO_IN),
)  # fmt: skip
# Each stage of these has a folder of checkpoints within the folder.
TRAININGS = (
    *SINGLES,
    Command("effects", f"train --data table.csv {_NETS} --members 3 --no-intervals --steps 400 --checkpoint kept "
        "--every 40 --out out", "table.csv", _TWO_HEAD),
    Command("effects, calibrated", f"train --data table.csv {_NETS} --members 4 --steps 300 --checkpoint kept "
        "--every 60 --out out", "table.csv", _TWO_HEAD),
    Command("effects, streamed", f"train --stream --data table.parquet {_NETS} --members 2 --no-intervals --steps 400 "
        "--checkpoint kept --every 40 --out out", "table.parquet", _STREAMED),
    Command("two-head, torch, streamed", f"train --backend torch --stream --data table.parquet {_NETS} --steps 300 "
        "--checkpoint kept --every 5 --out out", "table.parquet", _STREAMED),
)  # fmt: skip
CONVERSIONS = (
    Command("predict, flax", "predict --model model.safetensors --data table.csv --out told.csv",
        "model.safetensors table.csv", "told.csv"),
    Command("predict, torch", "predict --backend torch --model model.safetensors --data table.parquet --out told.csv",
        "model.safetensors table.parquet", "told.csv"),
    Command("export, onnx", "export --model model.safetensors --format onnx --out model.onnx", "model.safetensors",
        "model.onnx"),
    Command("export, stablehlo", "export --model model.safetensors --format stablehlo --out model.zip",
        "model.safetensors", "model.zip"),
    Command("record", "parity --record new.safetensors --model two-head --steps 2", "", "new.safetensors"),
    Command("check", "parity --check trace.safetensors --json report.json --html report.html", "trace.safetensors",
        "report.json report.html"),
    Command("convert", "parity --reference own.py:reference --port own.py:port --convert converted.safetensors",
        "own.py", "converted.safetensors"),
)  # fmt: skip
# Short ones that read a table, for damage and dirt.
READERS = (
    Command("train on CSV", f"train --backend torch --data table.csv {_NETS} --steps 2 --out out", "table.csv"),
    Command("train on Parquet", f"train --backend torch --data table.parquet {_NETS} --steps 2 --out out",
        "table.parquet"),
    Command("train on NPZ", "train --backend torch --data table.npz --representation-features 6 --head-features 4 "
        "--steps 2 --out out", "table.npz"),
    Command("train on curves", "train --backend torch --model two-in-two-out --data curves.npz --steps 2 --out out",
        "curves.npz"),
)  # fmt: skip
