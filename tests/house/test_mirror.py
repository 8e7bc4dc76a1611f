"""The packages are twins: the same files, names, signatures and order; and sealed: neither needs the other's framework.

What differs on purpose is listed here, with its reason.
"""

import ast
import dataclasses
import filecmp
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flax_impl
import torch_ref

ROOT = Path(__file__).parents[2]
REFERENCE, PORT = ROOT / "torch_ref", ROOT / "flax_impl"

# Arguments that one side has besides the other's, and why.
ONLY_TORCH = {
    ("Optimizer.build", "parameters"): "torch's optimiser holds the parameters it moves",
    ("Schedule.build", "optimizer"): "torch's schedule moves the rate of an optimiser",
    ("fit", "process_group"): "torch's processes talk through a group, the port's devices form a mesh",
    ("fit_effects", "process_group"): "torch's processes talk through a group, the port's devices form a mesh",
    ("record", "row_orders"): "the reference alone measures what rounding does",
}
ONLY_FLAX = {
    ("train_step", "params"): "the port is pure: parameters go in and come out",
    ("train_step", "opt_state"): "the port is pure: the optimiser's state goes in and comes out",
    ("fit", "params"): "the port is pure: parameters go in and come out",
    ("fit", "mesh"): "the port's devices form a mesh, torch's processes talk through a group",
    ("fit_effects", "mesh"): "the port's devices form a mesh, torch's processes talk through a group",
    ("EffectModel", "params"): "a Linen module does not hold its parameters",
    ("predict", "params"): "a Linen module does not hold its parameters",
    ("record", "params"): "a Linen module does not hold its parameters",
    ("record", "weight_map"): "torch's names are the common language; the port translates",
    ("save_model", "params"): "a Linen module does not hold its parameters",
    ("MLP.__call__", "rows"): "the port masks rows where the reference leaves them out",
    ("Schedule.build", "lr"): "the port's schedule is a function of the step that gives the rate",
}
RENAMED = {
    ("to_numpy", "model"): ("params", "a Linen module does not hold its parameters"),
    ("EffectModel", "models"): ("model", "one Linen module does for all nets"),
}
# Members of classes that one side has besides the other's.
ONLY_TORCH_MEMBERS = {"forward": "torch calls it `forward`, Linen `__call__`"}
ONLY_FLAX_MEMBERS = {
    "__call__": "torch calls it `forward`, Linen `__call__`",
    "setup": "Linen builds layers there, torch in the constructor",
    "init_params": "torch draws weights in the constructor",
}
ONLY_FLAX_NAMES = {
    "TwoHeadEstimator": "scikit-learn's face is the product's, and the reference is no product",
    "cache_compilations": "torch compiles nothing",
    "fit_effects_each": "torch trains one model at a time",
    "fit_replicas": "torch trains one model at a time",
    "make_mesh": "torch's processes talk through a group",
    "predict_replicas": "torch trains one model at a time",
    "check_parity": "the port is held against the reference, not the other way round",
    "map_weights": "torch's names are the common language; the port translates",
    "nnx": "Flax has two ways to write a module",
    "replay": "the port is held against the reference, not the other way round",
}
# Files and top-level functions that one side has besides the other's.
ONLY_TORCH_FILES = {
    "noise.py": "the reference alone measures what rounding does",
    "steps.py": "a step of the port is a compiled call: programs.py, runs.py",
}
ONLY_FLAX_FILES = {
    "compiled.py": "torch compiles nothing",
    "functional.py": "torch's modules hold their parameters, and so does one way of Flax's",
    "nnx.py": "Flax has two ways to write a module",
    "estimator.py": "scikit-learn's face is the product's, and the reference is no product",
    "loops.py": "torch's loop is a loop",
    "parity": "serves any pair of traces; numpy only",
    "moments.py": "torch's names for the moments are the common language; the port translates",
    "programs.py": "torch compiles nothing",
    "pytrees.py": "torch has no compiled training that would take settings as values",
    "replica_runs.py": "torch trains one model at a time",
    "replicas.py": "torch trains one model at a time",
    "replay.py": "the port is held against the reference, not the other way round",
    "runs.py": "a port runs by itself or behind the reference, which only runs by itself",
}
ONLY_TORCH_FUNCTIONS = {
    "Call": "a call is complete only after the backward pass; the port's are arrays of one compiled call",
    "rows_of_calls": "the reference splits the batch; the port never does",
    "mean_divisor": "DDP averages over processes; the port's mean is over the whole batch by itself",
    "shared_by_processes": "the port's penalty sees the whole batch, wherever its rows lie",
    "Share": "a process of torch's does its share; the port's program is split by where its arrays lie",
    "Loss": "the port's is beside what is compiled",
    "MakeOptimizer": "torch's optimiser holds the parameters it moves, so it comes in three ways",
}
ONLY_FLAX_FUNCTIONS = {
    "fit_effects_each": "torch trains one model at a time",
    "begin": "torch's `Watch` is begun by its constructor",
    "finish": "torch's training is the one that ends",
    "aligned": "torch takes numpy's memory over as it lies",
    "fetch": "an array of the port's may lie on several hosts",
    "lost_peers_named": "in torch, `Share` names them",
    "lowered": "torch's autocast lowers by itself",
    "make_mesh": "torch's processes talk through a group",
    "Placement": "the port's arrays lie over a mesh; torch's processes take their share",
    "zeros_for": "the port takes gradients by zeros that it adds; torch has hooks",
    "linear_initializers": "torch.nn.Linear is the reference of what it draws",
    "AnyModel": "Flax has two ways to write a module",
    "linear": "torch.nn.Linear is the reference of what it draws",
    "keep_rows": "the port masks rows where the reference leaves them out",
    "init_params": "torch draws weights in the constructor",
    "Params": "a Linen module does not hold its parameters",
}


