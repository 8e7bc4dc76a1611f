"""A table of 200 MB, from `twohead train` to `twohead predict`, in processes that may not hold what nets make of it."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow.parquet import ParquetFile, write_table

from tests.support.commands import SCRIPTS

ROWS, FILES, COLUMNS = 1_300_000, 4, 19
LIMIT = 3 * 2**30  # bytes of address space; in memory it takes 6 GiB


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Path]:
    draw = np.random.default_rng(0)
    (tmp_path / "rows").mkdir()
    for number in range(FILES):
        columns: dict[str, Any] = {f"x{i}": draw.normal(size=ROWS // FILES) for i in range(COLUMNS)}
        columns["city"] = draw.choice(["Bonn", "Oslo", "Rome"], ROWS // FILES)
        columns["t"] = draw.integers(0, 2, ROWS // FILES)
        columns["y"] = columns["x0"] + columns["t"]
        path = tmp_path / "rows" / f"{number}.parquet"
        write_table(pyarrow.table(columns), path, row_group_size=50_000)
    yield tmp_path / "rows"
    shutil.rmtree(tmp_path)


def limited(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each thread takes some of it
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments], cwd=folder, preexec_fn=limit, capture_output=True,
        env=os.environ | {"MALLOC_ARENA_MAX": "2"}, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and affinity are Linux's")
def test_a_table_larger_than_memory(rows: Path) -> None:
    assert sum(path.stat().st_size for path in rows.iterdir()) > 200e6
    folder = rows.parent
    nets = ("--epochs", "1", "--batch-size", "8192", "--representation-features", "8", "--head-features", "8")
    done = limited("train.py", "--data", "rows", "--members", "1", "--out", "out", *nets, folder=folder)
    assert done.returncode == 0, done.stderr
    assert f"rows: {ROWS} rows, " in done.stdout
    done = limited(
        "predict.py", "--data", "rows", "--model", "out/model.safetensors", "--out", "told.parquet", folder=folder
    )
    assert done.returncode == 0, done.stderr
    with ParquetFile(folder / "told.parquet") as told, ParquetFile(folder / "out" / "effects.parquet") as trained:
        assert told.metadata.num_rows == ROWS
        assert told.read().equals(trained.read())
        assert abs(told.read(["effect"]).column(0).to_numpy().mean() - 1) < 0.1
