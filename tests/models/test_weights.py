"""Weights between the frameworks and in files: bit for bit, or one clear error."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from tests.support.cases import Case, two_head_cases, two_in_two_out_cases
from torch_ref.common.files.array_file import read_arrays, replacing, write_arrays

SIDES = (TorchSide, FlaxSide)
CONFIG = {"in_features": 3, "representation_features": [5], "head_features": [4, 4], "out_features": 2}
GOLDEN = Path(__file__).parents[1] / "golden"


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("writer", SIDES)
def test_round_trip(tmp_path: Path, writer: Any, dtype: str) -> None:
    for model, config in (("TwoHead", CONFIG), ("TwoInTwoOut", {"hidden_features": [4, 3, 2]})):
        made = writer(model, config, seed=1, dtype=dtype)
        path = tmp_path / "model.safetensors"
        made.save(path)
        by_torch = torch_ref.load_model(path)
        by_flax, params = flax_impl.load_model(path)
        assert type(by_torch).__name__ == type(by_flax).__name__ == model
        assert by_torch.config == by_flax.config == made.model.config
        assert_same_bits(torch_ref.models.to_numpy(by_torch), made.weights())
        assert_same_bits(flax_impl.models.to_numpy(params), made.weights())


@settings(max_examples=25)
@given(st.one_of(two_head_cases(), two_in_two_out_cases()))
def test_both_sides_write_the_same_bytes(case: Case) -> None:
    model = "TwoHead" if "head_features" in case.config else "TwoInTwoOut"
    reference = TorchSide(model, case.config, seed=case.seed)
    port = FlaxSide(model, case.config, weights=reference.weights())
    assert_same_bits(port.weights(), reference.weights())
    written = []
    for side in (reference, port):
        side.save(path := Path(os.environ.get("TMPDIR", "/tmp")) / f"twohead-{os.getpid()}.safetensors")
        written.append(path.read_bytes())
        path.unlink()
    assert written[0] == written[1]


def test_names_and_layout_are_torchs() -> None:
    weights = FlaxSide("TwoHead", CONFIG).weights()
    assert weights["representation.layer0.weight"].shape == (5, 3)
    assert weights["head1.layer2.bias"].shape == (2,)
    assert weights.keys() == TorchSide("TwoHead", CONFIG).weights().keys()


def test_weights_are_copies() -> None:
    for side in (TorchSide("TwoHead", CONFIG), FlaxSide("TwoHead", CONFIG)):
        side.weights()["head0.layer0.bias"][:] = 7
        assert not (side.weights()["head0.layer0.bias"] == 7).any()


def test_loaded_weights_train() -> None:
    side = TorchSide("TwoHead", CONFIG, weights=FlaxSide("TwoHead", CONFIG).weights())
    assert all(parameter.requires_grad for parameter in side.model.parameters())


@pytest.mark.parametrize("side", SIDES)
def test_all_that_does_not_fit_is_in_one_error(side: Any) -> None:
    weights = side("TwoHead", CONFIG).weights()
    weights["extra.bias"] = weights.pop("head1.layer0.bias")
    weights["head0.layer0.weight"] = weights["head0.layer0.weight"].T.copy()
    with pytest.raises(ValueError, match="weights") as caught:
        side("TwoHead", CONFIG, weights=weights)
    assert str(caught.value) == (
        "weights: expected those of the model, got missing head1.layer0.bias; unexpected extra.bias; "
        "head0.layer0.weight: expected shape [4, 5], got [5, 4]"
    )


@pytest.mark.parametrize("side", SIDES)
def test_whole_numbers_are_no_weights(side: Any) -> None:
    weights = side("TwoHead", CONFIG).weights()
    weights["head0.layer0.bias"] = np.ones(4, np.int32)
    with pytest.raises(ValueError, match=r"got head0.layer0.bias: expected float16, float32 or float64, got int32$"):
        side("TwoHead", CONFIG, weights=weights)


def test_the_port_saves_the_models_own_parameters_only(tmp_path: Path) -> None:
    side = FlaxSide("TwoHead", CONFIG)
    for params in ({"params": side.params}, FlaxSide("TwoInTwoOut", {}).params):
        with pytest.raises(ValueError, match=r"^weights: expected those of the model, got missing head0"):
            flax_impl.save_model(tmp_path / "model.safetensors", side.model, params)
    assert not list(tmp_path.iterdir())


def test_the_reference_keeps_its_parameters() -> None:
    """An optimiser that was made before goes on moving them."""
    side = TorchSide("TwoHead", CONFIG)
    before = list(side.model.parameters())
    torch_ref.models.from_numpy(side.model, TorchSide("TwoHead", CONFIG, seed=1, dtype="float64").weights())
    assert all(one is other for one, other in zip(before, side.model.parameters(), strict=True))
    assert before[0].dtype == torch.float64


def test_float64_weights_need_64_bit_jax() -> None:
    weights = TorchSide("TwoHead", CONFIG, dtype="float64").weights()
    with pytest.raises(ValueError, match=r"expected float32 while JAX's 64-bit mode is off, got float64"):
        FlaxSide("TwoHead", CONFIG, weights=weights)


@pytest.mark.parametrize("model", ["TwoHead", "TwoInTwoOut"])
def test_files_of_old_still_load(model: str) -> None:
    """Written by version 0.1.0; the outputs were computed then."""
    path = GOLDEN / f"{model}.safetensors"
    expected = np.load(GOLDEN / f"{model}.npz")
    inputs = [expected[name] for name in expected.files if name.startswith("x")]
    by_torch = torch_ref.predict(torch_ref.load_model(path), *inputs)
    by_flax = flax_impl.predict(*flax_impl.load_model(path), *inputs)
    for i in range(2):
        np.testing.assert_allclose(by_torch[i], expected[f"output{i}"], rtol=1e-5)
        np.testing.assert_allclose(by_flax[i], expected[f"output{i}"], rtol=1e-5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    TorchSide("TwoHead", CONFIG).save(path)
    return path.read_bytes()


def assert_refused(path: Path) -> None:
    """Both sides refuse the file with the same error, which names it."""
    messages = []
    for package in (torch_ref, flax_impl):
        with pytest.raises(ValueError, match=f"^{path}: ") as caught:
            package.load_model(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_every_flipped_bit_is_found(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "flipped.safetensors"
    generator = np.random.default_rng(0)
    for position in generator.choice(len(written), 150, replace=False):
        flipped = bytearray(written)
        flipped[position] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        assert_refused(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 1000, -1])
def test_truncated_files_are_refused(tmp_path: Path, written: bytes, length: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(written[:length])
    assert_refused(path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(500))
    assert_refused(path)
    from safetensors.numpy import save_file

    for metadata in (None, {"format": "pt"}, {"twohead": "[]"}, {"twohead": "nonsense"}, {"twohead": "{}"}):
        save_file({"a": np.zeros(3)}, path, metadata=metadata)
        assert_refused(path)
    for metadata in (
        {"format": "model/2", "model": "TwoHead", "config": CONFIG},
        {"format": "model/1", "model": "Other", "config": CONFIG},
        {"format": "model/1", "model": ["TwoHead"], "config": CONFIG},
        {"format": "model/1", "model": "TwoHead", "config": {"in_features": 10**12}},
        {"format": "model/1", "model": "TwoHead", "config": {"in_features": 2**31 - 1}},
        {"format": "model/1", "model": "TwoHead", "config": {"unknown": 3}},
        {"format": "model/1", "model": "TwoHead", "config": CONFIG | {"name": "head"}},
        {"format": "model/1", "model": "TwoHead", "config": {}},
        {"format": "model/1", "model": "TwoHead", "config": [1, 2]},
        {"format": "model/1", "model": "TwoHead"},
        {"format": "model/1", "model": "TwoHead", "config": CONFIG | {"activation": "nonsense"}},
        {"format": "model/1", "model": "TwoHead", "config": CONFIG | {"in_features": 3.5}},
    ):
        write_arrays(path, {"a": np.zeros(3, np.float32)}, metadata)
        assert_refused(path)
    huge = CONFIG | {"representation_features": [2**31 - 1] * 3}  # no framework can even say how large that is
    write_arrays(path, {"a": np.zeros(3, np.float32)}, {"format": "model/1", "model": "TwoHead", "config": huge})
    for package in (torch_ref, flax_impl):
        with pytest.raises(ValueError, match=f"^{path}: "):
            package.load_model(path)
    nested = '{"twohead": "' + "[" * 100_000 + '"}'
    header = f'{{"__metadata__": {nested}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert_refused(path)


def test_a_missing_file(tmp_path: Path) -> None:
    for package in (torch_ref, flax_impl):
        with pytest.raises(FileNotFoundError, match=r"none.safetensors: expected a safetensors file, found none$"):
            package.load_model(tmp_path / "none.safetensors")


def test_transposed_arrays_keep_their_values(tmp_path: Path) -> None:
    """Safetensors itself writes memory as it lies, and gives back another matrix."""
    array = np.arange(6.0).reshape(2, 3).T
    write_arrays(tmp_path / "a", {"a": array, "scalar": np.array(3.0)}, {"note": "ü"})
    arrays, metadata = read_arrays(tmp_path / "a")
    np.testing.assert_array_equal(arrays["a"], array)
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"] == 3
    assert metadata == {"note": "ü"}


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as beside:
        beside.write_text("first")
    with pytest.raises(UnicodeEncodeError), replacing(path) as beside:
        beside.write_text("half \udc00", encoding="utf-8")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_many_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    sides = [TorchSide("TwoHead", CONFIG, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda i: sides[i % 4].save(path), range(40)))
    torch_ref.load_model(path)
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_modes_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    with replacing(link) as beside:
        beside.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_float32_bits_survive_both_frameworks() -> None:
    """Negative zero, subnormal numbers and infinities too."""
    weights = TorchSide("TwoHead", CONFIG).weights()
    weights["head0.layer0.bias"][:] = [-0.0, 1e-45, np.inf, -1.1754942e-38]
    port = FlaxSide("TwoHead", CONFIG, weights=weights)
    reference = TorchSide("TwoHead", CONFIG, weights=port.weights())
    assert_same_bits(reference.weights(), weights)
    chex.assert_trees_all_equal(
        jax.tree.map(np.asarray, port.params["head0"]["layer0"]["bias"]), weights["head0.layer0.bias"]
    )
    assert isinstance(reference.model.head0, torch.nn.Module)
