"""`scripts/torture.py`: what it counts, and a few blows of each attack."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

import torture
from attacks.damage import DAMAGES, Damage
from attacks.processes import Ended
from attacks.record import Record
from tests.support.commands import SCRIPTS, fails

ALL = [torture.name_of(attack) for attack in torture.ATTACKS]
QUICK = ["sigterm-in-training", "dirty-npz"]
OTHERS = [name for name in ALL if name not in QUICK]


@pytest.mark.parametrize("names", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_a_few_blows_of_each_attack(names: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPTS / "torture.py"),
        "--short",
        "--only",
        *names,
        "--out",
        str(tmp_path / "table"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = (tmp_path / "table").read_text().split("\n\n")[0].splitlines()
    assert head.split() == ["attack", "tried", "lost", "wrong", "tracebacks", "hangs"]
    assert sorted(row.split()[0] for row in rows) == sorted(names)
    for row in rows:
        if "skipped" not in row:
            assert int(row.split()[1]) > 0


@pytest.mark.parametrize(
    ("code", "err", "hung", "kind"),
    [
        (0, "warning: a\n", False, ""),
        (2, "warning: a\nerror: b\n", False, ""),
        (130, "interrupted\n", False, ""),
        (2, "", False, "wrong"),
        (3, "", False, "wrong"),
        (1, "Traceback (most recent call last):\n", False, "tracebacks"),
        (0, "Exception ignored in: <x>\nTraceback (most recent call last):\n", False, "tracebacks"),
        (2, "error: a\nerror: b\n", False, "tracebacks"),
        (-11, "", False, "tracebacks"),
        (-9, "", True, "hangs"),
    ],
)
def test_how_a_process_ended_is_judged(code: int, err: str, hung: bool, kind: str) -> None:
    record = Record()
    assert record.judge(Ended(code, "", err, 1.0, hung), "a blow") == (not kind)
    assert record.passed == (not kind)
    assert {name for name in ("lost", "wrong", "tracebacks", "hangs") if getattr(record, name)} == ({kind} - {""})


def test_killed_is_right_where_it_was_killed() -> None:
    assert Record().judge(Ended(-9, "", "", 1.0, False), "a blow", (0, -9))


@pytest.mark.parametrize("damage", list(dict.fromkeys(DAMAGES)))
def test_each_damage_changes_a_file(damage: Damage, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    file = tmp_path / "file"
    file.write_bytes(bytes(range(1, 256)))
    damage(file, random.Random(0))
    assert not file.is_file() or file.read_bytes() != bytes(range(1, 256))


def test_unusable_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in (
        (["--minutes", "0"], "error: --minutes: expected a number above 0, got 0.0"),
        (["--only", "rain"], "error: argument --only: invalid choice: 'rain'"),
    ):
        fails(torture.main, given, tmp_path, message, capsys)
