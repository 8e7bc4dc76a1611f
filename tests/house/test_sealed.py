"""Neither side needs the other's framework, and what both share needs none: proved with imports blocked."""

import subprocess
import sys
from pathlib import Path

import pytest

import torch_ref
from torch_ref.data import synthetic

ROOT = Path(__file__).parents[2]
BLOCKER = """
import importlib.machinery, sys

class Blocked(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else super().find_spec(name, path, target)

sys.meta_path = [Blocked if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, {root!r})
"""
JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
TORCH = {"torch"}
TRAIN_TORCH = """
import torch_ref
data = torch_ref.data.synthetic(rows=50)
model = torch_ref.TwoHead(10, [4], [4])
torch_ref.fit(model, data.arrays(), steps=3)
torch_ref.save_model("model.safetensors", model)
torch_ref.record(model.double(), [data.arrays()], progress=False).save("trace.safetensors")
torch_ref.recording.record_tape(model, data.arrays(), torch_ref.FactualLoss()).save("step.safetensors")
try:
    import flax_impl
    flax_impl.fit
except ImportError as error:
    print(error)
"""
TRAIN_FLAX = """
import flax_impl
data = flax_impl.data.synthetic(rows=50)
model = flax_impl.TwoHead(10, [4], [4])
params, _ = flax_impl.fit(model, model.init_params(), data.arrays(), steps=3)
flax_impl.save_model("model.safetensors", model, params)
flax_impl.parity.record_tape(model, params, data.arrays(), flax_impl.FactualLoss()).save("step.safetensors")
try:
    import torch_ref
    torch_ref.fit
except ImportError as error:
    print(error)
"""
NEITHER = """
import numpy as np
import flax_impl.effects
from flax_impl.effects import EffectReport, EffectSettings, ate_error, average_effects, dr_loss, rate
from flax_impl.effects.ensemble_file import read_ensemble
from flax_impl.effects.prepare import prepare
from flax_impl.parity import assert_parity, compare_tapes, html_page, load_tape, load_trace
from torch_ref.common.data.simulation import synthetic
trace = load_trace("trace.safetensors")
report = assert_parity(trace, trace)
assert report.passed and "html" in html_page([report])
tape = load_tape("step.safetensors")
assert compare_tapes(tape, tape).passed
assert prepare(synthetic(rows=80), EffectSettings()).arrays["x"].shape == (80, 10)
for name in ("fit_effects", "TwoHeadEstimator"):
    try:
        getattr(flax_impl.effects, name)
    except ImportError as error:
        print(error)
"""
LOADED = "\nassert not {name.partition('.')[0] for name in sys.modules} & %r"


def run(folder: Path, blocked: set[str], program: str) -> subprocess.CompletedProcess[str]:
    program = BLOCKER.format(blocked=blocked, root=str(ROOT)) + program + LOADED % blocked
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("program", "blocked", "said"),
    [
        (TRAIN_TORCH, JAX, "flax_impl needs jax: pip install 'twohead[jax]'"),
        (TRAIN_FLAX, TORCH, "torch_ref needs torch: pip install 'twohead[torch]'"),
    ],
)
def test_each_side_trains_without_the_other(program: str, blocked: set[str], said: str, tmp_path: Path) -> None:
    done = run(tmp_path, blocked, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{said}\n"
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "step.safetensors").is_file()


def test_the_numpy_half_needs_neither(tmp_path: Path) -> None:
    model = torch_ref.TwoHead(4, [3], [3])
    batches = [synthetic(rows=8, features=4).arrays() for _ in range(2)]
    torch_ref.record(model, batches, progress=False).save(tmp_path / "trace.safetensors")
    tape = torch_ref.recording.record_tape(model, batches[0], torch_ref.FactualLoss())
    tape.save(tmp_path / "step.safetensors")
    done = run(tmp_path, JAX | TORCH, NEITHER)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "flax_impl needs jax: pip install 'twohead[jax]'\n" * 2


@pytest.mark.parametrize("program", ["import torch", "import jax"])
def test_the_block_has_teeth(program: str, tmp_path: Path) -> None:
    done = run(tmp_path, JAX | TORCH, program)
    assert done.returncode != 0
    assert "No module named" in done.stderr
