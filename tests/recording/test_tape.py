"""The tape of the reference: every operation with its line, in float64 whatever is written, in a file and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from torch_ref.common.tape.fingerprint import fingerprint
from torch_ref.common.tape.literals import as_written
from torch_ref.recording import Tape, load_tape, record_tape

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


class Net(nn.Module):
    """A float32 island, an operation in place, and a view that is read after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
        self.shift: torch.Tensor
        self.register_buffer("shift", torch.tensor(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).float()
        left, right = hidden.chunk(2, 1)
        scaled = torch.tanh(left).add(0.0).mul_(3.0)
        hidden = torch.cat([scaled, right.bfloat16().float()], 1)
        return self.second(hidden + self.shift)


def named(tape: Tape, name: str) -> list[Any]:
    return [operation for operation in tape.operations if operation.name == name]


def test_values_gradients_and_lines_are_those_of_the_model_in_float64() -> None:
    model = Net()
    tape = record_tape(model, {"x": X}, squares)
    exact = Net().double()
    exact.load_state_dict(model.double().state_dict())
    x = torch.tensor(X, dtype=torch.float64)
    hidden = exact.first(x)
    left, right = hidden.chunk(2, 1)
    shift = 0.1  # the digits of the source, not those of float32
    output = exact.second(torch.cat([torch.tanh(left) * 3, right], 1) + shift)
    (output**2).mean().backward()
    assert np.isclose(tape.values[tape.results["loss/0"]].moments[0], float((output**2).mean().detach()), rtol=1e-8)
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        found = tape.arrays[tape.results[f"grad/{name}"]]
        assert np.allclose(found, parameter.grad.numpy(), rtol=1e-8), name
    (scale,) = [o for o in named(tape, "aten.mul_") + named(tape, "aten.mul") if "mul_(3.0)" in o.lines[0].text][:1]
    assert scale.lines[0].file.endswith("test_tape.py")
    assert scale.lines[0].function == "forward"


def test_a_backward_operation_has_the_line_of_its_forward_one() -> None:
    tape = record_tape(Net(), {"x": X}, squares)
    lines = {o.lines[0].text for o in tape.operations if o.backward and o.lines}
    assert "return self.second(hidden + self.shift)" in lines
    backward = next(o for o in tape.operations if o.backward and o.name == "aten.mm")
    assert backward.forward is not None
    assert tape.operations[backward.forward].lines == backward.lines


def test_the_dtype_as_written_is_kept() -> None:
    tape = record_tape(Net(), {"x": X}, squares)
    casts = [o for o in tape.operations if o.lines and "bfloat16" in o.lines[0].text and not o.backward and o.outputs]
    assert "bfloat16" in {tape.dtypes[value] for o in casts for value in o.outputs}
    assert {tape.values[value].kind for o in tape.operations for value in o.outputs} <= set("fib")


def test_memory_that_is_used_again_is_another_value() -> None:
    def loss(model: Any, x: Any) -> Any:
        total = model(x).sum()
        for _ in range(20):  # each result is freed, and its memory is used by the next
            total = total + (x * 2).sum() * 0.5
        return total

    tape = record_tape(Net(), {"x": X}, loss)
    doubled = [o for o in named(tape, "aten.mul") if o.lines[0].text.startswith("total = total + (x * 2)")]
    assert all(set(o.inputs) & {tape.leaves["input/x"], *(v for p in doubled for v in p.outputs),
                                *(v for p in named(tape, "aten.sum") for v in p.outputs)}
               for o in doubled if not o.backward)  # fmt: skip


def test_what_is_drawn_is_drawn_alike_by_the_second_run() -> None:
    class Drawing(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(3)
            return super().forward(x)

    tape = record_tape(Drawing(), {"x": X}, squares)
    (drawn,) = [operation for operation in tape.operations if operation.random]
    assert (tape.noise[list(drawn.outputs)] < 1e-15).all()
    dropping = record_tape(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), {"x": X}, squares)
    assert (dropping.noise < 1e-12).all()


def test_every_output_of_a_nested_dictionary_is_kept() -> None:
    class Nested(Net):
        def forward(self, x: torch.Tensor) -> Any:
            first = super().forward(x)
            return {"text": {"last": first}, "image": {"last": first * 2}, "both": (first + 1, {"last": first * 3})}

    tape = record_tape(Nested(), {"x": X}, lambda model, x: model(x)["text"]["last"].sum())
    assert len([name for name in tape.results if name.startswith("output/")]) == 4


def test_a_loss_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="loss: expected a number, or several to be added, got none"):
        record_tape(Net(), {"x": X}, lambda model, x: None)


def test_a_tape_comes_back_from_its_file(tmp_path: Path) -> None:
    tape = record_tape(Net(), {"x": X}, squares, keep=2000)
    assert 0 < len(tape.arrays) < len(tape.values)
    tape.save(tmp_path / "step.tape")
    found = load_tape(tmp_path / "step.tape")
    assert found.operations == [*tape.operations]
    assert (found.leaves, found.results, found.framework) == (tape.leaves, tape.results, tape.framework)
    assert found.dtypes == [*tape.dtypes]
    assert np.array_equal(found.noise, tape.noise)
    for a, b in zip(tape.values, found.values, strict=True):
        assert (a.shape, a.kind, a.masked, a.order) == (b.shape, b.kind, b.masked, b.order)
        assert np.array_equal(a.moments, b.moments)
        pairs = zip(a.marginals, b.marginals, strict=True)
        assert all(x is y is None or np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)
    assert all(np.array_equal(found.arrays[number], array) for number, array in tape.arrays.items())


