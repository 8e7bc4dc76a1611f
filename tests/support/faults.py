"""Plants faults that people make when they port in copies of the code, to see whether the harness finds them."""

import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flax_impl.commands.recipes import Recipe, check, reference
from flax_impl.training import traced_settings

ROOT = Path(__file__).parents[2]
BATCHES = "torch_ref/common/batches.py"
STEPS = 6  # into the second epoch, past the batch that is filled up and the one with an empty arm


@dataclass(frozen=True)
class Fault:
    """A small change to the port, or to the order of its batches.

    Args:
        title: what is wrong, for the table.
        file: where the text is, from the root of the project.
        old: the text that is changed.
        new: what it becomes.
        group: where in a step it lives: data, weights, forward, loss, backward or optimiser.
        where: how the name of the culprit starts.
        cause: words of the diagnosis that names it.
        recipe: arguments of the pair's `Recipe` that differ from the usual.
        converts: False where the port's own conversion refuses the reference's weights.
    """

    title: str
    file: str
    old: str
    new: str
    group: str
    where: str
    cause: tuple[str, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    converts: bool = True


def load_faults() -> list[Fault]:
    """Returns all faults of the file beside this one."""
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["fault"]
    return [Fault(**{**fault, "cause": tuple(fault["cause"])}) for fault in listed]


@dataclass(frozen=True)
class Kill:
    """What the harness reports of a fault."""

    fault: Fault
    report: Any

    @property
    def caught(self) -> bool:
        """Whether the port was found to diverge."""
        return not self.report.passed

    @property
    def localised(self) -> bool:
        """Whether the first divergence is where the fault is."""
        first = self.report.first_divergence
        return first is not None and first.group == self.fault.group and first.name.startswith(self.fault.where)

    @property
    def named(self) -> bool:
        """Whether the first diagnosis is the fault."""
        first = self.report.diagnosis[:1]
        return bool(first) and all(words in first[0].text for words in self.fault.cause)

    @property
    def misnamed(self) -> bool:
        """Whether the first diagnosis is certain of something else."""
        return not self.named and any(finding.certain for finding in self.report.diagnosis[:1])

    def to_json(self) -> dict[str, Any]:
        """Returns a row of the table, as JSON takes it."""
        return {
            "fault": self.fault.title,
            "group": self.fault.group,
            "where": self.fault.where,
            "caught": self.caught,
            "localised": self.localised,
            "named": self.named,
            "first_divergence": str(self.report.first_divergence or ""),
            "misnamed": self.misnamed,
            "diagnosis": [str(finding) for finding in self.report.diagnosis],
        }


def changed(fault: Fault) -> str:
    """Returns the text of the fault's file with the fault in it.

    Raises:
        ValueError: the text to be changed is not there: the code has moved on.
    """
    text = (ROOT / fault.file).read_text()
    if fault.old not in text:
        raise ValueError(f"{fault.title}: expected {fault.old!r} in {fault.file}, found none")
    text = text.replace(fault.old, fault.new)
    if "jax." in fault.new and "\nimport jax\n" not in text:
        text = text.replace("import jax.numpy as jnp\n", "import jax\nimport jax.numpy as jnp\n")
    return text


def plant(fault: Fault, folder: Path) -> ModuleType:
    """Returns a copy of the port with the fault in it, made in a folder."""
    text = changed(fault)
    number = 1 + sum(path.name.startswith("port_with_fault_") for path in folder.iterdir())
    name = f"port_with_fault_{folder.name}_{number}"
    shutil.copytree(ROOT / "flax_impl", folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / name / Path(fault.file).relative_to("flax_impl")).write_text(text)
    # The copy shares the settings' classes, which JAX takes as pytrees only once.
    sys.modules[f"{name}.training.traced_settings"] = traced_settings
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def plant_order(fault: Fault, folder: Path) -> Callable[..., Any]:
    """Returns `batch_order` of a copy of the batches' module with the fault in it, made in a folder."""
    path = folder / "batches_with_fault.py"
    path.write_text(changed(fault))
    spec = importlib.util.spec_from_file_location("torch_ref.common.batches_with_fault", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.batch_order


def kill(fault: Fault) -> Kill:
    """Plants a fault and checks the copy."""
    recipe = Recipe(**{"steps": STEPS, **fault.recipe})
    trace = _recorded(json.dumps(recipe.as_json()))
    with tempfile.TemporaryDirectory() as folder:
        if fault.file == BATCHES:
            return Kill(fault, check(recipe, trace, None, fault.converts, plant_order(fault, Path(folder))))
        return Kill(fault, check(recipe, trace, plant(fault, Path(folder)), fault.converts))


@lru_cache
def _recorded(recipe: str) -> Any:
    """Returns the reference's trace, which most faults share."""
    return reference(Recipe(**json.loads(recipe)))


def matrix_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for each row that `Kill.to_json` gives, and the counts."""
    mark = {True: "yes", False: "NO"}
    width = max(len(row["fault"]) for row in rows)
    lines = [f"{'fault':{width}}  caught  localised  named  first divergence"]
    for row in rows:
        marks = f"{mark[row['caught']]:6}  {mark[row['localised']]:9}  {mark[row['named']]:5}"
        lines.append(f"{row['fault']:{width}}  {marks}  {row['first_divergence']}")
    caught, localised, named, misnamed = (
        sum(row[what] for row in rows) for what in ("caught", "localised", "named", "misnamed")
    )
    lines.append(
        f"{len(rows)} faults: {caught} caught, {localised} localised, {named} named by the first diagnosis, "
        f"{misnamed} misnamed with confidence"
    )
    return "\n".join(lines)
