"""`twohead parity` on two files of a user's, `--watch`, and the fixture for pytest."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from flax_impl.commands.own.pair import Side
from flax_impl.commands.own.watched import watch
from flax_impl.commands.parity import main

REFERENCE = """
import numpy as np
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)

    def forward(self, x):
        return self.second(torch.nn.functional.gelu(self.first(x)))


def loss(model, x):
    return (model(x) ** 2).mean()


def build():
    return Net(), {"x": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)}, loss


def trained():
    model, batch, own = build()
    return {
        "model": model, "batches": [batch, batch], "loss": own,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    }
"""
PORT = """
import flax.linen as nn
import jax
import optax
from act import act


class Port(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = act(nn.Dense(5, name="first")(x))
        return nn.Dense(2, name="second")(x)


def loss(model, x):
    return (model(x) ** 2).mean()


def build():
    return Port(), loss


def trained():
    return {"model": Port(), "loss": loss, "optimizer": optax.sgd(0.1)}
"""
IN_JAX = """
import flax.linen as nn
import jax
import numpy as np
import optax


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.gelu(nn.Dense(5)(x)))


def loss(model, x):
    return (model(x) ** 2).mean()


def build():
    batch = {"x": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)}
    return Net(), batch, loss, Net().init(jax.random.key(1), batch["x"])


def trained():
    model, batch, own, params = build()
    return {"model": model, "batches": [batch, batch], "loss": own, "params": params, "optimizer": optax.sgd(0.1)}
"""
IN_TORCH = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)

    def forward(self, x):
        return self.second(torch.nn.functional.gelu(self.first(x), approximate=KIND))


def loss(model, x):
    return (model(x) ** 2).mean()


def build():
    return Net(), loss


def trained():
    return {"model": Net(), "loss": loss, "optimizer": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)}
"""
EXACT = "import jax\nact = lambda x: jax.nn.gelu(x, approximate=False)\n"
TANH = "import jax\nact = jax.nn.gelu\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ref.py").write_text(REFERENCE)
    (tmp_path / "port.py").write_text(PORT)
    (tmp_path / "act.py").write_text(EXACT)
    return tmp_path


def options(folder: Path, function: str = "build") -> list[str]:
    return ["--reference", f"{folder}/ref.py:{function}", "--port", f"{folder}/port.py:{function}"]


def test_a_port_that_agrees_and_its_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(folder), "--convert", f"{folder}/w.safetensors", "--json", f"{folder}/report.json"]) == 0
    assert "the step agrees" in capsys.readouterr().out
    assert json.loads((folder / "report.json").read_text())["passed"]
    weights = safetensors.numpy.load_file(folder / "w.safetensors")
    assert weights["params.first.kernel"].shape == (4, 5)
    assert weights["params.second.bias"].dtype == np.float32


def test_a_fault_has_a_place_a_cause_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "act.py").write_text(TANH)
    assert main([*options(folder), "--html", f"{folder}/report.html"]) == 1
    shown = capsys.readouterr().out
    assert "use jax.nn.gelu(approximate=False)" in shown
    assert "checked in" in shown
    assert "The port diverges from its reference" in (folder / "report.html").read_text()


def test_a_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(folder, "trained")) == 0
    assert main([*options(folder, "trained"), "--convert", f"{folder}/w.safetensors"]) == 2
    assert "--convert: expected a comparison of one step" in capsys.readouterr().err


def test_a_port_in_torch_gets_the_weights_of_its_reference_in_jax(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ref.py").write_text(IN_JAX)
    (folder / "port.py").write_text(f"KIND = 'tanh'\n{IN_TORCH}")
    assert main([*options(folder), "--convert", f"{folder}/w.safetensors"]) == 0
    assert "operations of jax" in capsys.readouterr().out
    weights = safetensors.numpy.load_file(folder / "w.safetensors")
    assert {name: array.shape for name, array in weights.items()} == {
        "first.weight": (5, 4), "first.bias": (5,), "second.weight": (2, 5), "second.bias": (2,)
    }  # fmt: skip
    (folder / "port.py").write_text(f"KIND = 'none'\n{IN_TORCH}")
    assert main(options(folder)) == 1
    assert 'use torch.nn.functional.gelu(approximate="tanh")' in capsys.readouterr().out
    (folder / "port.py").write_text(f"KIND = 'tanh'\n{IN_TORCH}")
    assert main(options(folder, "trained")) == 1
    assert "diverges" in capsys.readouterr().out
    (folder / "port.py").write_text(PORT)
    assert main(options(folder)) == 2
    assert "port: expected a torch module, as the reference is in JAX" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--reference", "ref.py:nothing", "--port", "port.py"], "expected a function 'nothing' in ref.py, found none"),
        (["--reference", "no.py", "--port", "port.py"], "expected a Python file, as in --reference my_file.py:build"),
        (["--reference", "ref.py"], "--port: expected a file, as the other side has one"),
        (["--reference", "ref.py:loss", "--port", "port.py"], "TypeError: loss() missing 2 required"),
        (["--reference", "ref.py", "--port", "port.py:trained"], "reference: expected an optimizer"),
        (["--reference", "ref.py", "--port", "port.py", "--steps", "3"], "--steps: expected without --reference"),
        (["--watch"], "--watch: expected with --reference and --port"),
    ],
)
def test_unusable_files(
    folder: Path, more: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_watch_checks_again_what_was_saved_and_outlives_errors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [TANH, "act = nothing\n", EXACT]
    passed: list[bool] = []

    def again() -> bool:
        if texts:
            path = folder / "act.py"
            path.write_text(texts.pop(0))
            os.utime(path, ns=(0, len(texts)))  # another time, however coarse the clock
            return True
        return False

    sides = Side.of("--reference", f"{folder}/ref.py"), Side.of("--port", f"{folder}/port.py")
    code = watch(*sides, lambda report, seconds: passed.append(report.passed), again=again)
    assert code == 0
    assert passed == [True, False, True]
    assert "NameError: name 'nothing' is not defined" in capsys.readouterr().err


def test_the_fixture_records_once_and_writes_a_page(folder: Path) -> None:
    (folder / "test_port.py").write_text(
        "from port import build as port\nfrom ref import build\n\n\n"
        "def reference():\n    with open('built', 'a') as file:\n        file.write('x')\n    return build()\n\n\n"
        "def test_port(parity):\n    assert parity(reference, port).passed\n\n\n"
        "def test_other(parity):\n    import act, jax\n    import port as module\n    module.act = jax.nn.relu\n"
        "    parity(reference, port)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--parity-html", "report.html"]
    environment: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "the port applies jax.nn.relu where the reference applies jax.nn.gelu(approximate=False)" in ran.stdout
    assert (folder / "built").read_text() == "x"
    assert "1 of 2 pairs diverges" in (folder / "report.html").read_text()
