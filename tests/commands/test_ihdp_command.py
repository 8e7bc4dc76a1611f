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
    arguments = (".", "--members", "2", "--json", "r.json", "--plot", "r.png")
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
    assert "ours is better than ours, single nets on" in out
    assert set(report["contestants"]) == {"single", "ensemble", "nothing"}
    assert report["contestants"]["nothing"]["replications"][1]["sqrt_pehe_out"] is None
    assert report["versions"]["numpy"] == np.__version__
    assert "NaN on 1 of 2" in out
    assert "ours is better than no effect at all on" in out
    assert (tmp_path / "r.png").stat().st_size > 0


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
