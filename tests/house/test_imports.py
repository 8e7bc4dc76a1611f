"""Who may import whom: one table; no circles; heavy packages only where they are used."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch_ref", "flax_impl")
COMMON = "torch_ref.common"
# Each room, the rooms of ours that it may import, and the packages of others.
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    COMMON: (set(), {"numpy", "jaxtyping", "safetensors", "tqdm", "causallib", "pyarrow", "narwhals", "fsspec"}),
    "torch_ref.models": ({COMMON}, {"torch", "numpy", "jaxtyping"}),
    "torch_ref.training": ({COMMON, "torch_ref.models"}, {"torch", "numpy", "jaxtyping", "ot"}),
    "torch_ref.recording": ({COMMON, "torch_ref.models", "torch_ref.training"}, {"torch", "numpy", "jaxtyping"}),
    "torch_ref": ({COMMON, "torch_ref.models", "torch_ref.training", "torch_ref.recording"}, set()),
    "flax_impl.models": ({COMMON}, {"jax", "flax", "chex", "numpy", "jaxtyping"}),
    "flax_impl.training": ({COMMON, "flax_impl.models"}, {"jax", "optax", "chex", "numpy", "jaxtyping", "ott"}),
    "flax_impl.effects": (
        {COMMON, "flax_impl.models", "flax_impl.training"},
        {"jax", "numpy", "jaxtyping", "scipy", "sklearn", "matplotlib", "catboost", "shap", "threadpoolctl"},
    ),
    "flax_impl.serving": (
        {COMMON, "flax_impl.models", "flax_impl.training", "flax_impl.effects"},
        {"jax", "numpy", "jaxtyping", "onnx", "catboost"},
    ),
    "flax_impl.parity.report": (
        {COMMON, "flax_impl.parity.alignment", "flax_impl.parity.conversion"}, {"numpy", "jaxtyping"}
    ),
    "flax_impl.parity.weight_map": ({COMMON}, {"numpy", "jaxtyping"}),
    "flax_impl.parity.comparison": ({COMMON, "flax_impl.parity.report"}, {"numpy", "jaxtyping"}),
    "flax_impl.parity.diagnosis": (
        {COMMON, "flax_impl.parity.report", "flax_impl.parity.comparison"},
        {"numpy", "jaxtyping"},
    ),
    "flax_impl.parity.alignment": ({COMMON}, {"numpy", "jaxtyping"}),
    "flax_impl.parity.conversion": (
        {COMMON, "flax_impl.parity.weight_map", "flax_impl.parity.alignment"},
        {"numpy"},
    ),
    "flax_impl.parity.naming": (
        {COMMON, *(f"flax_impl.parity.{room}" for room in ("report", "comparison", "alignment"))},
        {"numpy"},
    ),
    "flax_impl.parity.recording": (
        {COMMON, "flax_impl.models", "flax_impl.training",
            *(f"flax_impl.parity.{room}" for room in ("weight_map", "alignment", "conversion", "naming", "report"))},
        {"jax", "flax", "optax", "numpy"},
    ),
    "flax_impl.parity": (
        {COMMON, "flax_impl.training", *(f"flax_impl.parity.{room}" for room in
            ("report", "weight_map", "comparison", "diagnosis", "recording", "alignment", "conversion"))},
        {"numpy", "flax"},
    ),
    "flax_impl.commands": (
        {COMMON, "flax_impl", "flax_impl.models", "flax_impl.training", "flax_impl.effects",
            "flax_impl.serving", "flax_impl.parity", "flax_impl.parity.report"},
        {"torch", "jax", "numpy", "jaxtyping", "tqdm", "matplotlib", "pytest"},
    ),
    "flax_impl": ({COMMON}, set()),
}  # fmt: skip
HEAVY = {
    "causallib", "catboost", "pyarrow", "fsspec", "onnx", "shap", "matplotlib", "sklearn", "scipy", "ot", "ott",
    "torch.distributed",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Returns every module of both packages, its stubs left out."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


@cache
def imports(name: str) -> list[tuple[str, str, ast.stmt]]:
    """Returns what a module imports, also inside functions: the module, the name in it or "", and the statement."""
    return list(statements(name))


def statements(name: str) -> Iterator[tuple[str, str, ast.stmt]]:
    path = MODULES[name]
    tree = parsed(name)
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield (whole, "", node) if whole in MODULES else (source, alias.name, node)


def room(name: str) -> str:
    """Returns the room of a module of ours: the longest entry of the table that it lies in."""
    return max((of for of in MAY_IMPORT if name == of or name.startswith(f"{of}.")), key=len)


def imports_in(where: str) -> Iterator[tuple[str, str, str, ast.stmt]]:
    """Yields what the modules of a room import: the module that does, and what `imports` says of it."""
    for name in MODULES:
        if room(name) == where:
            yield from ((name, *found) for found in imports(name))


@pytest.mark.parametrize("where", MAY_IMPORT)
def test_who_imports_whom(where: str) -> None:
    ours, others = MAY_IMPORT[where]
    for name, source, _, _ in imports_in(where):
        top = source.partition(".")[0]
        if top in PACKAGES:
            assert room(source) in {where, *ours}, f"{name} imports {source}"
        elif top not in sys.stdlib_module_names:
            assert top in others, f"{name} imports {source}"


@pytest.mark.parametrize("where", MAY_IMPORT)
def test_private_names_stay_at_home(where: str) -> None:
    for name, source, imported, _ in imports_in(where):
        if source.partition(".")[0] in PACKAGES:
            assert not imported.startswith("_"), f"{name} imports {imported} from {source}"
        assert source != "unittest.mock", name
        assert (source, imported) != ("unittest", "mock"), name


def test_there_is_no_circle() -> None:
    """Takes away modules that import nothing of ours any more, until none is left."""
    graph = {name: {source for source, _, _ in imports(name) if source in MODULES} - {name} for name in MODULES}
    while graph:
        free = [name for name, needed in graph.items() if not needed & graph.keys()]
        assert free, f"circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("where", MAY_IMPORT)
def test_what_is_heavy_is_imported_where_it_is_used(where: str) -> None:
    # The estimator is imported where it is used itself; torch.distributed comes with torch.
    allowed = ("flax_impl.effects.estimator", "torch_ref.training.processes", "torch_ref.training.fit")
    for name, source, _, node in imports_in(where):
        if source.partition(".")[0] in HEAVY and name not in allowed:
            top = [ast.unparse(other) for other in parsed(name).body]
            assert ast.unparse(node) not in top, f"{name} imports {source}"
