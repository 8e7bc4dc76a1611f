"""The NNX modules: torch, Linen and NNX agree to the last digits, and whatever takes a Linen model takes these."""

import inspect
import re
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings, strategies as st

import flax_impl
import torch_ref
from flax_impl.commands.recipes import MODELS, OPTIMIZERS, Recipe, reference
from flax_impl.models.pure import as_pure, params_of
from flax_impl.parity import largest_difference
from tests.support.cases import nnx_of

BOUND = 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        pytest.param(model, name, marks=[] if (i, name) == (1, "sgd") else [pytest.mark.slow])
        for i, model in enumerate(MODELS)
        for name in OPTIMIZERS
    ],
)
def test_twenty_steps_of_each_optimizer(model: str, optimizer: str, measured: list[str]) -> None:
    """All that the harness looks at, against torch's record; and the ends of both ports against each other."""
    recipe = Recipe(model, "float64", optimizer, steps=20)
    trace, made = reference(recipe), recipe.make(flax_impl)
    linen = recipe.build(flax_impl)
    with jax.numpy_dtype_promotion("standard"):
        report = flax_impl.check_parity(trace, nnx_of(linen), progress=False, **made)
    assert report.passed
    assert report.max_scaled_error is not None
    assert report.max_scaled_error <= BOUND
    start = flax_impl.models.from_numpy(nnx_of(linen), trace.params(0))
    data = {name: array for name, array in trace.batch(0).items() if name != "mask"}
    data = {name: np.nan_to_num(array) for name, array in data.items()}
    fits = {"loss": made["loss"], "optimizer": made["optimizer"], "steps": 20, "batch_size": 8, "progress": False}
    of_linen, of_nnx = (flax_impl.fit(m, start, data, **fits) for m in (linen, nnx_of(linen)))
    held = recipe.build(torch_ref).double()
    torch_ref.models.from_numpy(held, trace.params(0))
    settings_of = recipe.make(torch_ref)
    losses = torch_ref.fit(held, data, **{**fits, "loss": settings_of["loss"], "optimizer": settings_of["optimizer"]})
    weights = torch_ref.models.to_numpy(held)
    ends = [(flax_impl.models.to_numpy(params), losses) for params, losses in (of_linen, of_nnx)]
    worst = max(*(largest_difference(end, weights) for end, _ in ends), largest_difference(ends[1][0], ends[0][0]))
    assert worst <= BOUND
    for _, found in ends:
        assert np.abs(found - losses).max() <= BOUND * np.abs(losses).max()
    measured.append(
        f"torch, Linen and NNX, {model}, 20 steps of {optimizer}, float64: trained weights apart by {worst:.1e}, every "
        f"entry of the harness by {report.max_scaled_error:.1e} (at most 1e-12)"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_fault_in_an_nnx_module_is_found_and_named() -> None:
    recipe = Recipe("two-head", "float64", "adam", steps=3)
    model = nnx_of(recipe.build(flax_impl))
    model.head1.linen = model.head1.linen.clone(activation="relu")
    with jax.numpy_dtype_promotion("standard"):
        report = flax_impl.check_parity(reference(recipe), model, progress=False, **recipe.make(flax_impl))
    assert report.first_divergence is not None
    assert "head1.layer0" in str(report.first_divergence)
    assert "relu" in report.diagnosis[0].text


@pytest.mark.parametrize("model", ["TwoHead", "TwoInTwoOut"])
def test_weights_go_any_way(model: str, tmp_path: Any) -> None:
    """Torch to NNX to Linen and back through files: the same bits."""
    config = {"TwoHead": {"in_features": 3, "head_features": [5]}, "TwoInTwoOut": {"hidden_features": [4, 3]}}[model]
    torch.manual_seed(0)
    first = getattr(torch_ref, model)(**config)
    torch_ref.save_model(tmp_path / "torch.safetensors", first)
    linen, params = flax_impl.load_model(tmp_path / "torch.safetensors")
    held = nnx_of(linen)
    assert jax.tree.structure(held.params) == jax.tree.structure(params)
    nnx.update(held, params)
    flax_impl.save_model(tmp_path / "nnx.safetensors", held, held.params)
    assert (tmp_path / "torch.safetensors").read_bytes() == (tmp_path / "nnx.safetensors").read_bytes()
    back = torch_ref.load_model(tmp_path / "nnx.safetensors")
    for name, array in torch_ref.models.to_numpy(first).items():
        np.testing.assert_array_equal(torch_ref.models.to_numpy(back)[name], array)


@pytest.mark.parametrize("name", ["MLP", "TwoHead", "TwoInTwoOut"])
def test_the_same_arguments_as_linens(name: str) -> None:
    of_linen = inspect.signature(getattr(flax_impl.models if name == "MLP" else flax_impl, name)).parameters
    of_nnx = inspect.signature(getattr(flax_impl.models.nnx, name).__init__).parameters
    assert list(of_nnx) == ["self", *(n for n in of_linen if n not in ("parent", "name")), "rngs"]
    assert all(of_nnx[n].default == of_linen[n].default for n in of_nnx if n not in ("self", "rngs"))


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=5)
def test_first_weights_are_drawn_as_torchs(seed: int) -> None:
    """Uniform up to the bound, biases as well."""
    layer = flax_impl.models.nnx.MLP(400, [300], rngs=nnx.Rngs(seed)).layer0  # pyright: ignore[reportAttributeAccessIssue]
    for drawn in (layer.kernel[...], layer.bias[...]):
        assert np.abs(drawn).max() <= 1 / 20
        assert np.std(drawn) == pytest.approx(1 / 20 / np.sqrt(3), rel=0.15)


