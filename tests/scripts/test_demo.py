"""The demo: both models in both frameworks, and how far they are apart."""

import json
from pathlib import Path

import numpy as np
import pytest

import torch_ref
from tests.support.commands import run


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    pytest.importorskip("causallib")
    done = run("demo.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "Loss1 = " in line]) == 50
    results = json.loads((tmp_path / "out" / "demo.json").read_text())
    for differences in results["differences"].values():
        assert len(differences) == 6
        assert max(differences.values()) <= 1e-9
    torch, flax = results["effects"]["torch"], results["effects"]["flax"]
    assert flax == pytest.approx(torch, rel=1e-6)
    assert torch["sqrt PEHE, held out"] < 2  # the effects vary by 4
    assert (tmp_path / "out" / "demo.txt").read_text().strip() in done.stdout
    assert (tmp_path / "out" / "two_head_losses.png").stat().st_size > 10_000
    for name in ("two_head", "two_in_two_out"):
        weights = [
            torch_ref.models.to_numpy(torch_ref.load_model(tmp_path / "out" / f"{name}_{side}.safetensors"))
            for side in ("torch", "flax")
        ]
        assert max(float(np.abs(weights[0][key] - weights[1][key]).max()) for key in weights[0]) <= 1e-9
