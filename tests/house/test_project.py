"""The project itself: what the wheel holds, and what is installed with it."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("jax", "torch", "data", "plots", "estimator", "trees", "onnx", "shap", "balance", "docs", "test")


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"torch_ref", "flax_impl"}
    kept = {"torch_ref/py.typed", "flax_impl/py.typed", "flax_impl/__init__.pyi", "flax_impl/parity/report/page.css"}
    kept |= {"flax_impl/effects/page/page.css"}
    assert kept <= set(names)
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("torch_ref", "flax_impl")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected


def test_each_framework_is_an_extra_and_all_takes_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    assert core == {"jaxtyping", "narwhals", "numpy", "safetensors", "tqdm"}
    assert project["scripts"] == {"twohead": "flax_impl.commands.main:main"}
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"[a-z]+", everything)) - {"twohead"} == set(extras) - {
        "all",
        "cuda",
        "tpu",
        "peers",
        "pairs",
    }


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
