"""`twohead train` and `twohead predict` on tables that are read in parts, and how they fail."""

import csv
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow.csv import write_csv
from pyarrow.parquet import read_table, write_table

import torch_ref
from flax_impl.commands import predict, train
from flax_impl.commands.streams.source import streamed_source
from tests.support.commands import call, fails
from tests.support.mixed_rows import mixed_rows
from tests.support.parquet import write

SMALL = ("--representation-features", "4", "--head-features", "4", "--batch-size", "16", "--epochs", "1")
NAMED = ("--treatment", "arm", "--control", "none", "--weight", "w")


@pytest.mark.parametrize(
    ("backend", "data", "more"),
    [
        ("flax", "rows", ("--members", "2", "--checkpoint", "kept")),
        ("torch", "rows/part-*.parquet", ("--cfr-weights", "--checkpoint", "kept")),
        ("torch", "my.csv", ("--stream", "--sample", "90")),
    ],
)
def test_train_and_predict(
    backend: str, data: str, more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = mixed_rows(120)
    write(tmp_path / "rows", made, 40, 15)
    write_csv(made.set_column(3, "grade", made.column("grade").cast("string")), tmp_path / "my.csv")
    arguments = ("--backend", backend, "--data", data, "--out", "out", *NAMED, *SMALL, *more)
    assert call(train.main, *arguments, folder=tmp_path) == 0, capsys.readouterr().err
    said = capsys.readouterr().out.splitlines()
    if data == "my.csv":
        assert said.pop(0) == "my.csv: converted to my.parquet"
    drug = made.column("arm").to_pylist().count("drug")
    assert said[0] == f"{data}: 120 rows, {120 - drug} of none, {drug} of drug, 5 features (2 categories, 2 with gaps)"
    assert said[1].startswith(f"{data}: read in parts, so there are no intervals, pictures or averages with errors; ")
    of_nets = ["net-0", "net-1"] if backend == "flax" else []
    assert sorted(path.name for path in tmp_path.glob("kept/net-*")) == of_nets
    assert (tmp_path / "kept").is_dir() == ("kept" in more)
    effects = read_table(tmp_path / "out" / "effects.parquet")
    mean = effects.column("effect").to_numpy().mean()
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert summary == [said[0], f"120 rows, mean of the rows' effects {mean:.4g}"]  # no seconds, which would differ
    with (tmp_path / "out" / "losses.csv").open() as file:
        assert list(csv.DictReader(file).fieldnames or ())[-1] == "loss on held-out rows"
    told = ("--model", "out/model.safetensors", "--backend", backend, "--data", data, "--out", "told.csv")
    assert call(predict.main, *told, *(["--stream"] if "--stream" in more else []), folder=tmp_path) == 0
    assert f"{data}: 120 rows, mean of the rows' effects {mean:.4g}" in capsys.readouterr().out
    found = np.loadtxt(tmp_path / "told.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(found[:, 3], effects.column("effect").to_numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_two_in_two_out(backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    made = pyarrow.table({name: draw.normal(size=40) for name in ("x1_a", "x1_b", "x2_a", "x2_b", "y1", "y2", "id")})
    write_table(made, tmp_path / "curves.parquet", row_group_size=16)
    model = ("--model", "two-in-two-out", "--backend", backend, "--hidden-features", "4", "--epochs", "2")
    arguments = ("--data", "curves.parquet", "--stream", "--out", "out", "--batch-size", "8", *model)
    assert call(train.main, *arguments, folder=tmp_path) == 0, capsys.readouterr().err
    assert "curves.parquet: 40 rows, 2 features in each input" in capsys.readouterr().out
    losses = np.loadtxt(tmp_path / "out" / "losses.csv", delimiter=",", skiprows=1)
    assert losses.shape == (10, 3)
    assert np.isfinite(losses).all()
    assert torch_ref.load_model(tmp_path / "out" / "model.safetensors").config["in_features"] == 2


def test_a_csv_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.csv").write_text("a,t,y\n1,0,2\n")
    for word in ("converted to", "read from"):
        assert streamed_source("my.csv", True) == "my.parquet"
        assert capsys.readouterr().out == f"my.csv: {word} my.parquet\n"
    assert streamed_source("my.csv", False) is None
    assert streamed_source("synthetic", False) is None
    for source in ("s3://bucket/rows", "rows-*.parquet", "."):
        assert streamed_source(source, False) == source


IN_MEMORY = "train on a sample of its rows in memory for that"
PARTS = "a table that is read in parts"
FAILURES: list[tuple[list[str], str]] = [
    (["--data", "rows", "--out", "rows/part-0.parquet"],
     "error: --out: expected a folder to write to, got rows/part-0.parquet: File exists"),
    (["--data", "empty"], "error: empty: expected Parquet files, found none"),
    (["--data", "none/*.parquet"], "error: none/*.parquet: expected Parquet files, found none"),
    (["--data", "x.npz", "--stream"], "error: --stream: expected a folder, a pattern, a URL, or a .parquet or "),
    (["--stream"], "or .csv file for --data, got synthetic, which is read whole"),
    (["--data", "none.csv", "--stream"], "error: none.csv: expected a file, found none"),
    (["--data", "nowhere://rows"], "error: nowhere://rows: expected a URL that fsspec can open, got "),
    (["--sample", "9"], f"error: --sample: expected with {PARTS} (--stream), got 9"),
    (["--data", "rows", "--outcome", "z"], "error: rows: expected a column 'z', got age, "),
    (["--data", "rows", "--groups", "city"], f"error: --groups: expected none with {PARTS}, got city; {IN_MEMORY}"),
    (["--data", "rows", "--drop-missing"], f"error: --drop-missing: expected none with {PARTS}, got it; {IN_MEMORY}"),
    (["--data", "rows", "--bootstrap"], f"error: --bootstrap: expected none with {PARTS}, got it; {IN_MEMORY}"),
    (["--data", "rows", "--report", "r.html"], f"error: --report: expected none with {PARTS}, got r.html; {IN_MEMORY}"),
    (["--data", "rows", "--learners", "nets", "trees"], f"expected nets with {PARTS}, got nets trees; {IN_MEMORY}"),
    (["--data", "other"], "error: other/part-2.parquet: column age: expected float, as in other/part-0.parquet, got"),
    (["--data", "gap"], "error: gap/part-0.parquet, row group 7: column arm: expected a value in every row, got none"),
    (["--data", "rows", "--model", "two-in-two-out"], "error: rows: data: expected the arrays x1, x2, y1, y2, got "),
]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_said_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OSError, match=rf"^--out: expected a folder to write to, got {tmp_path}: Permission denied$"):
        train.make_folder(tmp_path)


@pytest.mark.parametrize(("arguments", "message"), FAILURES)
def test_one_line_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = mixed_rows(120)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "rows", made, 40)
    other = write(tmp_path / "other", made, 40, 40, 40)
    write_table(made.set_column(0, "age", made.column("age").cast("int32", safe=False)), other / "part-2.parquet")
    arms = made.column("arm").to_pylist()
    arms[115] = None
    write(tmp_path / "gap", made.set_column(made.column_names.index("arm"), "arm", pyarrow.array(arms)), 16)
    named = [] if "two-in-two-out" in arguments else ["--treatment", "arm"]
    fails(train.main, [*arguments, *named], tmp_path, message, capsys)
    assert not (tmp_path / "out").exists()