def names(package: Path) -> list[str]:
    return sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))


def test_the_same_files() -> None:
    of_port = [name for name in names(PORT) if name.split("/")[0] not in ONLY_FLAX_FILES]
    assert of_port == [name for name in names(REFERENCE) if name not in ONLY_TORCH_FILES]


def test_the_hub_is_the_same_to_the_byte() -> None:
    files = [path.name for path in (REFERENCE / "hub").glob("*.py")]
    _, differ, missing = filecmp.cmpfiles(REFERENCE / "hub", PORT / "hub", files, shallow=False)
    assert (differ, missing) == ([], [])


def test_the_same_public_names() -> None:
    assert torch_ref.__all__ == [name for name in flax_impl.__all__ if name not in ONLY_FLAX_NAMES]
    assert torch_ref.__all__ == sorted(torch_ref.__all__, key=lambda name: (not name.isupper(), name))
    for package in (torch_ref, flax_impl):
        assert all(getattr(package, name).__doc__ for name in package.__all__)


def top_level(path: Path) -> list[str]:
    """Returns the public classes, functions and constants of a file, in their order."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in found if not name.startswith("_")]


@pytest.mark.parametrize(
    "file", [name for name in names(REFERENCE) if "/" not in name and name not in ONLY_TORCH_FILES]
)
def test_the_same_order_in_each_file(file: str) -> None:
    of_port = [name for name in top_level(PORT / file) if name not in ONLY_FLAX_FUNCTIONS]
    assert of_port == [name for name in top_level(REFERENCE / file) if name not in ONLY_TORCH_FUNCTIONS]


def parameters(call: object, name: str, left_out: dict[tuple[str, str], str]) -> list[tuple[str, object, object]]:
    """Returns name, kind and default of each argument, in order, without the deliberate differences."""
    found = []
    for parameter in inspect.signature(call).parameters.values():  # pyright: ignore[reportArgumentType]
        if parameter.name in ("self", "parent", "name") or (name, parameter.name) in left_out:
            continue
        argument = RENAMED.get((name, parameter.name), (parameter.name,))[0]
        default = parameter.default
        if dataclasses.is_dataclass(default):
            default = repr(default)
        found.append((argument, parameter.kind, default))
    return found


def members(made: type) -> dict[str, object]:
    """Returns the methods and properties that a class itself defines, in public."""
    public = {name: value for name, value in vars(made).items() if not name.startswith("_") or name == "__call__"}
    return {name: value for name, value in public.items() if callable(value) or hasattr(value, "__get__")}


def compare(reference: object, port: object, name: str) -> None:
    assert parameters(reference, name, ONLY_TORCH) == parameters(port, name, ONLY_FLAX), name


@pytest.mark.parametrize("name", [name for name in torch_ref.__all__ if callable(getattr(torch_ref, name))])
def test_the_same_signature(name: str) -> None:
    reference, port = getattr(torch_ref, name), getattr(flax_impl, name)
    compare(reference, port, name)
    if not inspect.isclass(reference):
        return
    of_torch, of_flax = members(reference), members(port)
    of_fields = dataclasses.fields(port) if dataclasses.is_dataclass(port) else ()
    linen = {field.name for field in of_fields} | {"name", "parent", "scope", "replace"}
    assert set(of_torch) - set(ONLY_TORCH_MEMBERS) <= set(of_flax)
    if "forward" in of_torch:
        compare(of_torch.pop("forward"), of_flax.pop("__call__"), f"{name}.__call__")
        assert set(of_flax) - set(of_torch) - set(ONLY_FLAX_MEMBERS) - linen == set()
    for member, value in of_torch.items():
        if callable(value):
            owner = next(c.__name__ for c in reference.__mro__[::-1] if member in vars(c))
            compare(value, of_flax[member], f"{owner}.{member}")


def test_no_deliberate_difference_is_out_of_date() -> None:
    for package, listed in ((torch_ref, ONLY_TORCH), (flax_impl, ONLY_FLAX)):
        for (name, argument), reason in listed.items():
            owner, _, member = name.partition(".")
            call = getattr(getattr(package, owner), member) if member else getattr(package, owner)
            assert argument in inspect.signature(call).parameters, (name, argument)
            assert reason


BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
"""
OF_JAX = ("jax", "jaxlib", "flax", "optax", "chex", "orbax", "flax_impl")
OF_TORCH = ("torch", "torch_ref")
TRAIN_TORCH = """
import torch_ref as package
data = package.data.synthetic(rows=50)
model = package.TwoHead(10, [4], [4])
losses = package.fit(model, data.arrays(), steps=3)
package.save_model("model.safetensors", model)
"""
TRAIN_FLAX = """
import flax_impl as package
data = package.data.synthetic(rows=50)
model = package.TwoHead(10, [4], [4])
params, losses = package.fit(model, model.init_params(), data.arrays(), steps=3)
package.save_model("model.safetensors", model, params)
"""
SEALED = {"torch_ref": (OF_JAX, TRAIN_TORCH), "flax_impl": (OF_TORCH, TRAIN_FLAX)}


