"""One step, operation by operation: honest ports agree however they are written, and a fault is found at its line."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import lax
from torch import nn

import flax_impl
import torch_ref
from flax_impl.parity import StepReport, check_step, compare_tapes, load_tape, record_tape
from flax_impl.parity.recording.operations.tape import TracedStep
from torch_ref.recording import record_tape as record_reference

WIDTH, HEADS, LAYERS = 6, 2, 2
X = np.random.default_rng(1).normal(size=(3, 4, WIDTH)).astype(np.float32)


class Block(nn.Module):
    """A block of a decoder as torch code writes it: fused query, key and value, and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.hidden, self.back = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
        scores = scores.masked_fill(~mask, float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return x + self.back(nn.functional.gelu(self.hidden(x)))


class Decoder(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def separate(reference: Decoder) -> dict[str, Any]:
    """Returns the weights as a port holds them: stacked over the layers, query, key and value apart."""
    arrays = {name: value.detach().numpy() for name, value in reference.state_dict().items()}

    def stacked(name: str) -> np.ndarray:
        return np.stack([arrays[f"blocks.{i}.{name}"] for i in range(len(reference.blocks))])

    params: dict[str, Any] = {"scale": stacked("norm.weight"), "shift": stacked("norm.bias")}
    for i, name in enumerate("qkv"):
        rows = slice(i * WIDTH, (i + 1) * WIDTH)
        params[name] = stacked("qkv.weight")[:, rows].transpose(0, 2, 1)
        params[f"{name}_bias"] = stacked("qkv.bias")[:, rows]
    for name in ("out", "hidden", "back"):
        params[name] = stacked(f"{name}.weight").transpose(0, 2, 1)
        params[f"{name}_bias"] = stacked(f"{name}.bias")
    return params


def ported(**faults: Any) -> Callable[[Any, Any], Any]:
    """Returns the port: a plain function that scans over rematerialised blocks; a fault is named."""

    @jax.checkpoint
    def block(x: Any, p: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        variance = (x * x).mean(-1, keepdims=True) - mean * mean
        eps = faults.get("eps", 1e-5)
        h = (x - mean) / jnp.sqrt(variance + eps) * p["scale"] + p["shift"]
        q, k, v = (
            jnp.reshape(h @ p[n] + p[f"{n}_bias"][None, None], (*x.shape[:2], HEADS, WIDTH // HEADS)) for n in "qkv"
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        scores = scores / np.sqrt(faults.get("depth", WIDTH // HEADS)).astype(np.float32)
        mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1])), faults.get("diagonal", 0))[None, None]
        scores = jnp.where(mask == 1, scores, -1e9)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape)
        mixed = mixed @ p["out"] + p["out_bias"][None, None]
        x = mixed if faults.get("no_residual") else x + mixed
        h = x @ p["hidden"] + p["hidden_bias"][None, None]
        h = jax.nn.gelu(h, approximate=bool(faults.get("tanh")))
        if faults.get("stopped"):
            h = lax.stop_gradient(h)
        return x + h @ p["back"] + p["back_bias"][None, None]

    return lambda params, x: lax.scan(lambda x, p: (block(x, p), None), x, params)[0]


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """As in most people's code."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def reference() -> Any:
    model = Decoder()
    return record_reference(model, {"x": X}, squares), separate(model)


@pytest.fixture(scope="module")
def short() -> Any:
    model = Decoder(layers=1)
    return record_reference(model, {"x": X}, squares), separate(model)


def checked(reference: Any, **faults: Any) -> StepReport:
    tape, params = reference
    return check_step(tape, ported(**faults), {"x": X}, squares, params=params)


def test_a_port_cut_elsewhere_agrees(reference: Any) -> None:
    """Fused against split weights, a list of blocks against a scan, another variance, another mask."""
    report = checked(reference)
    assert report.passed, report
    assert str(report).startswith("the step agrees: losses, outputs and gradients (")


@pytest.mark.parametrize(
    ("faults", "of_torch", "of_port"),
    [
        ({"eps": 1e-3}, "self.qkv(self.norm(x))", "jnp.sqrt(variance + eps)"),
        ({"tanh": True}, "nn.functional.gelu", "jax.nn.gelu(h"),
        pytest.param({"depth": WIDTH}, "q @ k.transpose", "scores / np.sqrt(", marks=pytest.mark.slow),
        pytest.param({"diagonal": 1}, "mask", "mask", marks=pytest.mark.slow),
        ({"no_residual": True}, "x = x + self.out(mixed)", ""),
    ],
)
def test_a_fault_is_found_at_its_line_on_both_sides(
    short: Any, faults: dict[str, Any], of_torch: str, of_port: str
) -> None:
    report = checked(short, **faults)
    assert not report.passed
    first = report.places[0]
    assert not first.backward
    assert first.reference is not None
    assert first.port is not None
    lines = report.partners.reference.operations[first.reference.first].lines
    assert of_torch in lines[0].text
    operations = report.partners.port.operations
    ours = [line.text for i in (first.port.first, first.port.after) if i is not None for line in operations[i].lines]
    assert any(of_port in text for text in ours), ours


def test_a_gradient_that_stops_is_found(short: Any) -> None:
    report = checked(short, stopped=True)
    assert [place.backward for place in report.places] == [True]
    first = report.places[0].reference
    assert first is not None
    operation = report.partners.reference.operations[first.first]
    assert operation.backward
    assert "self.back(nn.functional.gelu" in operation.lines[0].text
    assert "backward: losses and outputs agree, gradients do not" in str(report)


def test_a_repair_is_a_proof(short: Any) -> None:
    report = checked(short, eps=1e-3)
    assert report.places[0].proved
    assert "with the reference's value put in here, all losses and outputs agree" in str(report)
    assert len(report.places) == 1


def test_a_fault_in_a_scanned_layer_is_one_place(reference: Any) -> None:
    forward = [place for place in checked(reference, depth=WIDTH).places if not place.backward]
    assert len(forward) == 1  # its value is put in at all iterations at once
    assert forward[0].proved


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_our_own_models_agree(library: str) -> None:
    data = torch_ref.data.synthetic(rows=12).arrays()
    model = torch_ref.TwoHead(10, [4], [3])
    tape = record_reference(model, data, torch_ref.FactualLoss())
    arrays = torch_ref.models.to_numpy(model)
    port: Any = flax_impl.TwoHead(10, [4], [3])
    params = flax_impl.models.from_numpy(port, arrays)
    if library == "nnx":
        port = flax_impl.models.nnx.TwoHead(10, [4], [3], rngs=nnx.Rngs(0))
        params = None  # converted by itself
    report = check_step(tape, port, data, flax_impl.FactualLoss(), params=params)
    assert report.passed, report


def test_weights_that_only_the_port_has_are_asked_for() -> None:
    tape = record_reference(nn.Linear(WIDTH, 2, bias=False), {"x": X}, squares)
    with pytest.raises(
        ValueError, match=r"params: expected weights that the reference has, got params\.bias of shape \[2\]"
    ):
        check_step(tape, linen.Dense(2), {"x": X}, squares)
    assert check_step(tape, linen.Dense(2, use_bias=False), {"x": X}, squares).passed


def test_buffers_and_batch_statistics() -> None:
    class Port(linen.Module):
        average: bool = False
        momentum: float = 0.9

        @linen.compact
        def __call__(self, x: Any) -> Any:
            settings = {"use_running_average": self.average, "momentum": self.momentum, "epsilon": 1e-5}
            return linen.BatchNorm(**settings)(x)

    model = nn.BatchNorm1d(WIDTH)
    rows = X.reshape(-1, WIDTH)
    tape = record_reference(model, {"x": rows}, squares)
    variables = {
        "params": {"BatchNorm_0": {"scale": np.ones(WIDTH, "f"), "bias": np.zeros(WIDTH, "f")}},
        "batch_stats": {"BatchNorm_0": {"mean": np.zeros(WIDTH, "f"), "var": np.ones(WIDTH, "f")}},
    }
    report = check_step(tape, Port(), {"x": rows}, squares, params=variables)
    assert [finding.text for causes in report.causes for finding in causes] == [
        "the running variance moves with the biased variance in the port, the unbiased one in the reference: multiply "
        "the batch's by 12 / 11"
    ]
    still = record_reference(model.eval(), {"x": rows}, squares)
    assert check_step(still, Port(average=True), {"x": rows}, squares, params=variables).passed
    assert check_step(still, Port(average=True), {"x": rows}, squares).passed
    turned = check_step(tape, Port(momentum=0.1), {"x": rows}, squares, params=variables)
    assert turned.causes[0][0].text == (
        "the running statistics keep 0.1 in the port, 0.9 in the reference: pass momentum=0.9"
    )


def test_loops_and_branches_are_walked() -> None:
    def port(p: Any, x: Any) -> Any:
        x = lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * lax.stop_gradient(p)), (0, x))[1]
        return lax.cond(jnp.array(True), lambda: x * p, lambda: x)

    def names(tape: Any) -> list[str]:
        return [operation.name for operation in tape.operations]

    with jax.disable_jit(False):
        tape = record_tape(port, np.float32(2.0), {"x": X}, squares_of_no_gradient)
    assert np.allclose(tape.arrays[tape.results["output/0"]], X * 8.0)
    assert {"while", "cond", "scan", "jit"}.isdisjoint(names(tape))


def squares_of_no_gradient(model: Any, x: Any) -> Any:
    return (model(lax.stop_gradient(x)) ** 2).mean()


def test_a_step_is_written_down_without_running_it_where_no_value_decides(reference: Any) -> None:
    _, params = reference
    step = TracedStep(ported(), params, {"x": X}, squares)
    structure, tape = step.structure(), step.tape()
    kept = [(operation.name, operation.inputs, operation.outputs) for operation in tape.operations]
    assert [(operation.name, operation.inputs, operation.outputs) for operation in structure.operations] == kept
    assert [value.shape for value in structure.values] == [value.shape for value in tape.values]
    assert structure.results == tape.results
    assert all(value.scale == 0 for value in (structure.values[number] for number in tape.results.values()))

    def looping(p: Any, x: Any) -> Any:
        return lax.while_loop(lambda c: c.sum() < 9, lambda c: c + p**2, lax.stop_gradient(x) ** 2)

    step = TracedStep(looping, np.float32(2.0), {"x": X}, lambda model, x: lax.stop_gradient(model(x)).sum() + x.sum())
    assert step.structure().values[-1].scale > 0  # a loop has to be run


def test_a_scan_is_walked_iteration_by_iteration(reference: Any) -> None:
    _, params = reference
    tape = record_tape(ported(), params, {"x": X}, squares)
    assert "[0]" in " ".join(operation.module for operation in tape.operations)
    assert "[1]" in " ".join(operation.module for operation in tape.operations)


def test_a_weight_that_the_reference_does_not_have_is_named(short: Any) -> None:
    tape, params = short
    other = {**params, "shift": params["shift"] + 1}
    report = check_step(tape, ported(), {"x": X}, squares, params=other)
    assert not report.passed
    assert "it takes param/shift, whose numbers the other side does not have" in str(report)


def test_two_tapes_are_compared_without_running_anything(short: Any, tmp_path: Any) -> None:
    tape, params = short
    port = record_tape(ported(eps=1e-3), params, {"x": X}, squares)
    for name, of in (("torch", tape), ("jax", port)):
        of.save(tmp_path / name)
    report = compare_tapes(load_tape(tmp_path / "torch"), load_tape(tmp_path / "jax"))
    assert not report.passed
    assert "perhaps: no value of the reference could be put in here to prove it" in str(report)
    assert compare_tapes(tape, tape).passed


def test_the_report_in_json_and_in_a_notebook(short: Any) -> None:
    report = checked(short, eps=1e-3)
    found = json.loads(json.dumps(report.to_json()))
    assert found["passed"] is False
    assert "self.qkv(self.norm(x))" in found["places"][0]["reference"]["lines"][0]
    page = report._repr_html_()
    assert "the step diverges at" in page
    assert "jnp.sqrt(variance + eps)" in page


def test_a_repair_that_fails_costs_the_proof_only(short: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr("flax_impl.parity.alignment.divergence.exchanges", broken)
    report = checked(short, eps=1e-3)
    assert [place.proved for place in report.places] == [False]
    assert report.places[0].reference is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"reference": None}, "reference: expected a tape, as record_tape or load_tape gives it, got None"),
        ({"model": 3}, "model: expected a module, or a function of parameters and inputs, got 3"),
        ({"loss": lambda model, x: None}, "loss: expected a number, or several to be added, got none"),
    ],
)
def test_bad_arguments(short: Any, arguments: dict[str, Any], said: str) -> None:
    tape, params = short
    given = {"reference": tape, "model": ported(), "params": params, "batch": {"x": X}, "loss": squares}
    with pytest.raises(ValueError, match="expected") as caught:
        check_step(**{**given, **arguments})
    assert said in str(caught.value)
