"""The project itself: what the wheel holds, what the examples say, what the README shows."""

import doctest
import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ihdp
from benchmark import table

ROOT = Path(__file__).parents[1]
EXTRAS = ("torch", "data", "plots", "estimator", "balance", "test")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("torch_ref", "flax_impl")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem != "__init__"
]


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"torch_ref", "flax_impl"}
    assert {"torch_ref/py.typed", "flax_impl/py.typed", "flax_impl/hub/data.py", "flax_impl/parity/page.css"} <= set(
        names
    )
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("torch_ref", "flax_impl")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected


def test_torch_is_an_extra_and_all_takes_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    assert {"numpy", "safetensors", "jax", "flax", "optax", "chex"} <= core
    assert "torch" not in core
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"[a-z]+", everything)) - {"twohead"} == set(extras) - {"all", "cuda", "tpu", "peers"}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower() for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    }
    wanted = [
        *project["dependencies"],
        *(line for name in EXTRAS for line in project["optional-dependencies"][name]),
    ]
    assert {re.split(r"[<>=\[]", line)[0].lower() for line in wanted} <= pinned


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    assert sum(len(test.examples) for module in MODULES for test in finder.find(importlib.import_module(module))) >= 10


def test_the_readme_shows_what_the_demo_wrote() -> None:
    """`bash scripts/demo.sh --out docs/demo` writes these numbers again."""
    readme = (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / "demo" / "demo.txt").read_text().strip() in readme
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", readme):
        assert (ROOT / picture).is_file()
    for command in re.findall(r"(?:bash|python) (scripts/\w+\.\w+)", readme):
        assert (ROOT / command).is_file()


def test_the_readme_shows_what_the_harness_wrote() -> None:
    """`parity.py > docs/parity/parity.txt` and the kill matrix's command write them again."""
    readme, results = (ROOT / "README.md").read_text(), ROOT / "docs" / "parity"
    assert (results / "parity.txt").read_text().strip() in readme
    assert (results / "kill_matrix.txt").read_text().splitlines()[-1] in readme.replace("\n", " ")


def test_the_readme_shows_what_the_benchmark_wrote() -> None:
    """`benchmark.py --full --json docs/benchmark/speed.json --plots docs/benchmark > …/speed.txt` writes it again."""
    readme, results = (ROOT / "README.md").read_text(), ROOT / "docs" / "benchmark"
    assert (results / "speed.txt").read_text().strip() in readme
    assert (results / "speed.txt").read_text().strip() == table(json.loads((results / "speed.json").read_text()))


def test_the_readme_shows_what_the_benchmarks_of_effects_wrote() -> None:
    """`ihdp.py DIR --json docs/effects/ihdp.json > …/ihdp.txt` and `interval_coverage.py` write it again."""
    readme, results = (ROOT / "README.md").read_text(), ROOT / "docs" / "effects"
    for name in ("ihdp", "acic2016"):
        written = json.loads((results / f"{name}.json").read_text())
        assert (results / f"{name}.txt").read_text().strip() in readme
        found = {
            contestant: {m: [one[m] or np.nan for one in of_one["replications"]] for m in ihdp.MEASURES}
            for contestant, of_one in written["contestants"].items()
        }
        numbers = [one["replication"] for one in written["replications"]]
        assert (results / f"{name}.txt").read_text().strip() == ihdp.table(found, numbers, name)
    assert (results / "interval_coverage.txt").read_text().strip() in readme


EXAMPLES = re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_the_readmes_python_runs(code: str, output: str, tmp_path: Path) -> None:
    """And print what it says they print."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not output or done.stdout == output
