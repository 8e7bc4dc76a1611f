"""The docstrings: every public name says what goes in, what comes out and what is refused, and its example runs."""

import builtins
import doctest
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flax import nnx

import flax_impl
from tests.support.names import public_names

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("torch_ref", "flax_impl")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem != "__init__"
]
ROOMS = [
    "torch_ref", "torch_ref.data", "torch_ref.models", "torch_ref.recording", "torch_ref.training", "flax_impl",
    "flax_impl.data", "flax_impl.effects", "flax_impl.models", "flax_impl.models.nnx", "flax_impl.parity",
    "flax_impl.serving", "flax_impl.training",
]  # fmt: skip
# What takes anything that its types allow, and refuses nothing.
RAISES_NOTHING: dict[str, str] = {
    "AverageEffect": "a record: it keeps what it is given",
    "AverageBounds": "a record: it keeps what it is given",
    "AverageEffects": "a record: it keeps what it is given",
    "Balance": "a record: it keeps what it is given",
    "BudgetCurve": "a record: it keeps what it is given",
    "Benchmark": "a record: it keeps what it is given",
    "Column": "a record: it keeps what it is given",
    "ColumnStatistics": "a record: it keeps what it is given",
    "Conversion": "a record: it keeps what it is given",
    "Constant": "a schedule without settings",
    "CrossFit": "a record: it keeps what it is given",
    "Divergence": "a record: it keeps what it is given",
    "Contrast": "a record: it keeps what it is given",
    "EffectPage": "a record: it keeps what it is given",
    "EffectReport": "a record: it keeps what it is given",
    "Entry": "a record: it keeps what it is given",
    "Finding": "a record: it keeps what it is given",
    "GroupEffects": "a record: it keeps what it is given",
    "GroupFeatures": "a record: it keeps what it is given",
    "Importance": "a record: it keeps what it is given",
    "PairEffects": "a record: it keeps what it is given",
    "PolicyValue": "a record: it keeps what it is given",
    "OutOfFold": "a record: it keeps what it is given",
    "Rate": "a record: it keeps what it is given",
    "Refutation": "a record: it keeps what it is given",
    "Refutations": "a record: it keeps what it is given",
    "MarginalBounds": "a record: it keeps what it is given",
    "Report": "a record: it keeps what it is given",
    "StepReport": "a record: it keeps what it is given",
    "Tape": "a record: it keeps what it is given",
    "Schedule": "a base class without settings",
    "Scales": "a record: it keeps what it is given",
    "Trace": "a record: it keeps what it is given",
    "TreatmentData": "a record: it keeps what it is given",
    "WeightMap": "a record: it keeps what it is given",
    "WeightMapError": "an error itself",
    "average_by": "takes any function; what it returns refuses",
    "html_page": "shows any reports, none too",
    "step_page": "shows any reports, none too",
    "text_table": "shows any reports, none too",
}
SECTIONS = re.compile(r"^(Args|Returns|Raises|Warns|Example):\n((?:(?: .*)?\n?)*)", re.MULTILINE)


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and class of both packages, once."""
    for package in ROOMS:
        for name in public_names(package):
            value = getattr(importlib.import_module(package), name)
            if callable(value):
                yield f"{package}.{name}", value


PUBLIC = dict(public())


def sections(documented: object) -> dict[str, str]:
    return dict(SECTIONS.findall((inspect.getdoc(documented) or "") + "\n"))


def entries(section: str) -> list[str]:
    """Returns the names that a section describes, in its order."""
    return re.findall(r"^    (\*{0,2}\w+): \S", section, re.MULTILINE)


def arguments(call: Callable[..., Any]) -> list[str]:
    """Returns the names of a call's arguments, without those that Linen adds to every module."""
    if inspect.isclass(call) and issubclass(call, nnx.Module):
        call = call.__init__  # their metaclass has a signature that says nothing
    try:
        found = inspect.signature(call).parameters
    except ValueError:  # an exception, which takes what every exception takes
        return []
    added = ("parent", "name") if "parent" in found else ()
    return [name for name in found if name not in ("self", *added)]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_what_goes_in_and_comes_out(name: str) -> None:
    documented = PUBLIC[name]
    found = sections(documented)
    assert entries(found.get("Args", "")) == arguments(documented)
    if not inspect.isclass(documented) and inspect.signature(documented).return_annotation is not None:
        assert found.get("Returns", "").strip()
    refused = entries(found.get("Raises", ""))
    assert bool(refused) != (name.rpartition(".")[2] in RAISES_NOTHING)
    for error in refused:
        assert hasattr(builtins, error) or hasattr(flax_impl.parity, error), error
    assert ">>> " in found.get("Example", "")


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isclass(value)])
def test_a_public_method_says_so_too(name: str) -> None:
    made = PUBLIC[name]
    for member, value in inspect.getmembers(made, inspect.isfunction):
        own = value.__module__.partition(".")[0] in ("torch_ref", "flax_impl")
        if member.startswith("_") or not own or (member == "setup" and not arguments(value)):
            continue
        assert entries(sections(value).get("Args", "")) == arguments(value), member


# SHAP compiles for ten seconds when it is imported; the others take seconds, and tests of their own say the same.
_SLOW = ("flax_impl.effects.decisions.importance", "flax_impl.parity.check", "flax_impl.training.balance")


@pytest.mark.parametrize(
    "module", [pytest.param(module, marks=[pytest.mark.slow] if module in _SLOW else []) for module in MODULES]
)
def test_the_examples_run(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0
