"""The models and their training are twins: the same names in the same order, arguments, defaults; nothing else is."""

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

import flax_impl
import torch_ref
from tests.support.names import public_names

ROOT = Path(__file__).parents[2]
TWINS = [
    "models/layers.py", "models/two_head.py", "models/two_in_two_out.py", "models/weights.py",
    "training/balance.py", "training/build.py", "training/checkpoints/state.py", "training/early_stopping.py",
    "training/fit.py", "training/losses.py", "training/precision.py", "training/predict.py", "training/targeted.py",
]  # fmt: skip
# What one side has besides the other's. The port is pure: parameters and the optimiser's state go in and come out,
# where torch's objects hold them. Its devices form a mesh; processes of torch form a group.
ARGUMENTS = {"params", "opt_state", "mesh", "process_group", "parameters", "optimizer", "lr", "rows", "model"}
ONLY_HERE = {
    "torch_ref": {"Loss", "Training", "build_scheduled", "showing", "to_tensors", "dtype_of", "counts", "forward"},
    "flax_impl": {
        "AnyModel", "Params", "begin", "count_replicas", "init_params", "keep_rows", "linear", "linear_initializers",
        "lowered", "repeat_groups", "predict_replicas", "setup", "__call__", "over",
    },
}  # fmt: skip


def public(path: Path) -> list[str]:
    """Returns the public classes, functions and constants of a file, in their order."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in found if not name.startswith("_")]


@pytest.mark.parametrize("file", TWINS)
def test_the_same_names_in_the_same_order(file: str) -> None:
    of_torch, of_flax = (
        [name for name in public(ROOT / package / file) if name not in ONLY_HERE[package]] for package in ONLY_HERE
    )
    assert of_flax == of_torch


def test_what_both_sides_define_are_twins() -> None:
    """A class or function of one name in both packages lies in the same file of both."""
    homes: dict[str, dict[str, set[str]]] = {}
    for package in ONLY_HERE:
        for path in (ROOT / package).rglob("*.py"):
            file = path.relative_to(ROOT / package).as_posix().removeprefix("parity/")
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, {}).setdefault(package, set()).add(file)
    both = {name: of for name, of in homes.items() if len(of) == 2}
    strangers = {name: of for name, of in both.items() if not of["torch_ref"] & of["flax_impl"]}
    # The same verb for the same act, each in its own framework.
    same_verbs = {"initialize_distributed", "dtype_of", "forward_and_backward", "optimizer_step"}
    assert strangers.keys() <= same_verbs, strangers


def parameters(call: Any) -> list[tuple[str, Any, Any]]:
    """Returns name, kind and default of each argument that both sides should have."""
    found = []
    for parameter in inspect.signature(call).parameters.values():
        if parameter.name in ARGUMENTS | {"self", "parent", "name"}:
            continue
        default = parameter.default
        found.append((parameter.name, parameter.kind, repr(default) if dataclasses.is_dataclass(default) else default))
    return found


def members(made: type) -> dict[str, Any]:
    """Returns the methods and properties that a class itself defines, in public."""
    public = {name: value for name, value in vars(made).items() if not name.startswith("_")}
    return {name: value for name, value in public.items() if callable(value) or hasattr(value, "__get__")}


PUBLIC = [
    (room, name)
    for room in ("", ".models", ".training", ".data")
    for name in public_names(f"torch_ref{room}")
    if name not in ("common", "recording", "models", "training", "data", "record")
]


@pytest.mark.parametrize(("room", "name"), PUBLIC)
def test_the_same_signature(room: str, name: str) -> None:
    reference, port = (
        getattr(getattr(package, room[1:]) if room else package, name) for package in (torch_ref, flax_impl)
    )
    if not callable(reference):
        return
    assert parameters(reference) == parameters(port)
    if inspect.isclass(reference):
        of_torch, of_flax = members(reference), members(port)
        assert of_torch.keys() - ONLY_HERE["torch_ref"] <= of_flax.keys()
        for member in of_torch.keys() & of_flax.keys():
            if callable(of_torch[member]):
                assert parameters(of_torch[member]) == parameters(of_flax[member]), member
        if "forward" in of_torch:
            assert parameters(of_torch["forward"]) == parameters(port.__call__)


def test_roots_have_the_same_names() -> None:
    more = set(public_names("flax_impl")) - set(public_names("torch_ref"))
    assert more == {"check_parity", "commands", "effects", "fit_replicas", "load_trace", "parity", "serving"}
    assert set(public_names("torch_ref")) - set(public_names("flax_impl")) == {"common", "recording"}
