"""The README and the pages under docs: their code runs and prints what they say, their numbers are the files'."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import effect_peers
from benchmark import table
from flax_impl.commands import ihdp

ROOT = Path(__file__).parents[2]
NAMES = ihdp.OURS | {name: peer.words for name, peer in effect_peers.PEERS.items()}
README = (ROOT / "README.md").read_text()
PAGES = ("porting", "serving", "training", "worked_port")
RESULTS = [path.read_text() for path in sorted((ROOT / "docs").glob("*/*.txt"))]
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n+```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
# Runs blocks of code one after the other in one namespace, as a reader would who pastes them; the last line of what it
# prints is what each printed.
RUNNER = """
import contextlib, io, json, sys
namespace, printed = {"__name__": "__main__"}, []
for number, code in enumerate(json.load(sys.stdin)):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, f"<block {number}>", "exec"), namespace)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def run(blocks: list[str], folder: Path) -> list[str]:
    """Returns what each block printed, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(blocks), cwd=folder, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_pages_python_runs(page: str, tmp_path: Path) -> None:
    """Block by block, in one namespace; a block of text after it is what it prints."""
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())
    printed = run([code for code, _ in blocks], tmp_path)
    for (code, output), found in zip(blocks, printed, strict=True):
        assert not output or found == output, code


@pytest.mark.parametrize(
    ("code", "output"),
    [
        pytest.param(
            code, output, marks=[pytest.mark.slow] if re.search(r"range\(1000\)|members=5|torch_state", code) else []
        )
        for code, output in BLOCK.findall(README)
    ],
)
def test_the_readmes_python_runs(code: str, output: str, tmp_path: Path) -> None:
    """Each block by itself, and prints what the README says it prints."""
    (found,) = run([code], tmp_path)
    assert not output or found == output


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_a_pages_tables_are_what_commands_wrote(page: str) -> None:
    """A block of text that no Python printed is a file of a command's, or a part of one."""
    text = BLOCK.sub("", (ROOT / page).read_text())
    tables = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(tables) >= 2
    for found in tables:
        assert any(found.strip() in written for written in RESULTS), found
    shown = [found.strip() for found in tables]
    if page != "README.md":  # shows every table, or points to it
        for path in (ROOT / "docs").glob("*/*.txt"):
            assert path.read_text().strip() in shown or f"]({path.parent.name}/{path.name})" in text, path


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in PAGES)])
def test_what_a_page_points_to_is_there(path: str) -> None:
    text = (ROOT / path).read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        assert "://" in target or (ROOT / path).parent.joinpath(target).exists(), target
    for command in re.findall(r"(?:bash|python) (scripts/\w+\.\w+)", text):
        assert (ROOT / command).is_file()
    for test in re.findall(r"`tests/([\w/]+\.py)", text):
        assert (ROOT / "tests" / test).is_file()


def test_the_readme_tells_what_the_kill_matrix_found() -> None:
    """`parity.py --kill-matrix --json docs/parity/kill_matrix.json > docs/parity/kill_matrix.txt` writes it again."""
    written = (ROOT / "docs" / "parity" / "kill_matrix.txt").read_text()
    assert written.splitlines()[-1] in README.replace("\n", " ")


def test_the_readme_tells_what_became_of_faults_in_other_peoples_models() -> None:
    """`pairs.py`, with `--faults N`, `--trainings`, `--optimizers` and `--reverse N`, writes the files again."""
    folder = ROOT / "docs" / "parity"
    assert (folder / "pair_faults.txt").read_text().splitlines()[-1] in README.replace("\n", " ")
    for file in ("pair_trainings", "pair_trainings_fresh", "pair_optimizers", "pair_faults_reverse"):
        file = f"{file}.txt"
        assert (folder / file).read_text().splitlines()[-1] in README.replace("\n", " ")
    pairs = (folder / "pairs.txt").read_text().splitlines()[1:]
    assert f"[{len(pairs)} pairs](docs/parity/pairs.txt)" in README.replace("\n", " ")
    assert all(" agrees " in pair for pair in pairs)
    found = sum(" found" in pair and "not found" not in pair for pair in pairs)
    assert f"in {found} of them it finds the weights from their shapes alone" in README.replace("\n", " ")


def test_the_speed_table_is_that_of_its_results() -> None:
    """`benchmark.py --full --json docs/benchmark/speed.json --plots docs/benchmark > …/speed.txt` writes them again."""
    results = ROOT / "docs" / "benchmark"
    assert (results / "speed.txt").read_text().strip() == table(json.loads((results / "speed.json").read_text()))


@pytest.mark.parametrize("name", ["ihdp", "acic2016"])
def test_the_table_of_effects_is_that_of_its_results(name: str) -> None:
    """`ihdp.py DIR --json docs/effects/ihdp.json > docs/effects/ihdp.txt` writes them again."""
    written = json.loads((ROOT / "docs" / "effects" / f"{name}.json").read_text())
    found = {
        contestant: {m: [one[m] or np.nan for one in of_one["replications"]] for m in ihdp.MEASURES}
        for contestant, of_one in written["contestants"].items()
    }
    numbers = [one["replication"] for one in written["replications"]]
    assert (ROOT / "docs" / "effects" / f"{name}.txt").read_text().strip() == ihdp.table(found, NAMES, numbers, name)
