"""The documentation site: it lists what the packages export, it builds without a warning, and its pages say it all."""

import html
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.names import public_names

ROOT = Path(__file__).parents[2]
PAGES = {
    "flax_impl": "flax_impl", "flax_impl.models": "models", "flax_impl.models.nnx": "models",
    "flax_impl.training": "training", "flax_impl.effects": "effects", "flax_impl.serving": "serving",
    "flax_impl.parity": "parity", "flax_impl.data": "data", "torch_ref": "torch_ref",
    "torch_ref.recording": "torch_ref", "torch_ref.models": "torch_ref", "torch_ref.training": "torch_ref",
}  # fmt: skip
ROOMS = {"commands", "common", "data", "effects", "models", "nnx", "parity", "recording", "serving", "training"}
FRAMEWORKS = {"setup", "parent", "set_fit_request", "set_score_request"}  # what Linen and scikit-learn put into a class


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, from the docstrings as they are."""
    folder = tmp_path_factory.mktemp("docs")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def entry(site: Path, module: str, name: str) -> str:
    """Returns the text of a name's entry, with single spaces."""
    page = (site / "api" / f"{PAGES[module]}.html").read_text(encoding="utf-8")
    start = page.index(f'id="{module}.{name}"')
    end = page.find(f'id="{module}.', start + 1)
    text = html.unescape(re.sub(r"<[^>]+>", "", page[page.index(">", start) + 1 : end if end > 0 else None]))
    return " ".join(text.split())


def exported(module: str) -> list[str]:
    """Returns what a module's page has to list; rooms, and names that another page has, are left out."""
    earlier = list(PAGES)[: list(PAGES).index(module)]
    there = {id(getattr(importlib.import_module(other), name)) for other in earlier for name in public_names(other)}
    found = importlib.import_module(module)
    return [name for name in public_names(module) if name not in ROOMS and id(getattr(found, name)) not in there]


def public_classes() -> Iterator[tuple[str, str, type]]:
    for module in PAGES:
        for name in exported(module):
            found = getattr(importlib.import_module(module), name)
            if inspect.isclass(found):
                yield module, name, found


@pytest.mark.parametrize("module", PAGES)
def test_the_pages_list_what_the_packages_export(module: str) -> None:
    page = (ROOT / "docs" / "api" / f"{PAGES[module]}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^\.\. currentmodule:: (\S+)$(.*?)^```", page, re.MULTILINE | re.DOTALL)
    listed = [
        name for of, block in blocks if of == module for name in re.findall(r"^\.\. auto\w+:: (\w+)", block, re.M)
    ]
    assert sorted(listed) == sorted(exported(module))


@pytest.mark.slow
def test_the_site_has_every_public_method_and_no_inherited_one(site: Path) -> None:
    pages = {module: (site / "api" / f"{page}.html").read_text(encoding="utf-8") for module, page in PAGES.items()}
    documented = {found for _, _, found in public_classes()}
    for module, name, found in public_classes():
        expected = {
            member
            for base in found.__mro__
            if base.__module__.startswith(("flax_impl", "torch_ref")) and base not in documented - {found}
            for member, value in vars(base).items()
            if (not member.startswith("_") or member == "__call__") and member not in FRAMEWORKS
            if inspect.isroutine(value) or inspect.isdatadescriptor(value)
            if getattr(value, "__doc__", None)
        }
        shown = set(re.findall(rf'<dt class="[^"]*" id="{re.escape(module)}\.{name}\.(\w+)">', pages[module]))
        assert shown == expected, (module, name)


@pytest.mark.slow
def test_an_entry_has_its_signature_its_sections_and_its_example(site: Path) -> None:
    fit = entry(site, "flax_impl", "fit")
    assert fit.startswith("flax_impl.fit( model: Module, params: Params, data: Mapping[str, Any] | ParquetTable, *, ")
    assert "optimizer: Optimizer = Adam(), loss: Loss = FactualLoss(), epochs: int | None = None, " in fit
    assert ") → tuple[Params, Float[np.ndarray, 'steps outputs']]" in fit
    parts = ["Twin: torch_ref.fit, ", "Parameters:", "Returns:", "Raises:", "FloatingPointError", "Example"]
    places = [fit.index(part) for part in [*parts, ">>> params, losses = fit(model, "]]
    assert places == sorted(places)
    step = entry(site, "flax_impl", "train_step")
    assert "Returns: (params, opt_state, losses): the new parameters, " in step
    page = (site / "api" / "flax_impl.html").read_text(encoding="utf-8")
    assert 'href="torch_ref.html#torch_ref.fit"' in page


@pytest.mark.slow
def test_a_class_has_its_own_arguments_only(site: Path) -> None:
    assert entry(site, "flax_impl.models", "MLP").startswith(
        "class flax_impl.models.MLP( in_features: int, features: Sequence[int], activation: str = 'elu', "
        "final_activation: str | None = None, )"
    )
    assert entry(site, "flax_impl.training", "StepDecay").startswith(
        "class flax_impl.training.StepDecay(*, step_size: int, gamma: float = 0.1)"
    )
    assert entry(site, "flax_impl.data", "TreatmentData.take").startswith(
        "take(rows: Int[np.ndarray, ' some']) → TreatmentData"
    )
    assert "By name: elu, gelu, identity, " in entry(site, "torch_ref.models", "ACTIVATIONS")


@pytest.mark.slow
def test_the_site_fetches_nothing(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name