def test_leaves_come_back_in_their_order(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    tape = record_tape(model, {"x": X}, squares, noise=False)
    tape.save(tmp_path / "tape")
    assert list(load_tape(tmp_path / "tape").leaves) == list(tape.leaves)


def test_a_damaged_or_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step.tape"
    record_tape(Net(), {"x": X}, squares, keep=0).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged|expected a safetensors file"):
        load_tape(path)
    with pytest.raises(FileNotFoundError):
        load_tape(tmp_path / "none.tape")
    other = Path(__file__).parents[1] / "golden" / "trace.safetensors"
    with pytest.raises(ValueError, match="expected a tape, got"):
        load_tape(other)


def test_the_torch_settings_are_as_before() -> None:
    before = torch.get_default_dtype(), torch._C._get_mkldnn_enabled(), torch.backends.mha.get_fastpath_enabled()
    record_tape(Net(), {"x": X}, squares, noise=False)
    after = torch.get_default_dtype(), torch._C._get_mkldnn_enabled(), torch.backends.mha.get_fastpath_enabled()
    assert before == after


@given(st.lists(st.integers(1, 5), min_size=0, max_size=4), st.integers(0, 1000), st.randoms())
def test_moments_do_not_depend_on_layout(shape: list[int], seed: int, random: Any) -> None:
    array = np.random.default_rng(seed).normal(size=shape)
    order = list(range(len(shape)))
    random.shuffle(order)
    turned = array.transpose(order)
    a, b = fingerprint(array), fingerprint(turned)
    assert np.allclose(a.moments, b.moments, rtol=1e-12, atol=1e-14)
    for i, axis in enumerate(order):
        ours, theirs = a.marginals[axis], b.marginals[i]
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or np.allclose(ours, theirs, atol=1e-14)


def test_a_large_array_is_described_in_chunks() -> None:
    array = np.random.default_rng(0).normal(size=(700, 600))
    kept = fingerprint(array)
    assert np.isclose(kept.moments[0], array.mean())
    assert np.isclose(kept.moments[2], np.sqrt((array**2).mean()))
    assert kept.marginals[0] is not None
    assert np.allclose(kept.marginals[0][0], array.mean(1))
    assert np.isclose(kept.order, fingerprint(array.reshape(-1, 300)).order)


@pytest.mark.parametrize("shape", [(5, 40_000), (70_000, 3), (3, 41, 7, 90), (2, 1, 65_537), (90_001,)])
@pytest.mark.parametrize("turned", [False, True])
def test_every_axis_of_a_large_array_counts(shape: tuple[int, ...], turned: bool) -> None:
    array = np.random.default_rng(0).normal(size=shape)
    array = array.T if turned else array
    kept, (mean, sizes, root, skew, low, high) = fingerprint(array), fingerprint(array).moments
    exact = array.mean(), np.abs(array).mean(), np.sqrt((array**2).mean()), (array**3).mean() / (array**2).mean()
    assert np.allclose((mean, sizes, root, skew), exact, rtol=1e-12, atol=1e-15)
    assert (low, high) == (array.min(), array.max())
    for axis, marginal in enumerate(kept.marginals):
        others = tuple(i for i in range(array.ndim) if i != axis)
        if marginal is not None:
            assert np.allclose(marginal, [array.mean(others), (array**2).mean(others) / root], rtol=1e-11, atol=1e-14)
    assert [m is not None for m in kept.marginals] == [1 < length <= 4096 for length in array.shape]
    assert np.isclose(kept.order, fingerprint(np.ascontiguousarray(array)).order, rtol=1e-11)


def test_masks_count_by_where_they_stand() -> None:
    array = np.array([[0.5, -np.inf], [np.nan, 2.0]])
    kept = fingerprint(array)
    assert kept.masked == 0.75  # NaN counts twice: it is no mask
    assert kept.moments.tolist() == fingerprint(np.array([[0.5, 0.0], [0.0, 2.0]])).moments.tolist()


@pytest.mark.parametrize(
    ("written", "source"),
    [
        (1e-5, ""),
        (0.044715, ""),
        (0.1, ""),
        (1 / 3, ""),
        (np.sqrt(2 / np.pi), ""),
        (np.sqrt(0.5), ""),
        (8**-0.5, ""),
        (32**-0.25, ""),
        (1.702, ""),
        (1.0507009873554805, ""),
        (0.79788456, "x * 0.79788456 * (1 + 0.044715 * x)"),
        (12345.678901, "scale = 12345.678901"),
        (float("-inf"), ""),
        (0.0, ""),
    ],
)
def test_a_number_has_the_digits_of_its_source(written: float, source: str) -> None:
    for sign in (1, -1):
        single = float(np.float32(sign * written))
        assert as_written(single, source) == pytest.approx(sign * written, rel=1e-15)
