"""The trace as a file: whole, versioned, readable for good; and whatever is not that is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import flax_impl
import torch_ref
from flax_impl.commands.recipes import Recipe, check, reference
from flax_impl.parity.recording.run import channels_as_torch
from torch_ref.common.call_names import leaves
from torch_ref.common.files.array_file import read_arrays, write_arrays
from torch_ref.common.trace import NOISE, PHASES, Trace, load_trace

GOLDEN = Path(__file__).parents[1] / "golden" / "trace.safetensors"


@pytest.fixture(scope="module")
def trace() -> Any:
    return reference(Recipe(steps=2))


def test_a_trace_comes_back_as_it_was(trace: torch_ref.recording.Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "trace.safetensors")
    loaded = load_trace(tmp_path / "trace.safetensors")
    assert loaded.metadata == {**trace.metadata, "recipe": loaded.metadata["recipe"]}
    assert loaded.arrays.keys() == trace.arrays.keys()
    for key, array in trace.arrays.items():
        assert loaded.arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(loaded.arrays[key], array)


def test_the_golden_trace_stays_readable() -> None:
    """`parity.py --record tests/golden/trace.safetensors --dtype float32 --steps 2` wrote it, in format trace/1."""
    golden = load_trace(GOLDEN)
    assert read_arrays(GOLDEN)[1]["format"] == "trace/1"
    assert (golden.steps, golden.dtype, golden.metadata["optimizer"]["name"]) == (2, "float32", "Adam")
    made = golden.metadata["recipe"]
    report = check(Recipe(**{**made, "schedule": tuple(made["schedule"])}), golden)
    assert report.passed, report.first_divergence


def test_phases(trace: torch_ref.recording.Trace) -> None:
    assert {key.split("/")[1] for key in trace.arrays} == {*PHASES, NOISE} - {"buffer"}
    assert trace.steps == 2
    np.testing.assert_array_equal(
        trace.params(1)["head0.layer0.bias"], trace.arrays["0/update/head0.layer0.bias"].astype(np.float64)
    )
    assert trace.state(0) == {}
    assert set(trace.state(1)) == {f"{n}.{m}" for n in trace.params(0) for m in ("exp_avg", "exp_avg_sq")}


@settings(max_examples=60)
@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    """One bit is enough, wherever it is; and so is a byte that is missing, or random bytes."""
    content = GOLDEN.read_bytes()
    kind = data.draw(st.sampled_from(("bit", "cut", "random")))
    if kind == "bit":
        place = data.draw(st.integers(0, len(content) - 1))
        damaged = bytearray(content)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        content = bytes(damaged)
    elif kind == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content = data.draw(st.binary(max_size=200))
    path = GOLDEN.with_name("damaged.safetensors")
    try:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.safetensors: "):
            load_trace(path)
    finally:
        path.unlink()


def changed(change: Any, tmp_path: Path) -> Path:
    """Writes the golden trace with a change to it, with a checksum that fits."""
    arrays, metadata = read_arrays(GOLDEN)
    change(arrays, metadata)
    write_arrays(tmp_path / "changed.safetensors", arrays, metadata)
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: m.update(format="trace/2"), r"format: expected one of 'trace/1', got 'trace/2'"),
        (lambda a, m: m.pop("optimizer"), r"optimizer: expected a dict in the trace's metadata, got None"),
        (lambda a, m: m.update(calls={"a": 1}), r"calls: expected a list"),
        (lambda a, m: m.update(dtype="float16"), r"dtype: expected one of 'float32', 'float64', got 'float16'"),
        (lambda a, m: a.pop("1/grad/head0.layer1.bias"), r"step 1: expected grad of head0\.layer1\.bias, got none"),
        (lambda a, m: a.pop("0/grad/x"), r"step 0: expected grad of x, got none"),
        (lambda a, m: a.pop("0/activation/head1"), r"step 0: expected activation of head1, got none"),
        (lambda a, m: [a.pop(k) for k in list(a) if k.startswith("1/loss")], r"step 1: expected parameters and a loss"),
        (lambda a, m: [a.pop(k) for k in list(a) if k.startswith("0/")], r"expected steps from 0 on"),
        (lambda a, m: a.clear(), r"expected steps from 0 on, none left out, got none"),
        (lambda a, m: a.update({"nonsense": np.zeros(1)}), r"expected entries named step/phase/name, got 'nonsense'"),
        (lambda a, m: a.update({"0/dance/x": np.zeros(1)}), r"got '0/dance/x'"),
    ],
)
def test_what_is_no_whole_trace_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_trace(changed(change, tmp_path))


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: expected a safetensors file, found none"):
        load_trace(tmp_path / "none.safetensors")


def test_leaves() -> None:
    assert leaves(1) == {"": 1}
    assert leaves((1, None, 2)) == {"": 1, "[2]": 2}
    assert leaves({"a": 1, "b": (2, 3)}) == {"": 1, "[b.0]": 2, "[b.1]": 3}


def test_layout() -> None:
    channels_last = np.zeros((2, 5, 6, 3))
    assert channels_as_torch(channels_last, None, "Conv2d").shape == (2, 3, 5, 6)
    assert channels_as_torch(channels_last, np.zeros((2, 3, 5, 6)), "Sequential").shape == (2, 3, 5, 6)
    assert channels_as_torch(channels_last, np.zeros((2, 5, 6, 3)), "LayerNorm").shape == (2, 5, 6, 3)
    assert channels_as_torch(np.zeros((2, 3)), None, "BatchNorm1d").shape == (2, 3)


def test_a_trace_has_at_least_a_step() -> None:
    with pytest.raises(ValueError, match="batches: expected at least one, got none"):
        torch_ref.record(torch_ref.TwoInTwoOut(), [], torch_ref.JointLoss())
    model = flax_impl.TwoInTwoOut()
    with pytest.raises(ValueError, match="batches: expected at least one, got none"):
        flax_impl.record(model, model.init_params(), [], flax_impl.JointLoss())
    assert Trace.__doc__