def run_alone(folder: Path, blocked: tuple[str, ...], program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own that sees only this folder, and where importing these names fails."""
    program = BLOCKER.format(blocked=set(blocked)) + f"sys.path[0] = {str(folder)!r}\n" + program
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("package", SEALED)
def test_either_folder_works_alone(package: str, tmp_path: Path) -> None:
    """Copied out, with the other framework blocked: it imports, trains and saves."""
    blocked, program = SEALED[package]
    shutil.copytree(ROOT / package, tmp_path / package)
    program += f"\nassert package.__file__.startswith({str(tmp_path)!r}), package.__file__\n"
    program += f"assert not [name for name in sys.modules if name.partition('.')[0] in {set(blocked)!r}]\n"
    done = run_alone(tmp_path, blocked, program)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("package", SEALED)
def test_a_package_that_is_not_sealed_is_caught(package: str, tmp_path: Path) -> None:
    """The test above has teeth: one import of the other framework, anywhere, and it fails."""
    blocked, program = SEALED[package]
    shutil.copytree(ROOT / package, tmp_path / package)
    with (tmp_path / package / "hub" / "batching.py").open("a") as file:
        file.write(f"\nimport {blocked[0]}\n")
    done = run_alone(tmp_path, blocked, program)
    assert done.returncode != 0
    assert f"{blocked[0]} is blocked" in done.stderr


def imports(path: Path) -> set[str]:
    """Returns the top-level names of all that a file imports, from elsewhere than its own package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("torch_ref", {"torch", "numpy", "jaxtyping", "ot"}),
        ("flax_impl", {"jax", "flax", "optax", "chex", "numpy", "jaxtyping", "ott", "sklearn"}),
        (
            "torch_ref/hub",
            {"numpy", "safetensors", "jaxtyping", "tqdm", "causallib", "pyarrow", "scipy", "sklearn", "matplotlib"},
        ),
        ("flax_impl/parity", {"numpy", "jaxtyping"}),
        ("flax_impl/parity/diagnose", {"numpy", "jaxtyping"}),
        ("flax_impl/parity/matching", {"numpy", "jaxtyping"}),
    ],
)
def test_who_may_import_whom(folder: str, allowed: set[str]) -> None:
    for path in (ROOT / folder).glob("*.py"):
        assert imports(path) <= allowed, path


def test_what_is_heavy_is_imported_where_it_is_used() -> None:
    for path in [*REFERENCE.rglob("*.py"), *PORT.rglob("*.py")]:
        if path.name == "estimator.py":
            continue  # imported where it is used itself
        at_top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {alias.name for node in at_top if isinstance(node, ast.Import) for alias in node.names}
        modules |= {str(node.module) for node in at_top if isinstance(node, ast.ImportFrom) and not node.level}
        heavy = {"causallib", "pyarrow", "matplotlib", "sklearn", "scipy", "ot", "ott"}
        assert not heavy & {module.partition(".")[0] for module in modules}, path


USE_PARITY = """
import numpy as np
from flax_impl.parity import Trace, assert_parity, load_trace
trace = load_trace("trace.safetensors")
assert assert_parity(trace, trace).passed
try:
    import flax_impl
    flax_impl.fit
except ImportError as error:
    print(error)
"""


def test_parity_needs_numpy_only(tmp_path: Path) -> None:
    shutil.copytree(PORT, tmp_path / "flax_impl")
    model = torch_ref.TwoHead(4, [3], [3])
    trace = torch_ref.record(
        model, [torch_ref.data.synthetic(rows=8, features=4).arrays() for _ in range(2)], progress=False
    )
    trace.save(tmp_path / "trace.safetensors")
    done = run_alone(tmp_path, (*OF_JAX[:-1], *OF_TORCH), USE_PARITY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "flax_impl needs JAX: pip install 'twohead'"
