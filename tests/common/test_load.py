"""Data sources: what they give, and how they refuse what they cannot read."""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.common.data.design import finite_tables
from torch_ref.data import Column, load_curves, load_data, load_features

HEADER = "age,t,y,income\n"
LINES = ["31,0,1.5,2e3\n", "42.5,1,-2,3e3\n", "27,0,0.25,1e3\n"]


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_with_named_columns(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, HEADER + "".join(LINES)))
    assert data.feature_names == ("age", "income")
    np.testing.assert_array_equal(data.x, [[31, 2e3], [42.5, 3e3], [27, 1e3]])
    np.testing.assert_array_equal(data.t, [0, 1, 0])
    np.testing.assert_array_equal(data.y, [[1.5], [-2], [0.25]])
    assert data.mu0 is data.mu1 is data.w is None
    assert {name: array.dtype for name, array in data.arrays().items()} == {"x": float, "t": np.int32, "y": float}


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """A byte order mark, quotes, a comma in a name, blank lines and carriage returns."""
    text = '\ufeff"age, years","treated","outcome","w"\r\n"31",0,1,1\r\n\r\n42,1,2,3\r\n'
    data = load_data(write(tmp_path, text), treatment="treated", outcome="outcome", weight="w")
    assert data.feature_names == ("age, years",)
    np.testing.assert_array_equal(data.arrays()["w"], [1, 3])


