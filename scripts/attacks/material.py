"""The files that the command lines read: small, and the same every time."""

from pathlib import Path
from typing import Any

import numpy as np

from torch_ref.common.data.simulation import curves, synthetic
from torch_ref.common.data.tables import write_csv

OWN = """
import flax.linen as nn
import numpy as np
import torch


class Port(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="only")(x)


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.only = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.only(x)


def reference():
    batch = {"x": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)}
    return Reference(), batch, lambda model, x: (model(x) ** 2).mean()


def port():
    return Port(), lambda model, x: (model(x) ** 2).mean()
"""
NAMES = ("a", "b", "c", "d", "t", "y")


def write_tables(folder: Path) -> None:
    """Writes one table as .csv, .parquet and .npz, the curves of the article as .npz, and two models to compare."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = synthetic(rows=60, features=4)
    rows = [(*x, int(t), y) for x, t, y in zip(data.x.tolist(), data.t, data.y[:, 0].tolist(), strict=True)]
    write_csv(folder / "table.csv", ("row", *NAMES), rows)
    table = pa.table({"row": range(60), **dict(zip(NAMES, zip(*rows, strict=True), strict=True))})
    pq.write_table(table, folder / "table.parquet")
    np.savez(folder / "table.npz", x=data.x, t=data.t, yf=data.y[:, 0])
    of_curves: dict[str, Any] = curves()
    np.savez(folder / "curves.npz", **of_curves)
    (folder / "own.py").write_text(OWN)
