"""How large the house is: short files, few in a folder, small roots."""

from pathlib import Path

import flax_impl
import torch_ref
from tests.support.names import public_names

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch_ref", "flax_impl")
ROOMS = {"common", "data", "models", "training", "recording", "effects", "serving", "parity", "commands"}
# One idea each, and longer than the rest: a list of what people get wrong, and a page in one piece.
LONG = {
    "flax_impl/parity/diagnosis/optimizer/variants.py",
    "flax_impl/parity/report/page.py",
    "flax_impl/effects/estimator.py",  # scikit-learn wants each argument spelled out
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_folder_is_crowded() -> None:
    for folder in {path.parent for path in sources()}:
        names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(names) <= 12, (folder, names)


def test_test_files_have_names_of_their_own() -> None:
    """Two of one name are one module for pytest, which then runs neither."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in sources()}
    assert {name for name, length in lengths.items() if length > 350} <= LONG


def test_the_roots_are_maps() -> None:
    for package, most in ((torch_ref, 16), (flax_impl, 19)):
        assert len(set(public_names(package.__name__)) - ROOMS) <= most
        for name in public_names(package.__name__):
            assert getattr(package, name).__doc__, name