def test_columns_that_only_a_simulation_knows_are_no_features(tmp_path: Path) -> None:
    text = "mu1,x,mu0,t,y,ycf\n5,1,4,0,4.5,5.5\n6,2,3,1,6.5,3.5\n"
    data = load_data(write(tmp_path, text))
    assert data.feature_names == ("x",)
    np.testing.assert_array_equal(data.mu0, [[4], [3]])
    np.testing.assert_array_equal(data.mu1, [[5], [6]])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Whatever lies in a file: data or a ValueError."""
    for suffix in (".csv", ".npz"):
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"twohead-{os.getpid()}{suffix}"
        path.write_bytes(content)
        try:
            assert len(load_data(path)) > 0
        except ValueError as error:
            assert str(error).startswith(str(path))  # noqa: PT017 (data is as good)
        finally:
            path.unlink()


@given(
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1, max_size=5)
)
def test_every_number_survives(rows: list[list[float]]) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"twohead-{os.getpid()}.csv"
    path.write_text("x,y,t\n" + "".join(f"{x!r},{y!r},{t}\n" for x, y in rows for t in (0, 1)))
    data = load_data(path)
    path.unlink()
    np.testing.assert_array_equal(np.hstack([data.x, data.y]), np.repeat(rows, 2, axis=0))


SOURCES = "source: expected synthetic, acic2016:1 to acic2016:10, or a file ending in .csv, .parquet, .npz, got"
INSTANCES = "acic2016: expected one of '1', '2', '3', '4', '5', '6', '7', '8', '9', '10', got"


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("table.txt", ValueError, f"{SOURCES} 'table.txt'"),
        ("", ValueError, f"{SOURCES} ''"),
        ("none.csv", FileNotFoundError, "none.csv: expected a file, found none"),
        ("acic2016:11", ValueError, f"{INSTANCES} '11'"),
        ("acic2016:", ValueError, f"{INSTANCES} ''"),
    ],
)
def test_unknown_sources(source: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        load_data(source)
    assert str(caught.value) == message


def test_arguments_that_a_source_has_no_use_for(tmp_path: Path) -> None:
    named, bare = write(tmp_path, HEADER + LINES[0]), write(tmp_path, "1,5.5,4.25,3,6,-0.5\n", "bare.csv")
    np.savez(tmp_path / "many.npz", **ihdp_arrays(1))  # pyright: ignore[reportArgumentType]
    cases: tuple[tuple[str | Path, dict[str, Any], str], ...] = (
        ("synthetic", {"treatment": "a"}, "treatment: expected 't', as synthetic has no use for another, got 'a'"),
        ("acic2016:1", {"replication": 2}, "replication: expected 1, as acic2016:1 has no use for another, got 2"),
        (bare, {"weight": "w"}, f"weight: expected None, as {bare} has no use for another, got 'w'"),
        (named, {"replication": 2}, f"replication: expected 1, as {named} has no use for another, got 2"),
        (tmp_path / "many.npz", {"outcome": "z"}, "has no use for another, got 'z'"),
        (named, {"outcome": "t"}, "weight, groups: expected a column of its own for each, got t, t"),
        (named, {"weight": "y"}, "weight, groups: expected a column of its own for each, got t, y, y"),
        (named, {"weight": ""}, f"{named}: expected a column '', got age, t, y, income"),
    )
    for source, arguments, message in cases:
        with pytest.raises(ValueError, match="expected") as caught:
            load_data(source, **arguments)
        assert message in str(caught.value)


def ihdp_arrays(replications: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=(6, replications)) for name in ("yf", "ycf", "mu0", "mu1")}
    return arrays | {"x": generator.normal(size=(6, 3, replications)), "t": generator.integers(0, 2, (6, replications))}


def test_npz_in_the_ihdp_layout(tmp_path: Path) -> None:
    arrays = ihdp_arrays(2)
    np.savez(tmp_path / "many.npz", **arrays)  # pyright: ignore[reportArgumentType]
    second = load_data(tmp_path / "many.npz", replication=2)
    np.testing.assert_array_equal(second.x, arrays["x"][..., 1])
    np.testing.assert_array_equal(second.t, arrays["t"][:, 1])
    np.testing.assert_array_equal(second.y[:, 0], arrays["yf"][:, 1])
    assert second.mu1 is not None
    np.testing.assert_array_equal(second.mu1[:, 0], arrays["mu1"][:, 1])
    with pytest.raises(ValueError, match=r"^replication: expected 1 to 2, as .* holds, got 3$"):
        load_data(tmp_path / "many.npz", replication=3)
    with pytest.raises(ValueError, match=r"^replication: expected a whole number of at least 1, got 0$"):
        load_data(tmp_path / "many.npz", replication=0)
    np.savez(tmp_path / "one.npz", **{name: array[..., 1] for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(load_data(tmp_path / "one.npz").x, second.x)


def test_bad_npz(tmp_path: Path) -> None:
    arrays = ihdp_arrays(1)
    path = tmp_path / "bad.npz"
    for changes, message in (
        ({"x": np.zeros(6)}, "x: expected 2 or 3 axes, got 1"),
        ({"t": np.zeros((5, 1))}, "t: expected 6 rows, as x has, got 5"),
        ({"t": np.full((6, 1), 2)}, "t: expected 0 or 1 in every row, got 2 in row 0 (6 in all)"),
        ({"yf": np.full((6, 1), np.nan)}, "y: expected finite numbers, got nan in row 0 (6 in all)"),
        ({"x": np.array([[["a"]]] * 6)}, "x: expected numbers, got dtype <U1"),
        ({"x": np.array([None] * 6)}, "expected an .npz archive of plain arrays, got ValueError"),
    ):
        np.savez(path, **(arrays | changes))  # pyright: ignore[reportArgumentType, reportCallIssue]
        with pytest.raises(ValueError, match=r"bad\.npz") as caught:
            load_data(path)
        assert message in str(caught.value)
    np.savez(path, x=arrays["x"])
    with pytest.raises(ValueError, match="expected the arrays x, t, yf, got x"):
        load_data(path)


def test_a_frame_and_a_file_give_the_same_data(tmp_path: Path) -> None:
    """Groups of text, weights, arms with a control, and columns that are no features."""
    pl = pytest.importorskip("polars")
    text = "id,age,arm,y,w,clinic\na,31,b,1.5,1,north\nb,42,a,2,2,south\nc,,b,3,1,north\n"
    chosen: Any = {"treatment": "arm", "control": "b", "weight": "w", "groups": "clinic", "ignore": ["id"]}
    data = load_data(write(tmp_path, text), **chosen)
    assert data.columns == (Column("age", None, True),)
    assert data.arms == ("b", "a")
    assert data.t.tolist() == [0, 1, 0]
    assert data.w is not None
    assert data.w.tolist() == [1, 2, 1]
    assert data.groups is not None
    assert data.groups.tolist() == ["north", "south", "north"]
    named = load_data(tmp_path / "table.csv", **(chosen | {"ignore": [], "features": ["age"]}))
    np.testing.assert_array_equal(named.x, data.x)
    assert named.columns == data.columns
    frame = load_data(pl.read_csv(tmp_path / "table.csv"), **chosen)
    for name, array in vars(data).items():
        np.testing.assert_array_equal(getattr(frame, name), array)


def test_rows_without_treatment_or_outcome_are_dropped_where_asked(tmp_path: Path) -> None:
    """Levels and gaps are those of the rows that are left."""
    text = "city,age,t,y,w\nRome,,,1,\nOslo,42,1,2,1\nOslo,43,0,,1\nBonn,44,0,4,2\n"
    data = load_data(write(tmp_path, text), missing="drop", weight="w")
    assert data.dropped == (0, 2)
    assert data.columns == (Column("city", ("Bonn", "Oslo")), Column("age"))
    np.testing.assert_array_equal(data.x, [[1, 42], [0, 44]])
    np.testing.assert_array_equal(data.t, [1, 0])
    assert data.w is not None
    assert data.w.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"^missing: expected one of 'error', 'drop', got 'keep'$"):
        load_data({"t": [0, 1], "y": [0, 1], "x": [0, 1]}, missing=cast(Any, "keep"))
    with pytest.raises(ValueError, match=r"^expected rows with t and y, got 2 that lack one of them$"):
        load_data({"t": [0, np.nan], "y": [np.nan, 1], "x": [0, 1]}, missing="drop")


def test_codes_that_look_like_numbers_are_categories_where_declared(tmp_path: Path) -> None:
    """As text in a file, so that nothing of them is lost; as they are in a table; and likewise for new rows."""
    path = write(tmp_path, "zip,t,y\n01234,0,1\n99999,1,2\n01234,0,3\n,1,4\n")
    data = load_data(path, categories=["zip"])
    assert data.columns == (Column("zip", ("01234", "99999"), True),)
    np.testing.assert_array_equal(load_features(path, data.columns or ()), [[0], [1], [0], [np.nan]])
    table = {"code": [2, 1, 10], "ok": [True, False, True], "half": [0.5, 1, 1], "t": [0, 1, 0], "y": [1, 2, 3]}
    data = load_data(table, categories=["code", "ok", "half"])
    assert data.columns == (Column("code", (1, 2, 10)), Column("ok", (False, True)), Column("half", (0.5, 1)))
    kinds = [type(level) for column in data.columns or () for level in column.levels or ()]
    assert kinds == [int, int, int, bool, bool, float, int]
    np.testing.assert_array_equal(data.x, [[1, 1, 0], [0, 0, 1], [2, 1, 1]])
    new = write(tmp_path, "code,ok,half\n10,true,0.5\n3,,1.5\n")
    np.testing.assert_array_equal(load_features(new, data.columns or ()), [[2, 1, 0], [-1, -1, -1]])


def test_large_numbers_of_groups_stay_apart() -> None:
    groups = [2**60, 2**60 + 1, 2**60]
    data = load_data({"t": [0, 1, 1], "y": [1, 2, 3], "x": [1, 2, 3], "g": groups}, groups="g")
    assert data.groups is not None
    assert data.groups.tolist() == groups


def test_codes_that_one_number_would_merge_are_refused() -> None:
    table = {"t": [0, 1, 1], "y": [1, 2, 3], "x": [2**60, 2**60 + 1, 5]}
    message = f"^column x: expected labels of at most 2.*53 where they are numbers, got {2**60} in row 0; write them"
    with pytest.raises(ValueError, match=message):
        load_data(table, categories=["x"])


def test_damaged_npz(tmp_path: Path) -> None:
    """Flipped bits anywhere: the data, or a ValueError that names the file."""
    np.savez_compressed(tmp_path / "good.npz", **ihdp_arrays(2))  # pyright: ignore[reportArgumentType]
    content, path = (tmp_path / "good.npz").read_bytes(), tmp_path / "bad.npz"
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.choice(len(content), 300, replace=False):
        flipped = bytearray(content)
        flipped[position] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        try:
            load_data(path)
        except ValueError as error:
            assert str(error).startswith(str(path))  # noqa: PT017 (data is as good)
            refused += 1
    assert refused > 200
    for length in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"bad\.npz: expected an \.npz archive of plain arrays"):
            load_data(path)
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"single\.npz: expected an \.npz archive of plain arrays"):
        load_data(tmp_path / "single.npz")


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {"age": [31, 42], "t": [True, False], "y": [1.5, -2.0], "ok": [None, True]}
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({name: columns[name] for name in ("age", "t", "y")}), path)
    data = load_data(path)
    np.testing.assert_array_equal(data.x, [[31], [42]])
    np.testing.assert_array_equal(data.t, [1, 0])
    pq.write_table(pa.table(columns), path)
    assert load_data(path).columns == (Column("age"), Column("ok", None, True))


def test_acic2016() -> None:
    pytest.importorskip("causallib")
    data = load_data("acic2016:1")
    assert data.mu0 is not None
    assert data.mu1 is not None
    assert data.x.shape == (4802, 58)
    assert data.columns is not None
    assert [column.name for column in data.columns if column.levels is not None] == ["x_2", "x_21", "x_24"]
    assert not np.isnan(data.x).any()
    # As the challenge's own files have them: 858 treated, an average effect of 2.128.
    assert data.t.sum() == 858
    assert (data.mu1 - data.mu0).mean() == pytest.approx(2.1280792580310415)
    assert np.corrcoef(data.y[:, 0], np.where(data.t == 1, data.mu1[:, 0], data.mu0[:, 0]))[0, 1] > 0.9
    assert not np.array_equal(load_data("acic2016:2").t, data.t)
    from causallib.datasets import load_acic16

    prepared: Any = load_acic16(instance=1)  # with dummies made by causallib
    made = finite_tables(data)[0]
    assert [name.replace(" is ", "_") for name in made.feature_names] == list(prepared.X.columns)
    np.testing.assert_array_equal(made.x, prepared.X.to_numpy(float))
    np.testing.assert_array_equal(made.t, prepared.a)
    np.testing.assert_array_equal(made.y[:, 0], prepared.y)
    np.testing.assert_array_equal(np.hstack([data.mu0, data.mu1]), prepared.po)


def test_csv_in_the_ihdp_layout(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, "1,5.5,4.25,3,6,-0.5,1,2\n0,6,7,6.5,7.5,0.25,0,1\n"))
    assert data.feature_names == ("x1", "x2", "x3")
    np.testing.assert_array_equal(data.x, [[-0.5, 1, 2], [0.25, 0, 1]])
    np.testing.assert_array_equal(data.t, [1, 0])
    np.testing.assert_array_equal(data.y, [[5.5], [6]])
    np.testing.assert_array_equal(data.mu0, [[3], [6.5]])
    np.testing.assert_array_equal(data.mu1, [[6], [7.5]])


@pytest.mark.skipif("TWOHEAD_IHDP" not in os.environ, reason="TWOHEAD_IHDP names no folder of ihdp_npci_N.csv files")
def test_ihdp_files() -> None:
    data = load_data(Path(os.environ["TWOHEAD_IHDP"]) / "ihdp_npci_1.csv")
    assert data.mu0 is not None
    assert data.mu1 is not None
    assert data.x.shape == (747, 25)
    assert data.t.sum() == 139
    assert data.y[0, 0] == 5.59991628549083
    assert (data.mu1 - data.mu0).mean() == pytest.approx(4.0, abs=0.1)


def test_curves_from_files(tmp_path: Path) -> None:
    path = write(tmp_path, "y1,x1_a,x2_a,y2,x1_b,x2_b,note\n1,2,3,4,5,6,seven\n")
    data = load_curves(path)
    assert {name: array.tolist() for name, array in data.items()} == {
        "x1": [[2, 5]], "x2": [[3, 6]], "y1": [[1]], "y2": [[4]]
    }  # fmt: skip
    np.savez(tmp_path / "curves.npz", **data)  # pyright: ignore[reportArgumentType]
    assert load_curves(tmp_path / "curves.npz").keys() == data.keys()
    with pytest.raises(ValueError, match=r"table.csv: data: expected the arrays x1, x2, y1, y2, got x1"):
        load_curves(write(tmp_path, "x1,t\n1,2\n"))
    np.savez(tmp_path / "flat.npz", **{name: array[:, 0] for name, array in data.items()})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"flat\.npz: x1: expected shape \[rows, features\], got \[1\]"):
        load_curves(tmp_path / "flat.npz")
    with pytest.raises(ValueError, match=r"^source: expected data with two inputs and two outputs, got acic2016:1"):
        load_curves("acic2016:1")


def test_truth_values_count_as_0_and_1(tmp_path: Path) -> None:
    """As pandas and R write them."""
    (tmp_path / "my.csv").write_text("age,ok,t,y\n31,true,True,TRUE\n42,False,FALSE,false\n53,,true,True\n")
    data = load_data(tmp_path / "my.csv")
    assert data.t.tolist() == [1, 0, 1]
    assert data.arms == (False, True)
    assert data.y.tolist() == [[1], [0], [1]]
    np.testing.assert_array_equal(data.x, [[31, 1], [42, 0], [53, np.nan]])
