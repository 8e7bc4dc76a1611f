"""`twohead ihdp`: its report, and how it fails."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import flax_impl
from flax_impl.commands import ihdp
from tests.support.commands import call, fails


def ihdp_folder(folder: Path) -> None:
    """Writes two replications in IHDP's layout, and which rows are for the test."""
    for number in (1, 2):
        data = flax_impl.data.synthetic(rows=90 + number, features=5, seed=number)
        assert data.mu0 is not None
        assert data.mu1 is not None
        columns = np.hstack([data.t[:, None], data.y, data.y, data.mu0, data.mu1, data.x])
        np.savetxt(folder / f"ihdp_npci_{number}.csv", columns, delimiter=",")
    (folder / "test_rows.json").write_text(json.dumps({"1": list(range(9)), "2": list(range(10))}))


@pytest.mark.slow
def test_ihdp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ihdp_folder(tmp_path)
    answers = iter((0.0, np.nan))  # no effect in the first replication, and a failure in the second

    def nothing(x: np.ndarray, t: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray]) -> list[np.ndarray]:
        answer = next(answers)
        return [np.full(len(rows), answer) for rows in asked]

    peers = {"nothing": ihdp.Peer("numpy", "no effect at all", nothing)}
    arguments = (".", "--members", "2", "--no-trees", "--json", "r.json", "--plot", "r.png")
    code = call(lambda given: ihdp.main(given, peers), *arguments, folder=tmp_path)
    out, err = capsys.readouterr()
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert [one["replication"] for one in report["replications"]] == [1, 2]
    for measure in ("sqrt_pehe_in", "sqrt_pehe_out", "ate_error_in", "ate_error_out", "seconds"):
        values = [one[measure] for one in report["replications"]]
        assert report["summary"][measure]["mean"] == pytest.approx(np.mean(values))
        assert report["summary"][measure]["median"] == pytest.approx(np.median(values))
        assert report["summary"][measure]["standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))
    assert set(report["contestants"]) == {"single", "ensemble", "nothing"}
    for name in ("replications", "summary"):
        assert report[name] == report["contestants"]["ensemble"][name]
    assert report["contestants"]["nothing"]["replications"][1]["sqrt_pehe_out"] is None
    assert report["versions"]["numpy"] == np.__version__
    assert "NaN on 1 of 2" in out
    assert 'ours wins: on how many of 2 the error on test rows is smaller by "ours, nets"' in out
    assert (tmp_path / "r.png").stat().st_size > 0


def test_trees_are_a_contestant_where_catboost_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"catboost"}
    monkeypatch.setattr(ihdp.importlib.util, "find_spec", lambda name: object() if name in there else None)
    made = ihdp.settings_of_ours(ihdp.parse([".", "--members", "3", "--seed", "7"]))
    assert [(one.members, one.learners) for one in made.values()] == [
        (1, ("nets",)), (3, ("nets",)), (3, ("nets", "trees")),
    ]  # fmt: skip
    assert {one.seed for one in made.values()} == {7}
    assert set(ihdp.settings_of_ours(ihdp.parse([".", "--no-trees"]))) == {"single", "ensemble"}
    there.clear()
    assert set(ihdp.settings_of_ours(ihdp.parse(["."]))) == {"single", "ensemble"}


def test_acic2016_is_split_as_published() -> None:
    pytest.importorskip("causallib")
    train, test = ihdp.split("acic2016", 3)
    whole = flax_impl.data.load_data("acic2016:3")
    order = np.random.default_rng(44).permutation(4802)
    np.testing.assert_array_equal(train.y, whole.y[order[:4321]])
    np.testing.assert_array_equal(test.x, whole.x[order[4321:]])
    assert len(test) == 481


def result(out: Sequence[float]) -> ihdp.Result:
    return {measure: list(out) for measure in ihdp.MEASURES}


@pytest.mark.parametrize("source", ["ihdp", "acic2016"])
def test_the_table_counts_who_wins_and_quotes_what_is_published(source: str) -> None:
    results = {
        "ensemble": result([1.0, 2.0]), "learners": result([0.5, 3.0]), "other": result([0.9, np.nan]),
    }  # fmt: skip
    lines = ihdp.table(results, ihdp.OURS | {"other": "another"}, [1, 2], source).splitlines()
    nets, trees, other, *published, judged = lines[1:]
    assert nets.split() == ["ours,", "nets", *["1.500"] * 3, "0.500", "1.500", "1.500", "3.0", "-,", "1"]
    assert trees.endswith(" 1, -")
    assert other.endswith(" 1, 2  NaN on 1 of 2, left out")
    assert len(published) == len(ihdp.PUBLISHED[source])
    for line, (name, value, where) in zip(published, ihdp.PUBLISHED[source], strict=True):
        assert line.startswith(name)
        assert line.endswith(f" {value:.2f}   ({where})")
    assert judged.endswith('smaller by "ours, nets", then "ours, nets and trees"')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: DIR"),
        (["none"], "No such file or directory"),
        (["empty"], "error: empty: expected files ihdp_npci_1.csv, ihdp_npci_2.csv, …, got none"),
        ([".", "--replications", "2-3"], "error: --replications: expected some of 1-2, got 2-3"),
        ([".", "--replications", "some"], "error: --replications: expected some of 1-2, got some"),
        ([".", "--members", "0"], "error: members: expected a whole number of at least 1, got 0"),
        (["broken"], "test_rows.json: expected the row numbers of replication 1, got KeyError"),
    ],
)
def test_unusable_arguments(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    ihdp_folder(tmp_path)
    ihdp_folder(tmp_path / "broken")
    (tmp_path / "broken" / "test_rows.json").write_text("{}")
    fails(ihdp.main, arguments, tmp_path, message, capsys)