def test_a_second_module_of_the_same_structure_compiles_nothing(compilations: list[str]) -> None:
    data = flax_impl.data.synthetic(rows=40, features=4)
    ends = []
    for seed in range(2):
        model = flax_impl.models.nnx.TwoHead(4, [4], [4], rngs=nnx.Rngs(0))
        params = model.params
        if seed:
            compilations.clear()
        ends.append(flax_impl.fit(model, params, data.arrays(), steps=5, batch_size=10, progress=False)[0])
    assert compilations == []
    assert largest_difference(*(flax_impl.models.to_numpy(end) for end in ends)) == 0


def test_replicas_and_prediction_take_a_module() -> None:
    data, model = (
        flax_impl.data.synthetic(rows=40, features=4),
        flax_impl.models.nnx.TwoHead(4, [4], [4], rngs=nnx.Rngs(0)),
    )
    linen = flax_impl.TwoHead(4, [4], [4])
    found = []
    for one in (model, linen):
        params, losses = flax_impl.fit_replicas(one, one.init_params(range(3)), data.arrays(), steps=4, progress=False)
        found.append((losses, *flax_impl.training.predict_replicas(one, params, data.x)))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    state = flax_impl.training.build_optimizer(flax_impl.Adam()).init(model.params)
    batch = {name: array.astype(np.float32) for name, array in data.arrays().items() if name != "t"} | {"t": data.t}
    _, _, losses = flax_impl.train_step(model, model.params, flax_impl.Adam(), state, batch)
    assert losses.shape == (2,)


def test_unusable_modules_are_refused() -> None:
    data = flax_impl.data.synthetic(rows=8, features=4).arrays()

    class Forgetful(nnx.Module):
        def __init__(self) -> None:
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match=r"nothing else that moves, got .*norm\.mean \(BatchStat\)"):
        flax_impl.fit(Forgetful(), params_of(Forgetful()), data, steps=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="model: expected a module of Linen's or NNX's, got"):
        as_pure("model")
    for arguments in ({"in_features": 0}, {"in_features": 3, "activation": "softplus"}):
        messages = []
        for make in (flax_impl.TwoHead, lambda **a: flax_impl.models.nnx.TwoHead(**a, rngs=nnx.Rngs(0))):
            with pytest.raises(ValueError) as caught:  # noqa: PT011 (the messages are compared)
                make(**arguments)  # pyright: ignore[reportArgumentType]
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


class Deep(nnx.Module):
    """Layers in lists, which NNX numbers; with twelve of them, "10" comes before "2"."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 12, width: int = 4) -> None:
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])
        self.head = nnx.Sequential(nnx.Linear(width, 3, rngs=rngs), nnx.elu, nnx.Linear(3, 1, rngs=rngs))

    def __call__(self, x: Any, t: Any = None) -> Any:
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def test_modules_in_lists_are_trained_and_keep_their_places() -> None:
    data, model = flax_impl.data.synthetic(rows=20, features=4), Deep(nnx.Rngs(0))
    x = data.x.astype(np.float32)
    params, losses = flax_impl.fit(model, params_of(model), data.arrays(), steps=3, progress=False)
    assert np.isfinite(losses).all()
    weights = flax_impl.models.to_numpy(params)
    assert "layers.10.weight" in weights
    assert "head.layers.0.bias" in weights
    text_keys = {"layers": {str(n): layer for n, layer in params["layers"].items()}, "head": params["head"]}
    nnx.update(model, params)
    for tree in (params, text_keys):  # as a file has them
        pure: Any = as_pure(model)
        np.testing.assert_allclose(pure.apply({"params": tree}, x), model(x), rtol=1e-5, atol=1e-6)


def test_parameters_that_do_not_fit_are_listed() -> None:
    data, model = (
        flax_impl.data.synthetic(rows=20, features=4),
        flax_impl.models.nnx.TwoHead(4, [4], [4], rngs=nnx.Rngs(0)),
    )
    params = model.params
    params["head0"]["other"] = params["head0"].pop("layer1")
    params["head1"]["layer0"]["bias"] = np.zeros(5, np.float32)
    expected = (
        "params: expected those of the model, got missing head0.layer1.bias; missing head0.layer1.kernel; unexpected "
        "head0.other.bias; unexpected head0.other.kernel; head1.layer0.bias: expected shape [4], got [5]"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        flax_impl.fit(model, params, data.arrays(), steps=1)
